"""Bring a provider's answer to the caller: bytes untouched, usage read on the way.

A JSON answer of up to 1 MiB is read whole before its head is sent, so that its cost can stand
in the head, and so that a provider who breaks off can still be answered for with a 502. All
else goes out chunk by chunk as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Send

from asgi_llmgate._asgi.respond import error_event
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.estimate import complete_usage
from asgi_llmgate.core.forward import answer_headers
from asgi_llmgate.core.meter import Metered, StreamForm, StreamMeter, meter_json
from asgi_llmgate.errors import (
    GatewayError,
    UpstreamBrokenError,
    UpstreamConnectError,
    UpstreamError,
)
from asgi_llmgate.protocols import RawHeaders, UpstreamResponse

__all__ = ["Relay"]

# Above this an answer is an image or a batch of vectors; its caller should not wait for the end.
MAX_HELD_BYTES = 1024 * 1024

_UNTOLD = (b"text/plain", b"application/octet-stream")

# Past this an answer is relayed unmetered; its usage is estimated.
MAX_METERED_BYTES = 32 * 1024 * 1024


class Relay:
    """One answer on its way from the provider to the caller.

    Args:
        context: Gets usage, model, completeness and, for a broken stream, the error code.
        response: Closed by `run`, however it ends.
        send: The caller.
        pooled: The call was made with the operator's key, so what only concerns him stays here.
        withhold_usage: The usage chunk was asked for by us, not by the caller.
        request: The JSON body, for estimates; None if it was not parsed.
        before_last: Called before the last message is sent. Who gets everything has not left,
            whatever the host says afterwards.
    """

    __slots__ = (
        "_meter",
        "before_last",
        "context",
        "pooled",
        "request",
        "response",
        "send",
        "wire_format",
        "withhold_usage",
    )

    def __init__(
        self,
        context: GatewayContext,
        response: UpstreamResponse,
        send: Send,
        *,
        pooled: bool,
        withhold_usage: bool,
        request: dict[str, Any] | None,
        before_last: Callable[[], None],
    ) -> None:
        self.before_last = before_last
        self.context = context
        self.response = response
        self.send = send
        self.pooled = pooled
        self.withhold_usage = withhold_usage
        self.request = request
        # What the provider speaks; all that is metered is metered as this.
        self.wire_format = context.route.format or ""
        self._meter: StreamMeter | None = None

    async def run(self) -> None:
        """Relay everything.

        Raises:
            UpstreamError: nothing was sent yet, and nothing of this answer may be.
            UpstreamBrokenError: the answer ended early after it had begun to go out.
        """
        response = self.response
        status = response.status
        try:
            if 300 <= status < 400:
                raise UpstreamError(
                    f"The provider answered with a redirect ({status}), which is never followed."
                )
            if self.pooled and status in (401, 403):
                raise UpstreamError(
                    "The provider refused the gateway's own key. The operator has to renew it.",
                    code="upstream_auth",
                )
            content_type = _value(response.headers, b"content-type").lower()
            encoding = _value(response.headers, b"content-encoding")
            if encoding not in (b"", b"identity"):
                # Not asked for, and nothing here can read it: neither counted nor added to.
                await self._through(status)
            elif status < 400 and self._is_stream(content_type):
                await self._stream(status, content_type)
            elif b"json" in content_type and self.context.route.format is not None:
                await self._whole(status)
            else:
                await self._through(status)
        finally:
            self._account()
            await response.aclose()

    def _is_stream(self, content_type: bytes) -> bool:
        if content_type.startswith((b"text/event-stream", b"application/vnd.amazon.eventstream")):
            return True
        if b"json" in content_type:
            # Gemini without `alt=sse` streams a JSON array.
            return bool(self.context.route.is_stream)
        return self._may_be_stream(content_type)

    def _may_be_stream(self, content_type: bytes) -> bool:
        """Small servers do not always say what they send."""
        is_untold = not content_type or content_type.startswith(_UNTOLD)
        return self.context.is_stream and is_untold

    async def _stream(self, status: int, content_type: bytes) -> None:
        context, response, send = self.context, self.response, self.send
        context.is_stream = True
        # What is sent may be shorter by a usage chunk, or longer by an error.
        headers = [
            header
            for header in answer_headers(response.headers, pooled=self.pooled)
            if header[0] != b"content-length"
        ]
        headers.append((b"x-accel-buffering", b"no"))
        meter = self._meter = StreamMeter(
            self.wire_format,
            withhold_usage=self.withhold_usage,
            provider=context.target_provider,
        )
        await send({"type": "http.response.start", "status": status, "headers": headers})
        feed, read = meter.feed, response.read
        try:
            while chunk := await read():
                if relayed := feed(chunk):
                    await send({"type": "http.response.body", "body": relayed, "more_body": True})
        except UpstreamBrokenError:
            message = "The provider broke off the stream."
            await self._end_broken("upstream_connect", message, content_type)
            return
        except GatewayError as error:  # a timer ran out
            await self._end_broken(error.code, str(error), content_type)
            return
        if rest := meter.rest():
            await send({"type": "http.response.body", "body": rest, "more_body": True})
        if meter.is_cut_short:
            message = "The provider ended the stream too early."
            await self._end_broken("upstream_connect", message, content_type)
            return
        self.before_last()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end_broken(self, code: str, message: str, content_type: bytes) -> None:
        """End a stream so that no SDK takes it for a whole one.

        Raises:
            UpstreamBrokenError: nothing that could be sent now would be read as an error.
        """
        context, meter = self.context, self._meter
        assert meter is not None
        context.error_code = code
        form, opening = meter.form, meter.opening
        if form is None:
            form = _form_of(content_type)
            opening = b"[" if form == "array" else b""
        if opening is None:
            raise UpstreamBrokenError(message)
        event = error_event(
            context.route.dialect,
            context.route.format,
            code=code,
            message=message,
            request_id=context.id,
            form=form,
        )
        self.before_last()
        await self.send({"type": "http.response.body", "body": opening + event})

    async def _whole(self, status: int) -> None:
        context, response = self.context, self.response
        chunks: list[bytes] = []
        size = 0
        try:
            while chunk := await response.read():
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_HELD_BYTES:
                    await self._through(status, chunks)
                    return
        except UpstreamBrokenError:
            raise UpstreamConnectError(
                "The provider broke off before its answer was complete."
            ) from None
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if status < 400:
            self._note(meter_json(self.wire_format, body, context.target_provider))
        context.complete = True
        headers = [
            header
            for header in answer_headers(response.headers, pooled=self.pooled)
            if header[0] != b"content-length"
        ]
        headers.append((b"content-length", b"%d" % size))
        self.before_last()
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def _through(self, status: int, held: list[bytes] | None = None) -> None:
        """Relay chunk by chunk: audio, files, and answers too large to hold."""
        context, response, send = self.context, self.response, self.send
        headers = answer_headers(response.headers, pooled=self.pooled)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        seen = held or []
        size = sum(map(len, seen))
        for chunk in seen:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        is_metered = held is not None
        while chunk := await response.read():
            size += len(chunk)
            if is_metered and size <= MAX_METERED_BYTES:
                seen.append(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.before_last()
        await send({"type": "http.response.body", "body": b""})
        context.complete = True
        if is_metered and size <= MAX_METERED_BYTES and status < 400:
            body = b"".join(seen)
            self._note(meter_json(self.wire_format, body, context.target_provider))

    def _account(self) -> None:
        """Count a stream by what arrived, also when the caller left or the provider broke off."""
        if self._meter is not None:
            metered = self._meter.close()
            self.context.complete = metered.complete and not metered.failed
            self._note(metered)

    def _note(self, metered: Metered) -> None:
        context = self.context
        if metered.model is not None:
            if context.directives.model_override is None:
                context.target_model = metered.model
            else:
                context.billed_model = metered.model
        context.usage = complete_usage(
            metered, self.wire_format, self.request, context.target_model
        )


def _form_of(content_type: bytes) -> StreamForm:
    if content_type.startswith(b"application/vnd.amazon.eventstream"):
        return "frames"
    return "array" if b"json" in content_type else "events"


def _value(headers: RawHeaders, name: bytes) -> bytes:
    for key, value in headers:
        if key == name:
            return value
    return b""
