"""Make a call whose provider speaks another format than its caller.

The request is written anew; the answer is translated as it comes, event by event, and metered on
the provider's own bytes, as those of every other call. What the provider refuses reaches the
caller in his dialect, with the provider's status and `Retry-After`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.forward import answer_headers
from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.core.meter import StreamMeter, meter_json
from asgi_llmgate.core.targets import Target
from asgi_llmgate.dispatch.relay import MAX_METERED_BYTES, Relay
from asgi_llmgate.errors import (
    GatewayError,
    UpstreamBrokenError,
    UpstreamConnectError,
    UpstreamError,
)
from asgi_llmgate.protocols import RawHeaders, UpstreamResponse
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.embeddings import EmbeddingsTranslation, can_translate_embeddings
from asgi_llmgate.providers.inner import Encoded, TargetInfo
from asgi_llmgate.providers.provider_errors import ProviderError
from asgi_llmgate.providers.translate import StreamTranslation, Translation

__all__ = ["TranslatedCall", "TranslatedRelay", "neutral_headers", "translated_call"]

# What only the provider of the caller's own dialect understands, or should know.
_OF_A_DIALECT = (
    b"anthropic-",
    b"openai-",
    b"x-goog-",
    b"x-stainless-",
    b"x-amz",
    b"amz-",
    b"x-ms-",
)
_OF_A_BODY = frozenset({b"accept", b"content-type", b"content-encoding"})

# Beside those: the answer has another body than the one these describe.
_OF_AN_ANSWER = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"x-amzn-errortype", b"etag"}
)

DROPPED_HEADER = b"llmgate-dropped-params"
MAX_DROPPED_NAMES = 32
# Names of fields are the caller's to choose, and a header is not a place for everything.
_ODD = re.compile(r"[^A-Za-z0-9_.\[\]-]")

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"


@dataclass(slots=True)
class TranslatedCall:
    """A request as its provider gets it, and what will translate the answer.

    Args:
        target: With the path of the provider's format.
        query: Of that path; the caller's own is left out.
        as_array: A Gemini caller streams without `alt=sse`, and gets a JSON array.
    """

    target: Target
    query: bytes
    request: dict[str, Any]
    body: bytes
    headers: RawHeaders
    dropped: list[str]
    translation: Translation | EmbeddingsTranslation
    as_array: bool = False


def neutral_headers(raw_headers: Sequence[tuple[bytes, bytes]]) -> RawHeaders:
    """Return the caller's headers without those that belong to his dialect."""
    kept = []
    for name, value in raw_headers:
        lower = name.lower()
        if lower not in _OF_A_BODY and not lower.startswith(_OF_A_DIALECT):
            kept.append((name, value))
    return kept


def translated_call(
    target: Target,
    context: GatewayContext,
    request: dict[str, Any],
    query: bytes,
    *,
    is_strict: bool,
) -> TranslatedCall:
    """Translate `request` for `target`, whose format is not that of the route.

    Args:
        query: The caller's, as ASGI has it.

    Raises:
        TranslationError: content has no counterpart there; or, if strict, a parameter.
    """
    route, provider = context.route, target.provider
    source, wire_format, model = route.format or "", target.format or "", target.model or ""
    wanted = context.directives.stream_usage
    info = TargetInfo(
        model,
        provider.id,
        capabilities_of(model),
        strict=is_strict,
        stream_usage=provider.stream_usage if wanted is None else wanted,
        content_must_be_string=provider.content_must_be_string,
    )
    as_array = False
    translation: Translation | EmbeddingsTranslation
    encoded: Encoded
    if can_translate_embeddings(source, wire_format):
        translation = EmbeddingsTranslation(source, wire_format)
        encoded = translation.request(request, info, model=route.model)
    else:
        if wanted and source == "openai-chat" and context.is_stream:
            options = request.get("stream_options")
            options = options if isinstance(options, dict) else {}
            request = {**request, "stream_options": {**options, "include_usage": True}}
        as_array = source == "gemini" and b"alt=sse" not in query.split(b"&")
        translation = Translation(
            source, wire_format, call_id=context.id, created=context.started_at_us // 1_000_000
        )
        encoded = translation.request(request, info, model=route.model, stream=route.is_stream)
    path, _, own_query = encoded.path.partition("?")
    headers = [(b"content-type", JSON)]
    headers += [(name.encode(), value.encode()) for name, value in encoded.headers.items()]
    return TranslatedCall(
        Target(provider, target.model, target.format, target.base_url, path),
        own_query.encode(),
        encoded.body,
        dumps(encoded.body),
        headers,
        encoded.dropped,
        translation,
        as_array,
    )


class TranslatedRelay(Relay):
    """An answer on its way to a caller of another dialect; see `Relay`."""

    __slots__ = ("_call",)

    def __init__(
        self,
        context: GatewayContext,
        response: UpstreamResponse,
        send: Send,
        call: TranslatedCall,
        *,
        pooled: bool,
        before_last: Callable[[], None],
    ) -> None:
        super().__init__(
            context,
            response,
            send,
            pooled=pooled,
            withhold_usage=False,
            request=call.request,
            before_last=before_last,
        )
        self.wire_format = call.target.format or ""
        self._call = call

    def _is_stream(self, content_type: bytes) -> bool:
        if content_type.startswith((b"text/event-stream", b"application/vnd.amazon.eventstream")):
            return True
        return self._may_be_stream(content_type)

    async def _stream(self, status: int, content_type: bytes) -> None:
        translation = self._call.translation
        if not isinstance(translation, Translation):
            raise UpstreamError("The provider answered with a stream where none was asked for.")
        context, send, read = self.context, self.send, self.response.read
        context.is_stream = True
        meter = self._meter = StreamMeter(self.wire_format, provider=context.target_provider)
        stream = translation.stream(as_array=self._call.as_array)
        is_started = False
        broken: GatewayError | None = None
        try:
            while stream.failed is None and (chunk := await read()):
                meter.feed(chunk)
                if out := stream.feed(chunk):
                    if not is_started:
                        if stream.failed is not None and not stream.begun:
                            break
                        is_started = True
                        await self._start_stream()
                    await send({"type": "http.response.body", "body": out, "more_body": True})
        except UpstreamBrokenError:
            broken = UpstreamConnectError("The provider broke off the stream.")
        except GatewayError as error:  # a timer ran out
            broken = error
        meter.rest()
        if stream.failed is not None and not is_started:
            await self._refuse(stream.failed, translation.error_body(stream.failed))
            return
        last = b""
        if stream.failed is None:
            last = self._end(stream, broken)
        if not is_started:
            if stream.failed is not None and not stream.begun:
                # Nothing of an answer arrived, so this can still be told by a status.
                raise broken or UpstreamConnectError("The provider ended the stream too early.")
            await self._start_stream()
        self.before_last()
        await send({"type": "http.response.body", "body": last, "more_body": False})

    def _end(self, stream: StreamTranslation, broken: GatewayError | None) -> bytes:
        """Return the end of the stream: the dialect's own, or an error event."""
        context = self.context
        if broken is not None and not stream.complete:
            context.error_code = broken.code
            error = ProviderError(broken.status, "server", str(broken), code=broken.code)
            return stream.fail(error)
        last = stream.close()
        if stream.failed is not None:
            context.error_code = "upstream_connect"
        return last

    async def _start_stream(self) -> None:
        headers = self._answer_headers(JSON if self._call.as_array else EVENTS)
        headers.append((b"cache-control", b"no-cache"))
        headers.append((b"x-accel-buffering", b"no"))
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _whole(self, status: int) -> None:
        await self._through(status)

    async def _through(self, status: int, held: list[bytes] | None = None) -> None:
        """Hold the whole answer: it can only be translated as one."""
        context, translation = self.context, self._call.translation
        body = await self._read()
        if status >= 400:
            error, refusal = translation.error(status, self.response.headers, body)
            await self._refuse(error, refusal)
            return
        try:
            answer = loads(body)
        except JSONError:
            answer = None
        if not isinstance(answer, dict):
            raise UpstreamError("The provider's answer is not a JSON object.")
        self._note(meter_json(self.wire_format, body, context.target_provider))
        if isinstance(translation, Translation):
            refused = translation.refusal(answer)
            if refused is not None:
                await self._refuse(*refused)
                return
        translated = dumps(translation.response(answer))
        context.complete = True
        await self._answer(200, translated, self._answer_headers(JSON))

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            while chunk := await self.response.read():
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_METERED_BYTES:
                    raise UpstreamError("The provider's answer is too large to be translated.")
        except UpstreamBrokenError:
            raise UpstreamConnectError(
                "The provider broke off before its answer was complete."
            ) from None
        return b"".join(chunks)

    async def _refuse(self, error: ProviderError, body: dict[str, Any]) -> None:
        headers = self._answer_headers(JSON)
        if error.retry_after_s is not None:
            headers = [header for header in headers if header[0] != b"retry-after"]
            headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
        await self._answer(error.status, dumps(body), headers)

    async def _answer(self, status: int, body: bytes, headers: RawHeaders) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        self.before_last()
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _answer_headers(self, content_type: bytes) -> RawHeaders:
        headers = [(b"content-type", content_type)]
        answered = answer_headers(self.response.headers, pooled=self.pooled)
        headers += [header for header in answered if header[0] not in _OF_AN_ANSWER]
        if self._call.dropped:
            headers.append((DROPPED_HEADER, dropped_names(self._call.dropped)))
        return headers


def dropped_names(names: Sequence[str]) -> bytes:
    """Return the names of fields as one header value, bounded and printable."""
    shown = [_ODD.sub("?", name[:64]) for name in names[:MAX_DROPPED_NAMES]]
    if len(names) > MAX_DROPPED_NAMES:
        shown.append(f"and {len(names) - MAX_DROPPED_NAMES} more")
    return ", ".join(shown).encode()
