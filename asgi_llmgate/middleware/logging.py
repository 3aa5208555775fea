"""Write one record per LLM call."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate._asgi.headers import gateway_headers
from asgi_llmgate._asgi.respond import send_error
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.estimate import complete_usage
from asgi_llmgate.core.meter import Metered, StreamMeter, meter_json
from asgi_llmgate.core.tags import derive_tags
from asgi_llmgate.errors import ClientDisconnectedError, GatewayError
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.protocols import LogSink, Price
from asgi_llmgate.types import CallRecord

__all__ = ["LoggingMiddleware"]

logger = logging.getLogger("asgi_llmgate")

# A 128k-token prompt is ~0.5 MB: most requests are kept whole, a pasted book is cut.
DEFAULT_MAX_BODY_BYTES = 256 * 1024

# Past this an answer is relayed unmetered; its usage is estimated.
MAX_METERED_BYTES = 32 * 1024 * 1024

MAX_MODEL_CHARS = 256

# nginx's status for "the client closed the request before an answer".
CLIENT_LEFT = 499


class LoggingMiddleware(GatewayMiddleware):
    """Hand a `CallRecord` to `sink` when a call is over, however it ended.

    Alone: in front of any LLM-shaped endpoint; reads model, usage and cost off the bytes that
    pass. Stacked: outermost but for hygiene, so that refusals are recorded too; usage comes from
    whoever called the provider.

    Responses are forwarded first and looked at afterwards; none is delayed or changed, but for
    the `LLMGate-*` response headers. `sink.write` never blocks and never raises.

    Args:
        app: The application inside.
        sink: Where records go. Yours to close.
        price: Turns usage into nano-dollars; None logs no cost.
        max_body_bytes: How much of each body a record keeps; 0 keeps none, None all.
        provider: Recorded for calls whose provider nobody inside names (`vllm`, for example).
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sink: LogSink,
        price: Price | None = None,
        max_body_bytes: int | None = DEFAULT_MAX_BODY_BYTES,
        provider: str | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self.sink = sink
        self.price = price
        self.max_body_bytes = max_body_bytes
        self.provider = provider

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        recorder = Recorder(context, send, self.price, self.max_body_bytes)
        try:
            _ = context.directives  # a malformed header is refused, and the refusal recorded
            await self.app(scope, receive, recorder)
        except ClientDisconnectedError:
            context.client_left = True
        except GatewayError as error:
            if recorder.status is not None:
                raise
            await send_error(error, context, recorder)
        except Exception:
            # A bug of ours or of the app inside. The caller gets an answer in his dialect, and
            # nothing of the exception, whose text may hold anything.
            logger.exception("call %s failed", context.id, extra={"request_id": context.id})
            if recorder.status is not None:
                raise
            await send_error(GatewayError("The gateway failed."), context, recorder)
        finally:
            self.sink.write(recorder.record())

    async def _handle_outermost(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Alone: nobody inside will tell what was asked, so read it here."""
        context.target_provider = self.provider
        if context.route.is_json:
            try:
                await context.body.read()
            except ClientDisconnectedError:
                return
            except GatewayError as error:
                await send_error(error, context, send)
                return
            receive = context.body.replay(receive)
            request = await peek_request(context) or {}
            model = request.get("model", context.route.model)
            context.model_requested = context.target_model = (
                model if isinstance(model, str) else None
            )
            context.is_stream = context.route.is_stream is True or request.get("stream") is True
        await self.handle(context, scope, receive, send)


async def peek_request(context: GatewayContext) -> dict[str, Any] | None:
    """Return the JSON body, if it is one; a bad one is for the app inside to refuse."""
    try:
        return await context.body.json()
    except GatewayError:
        return None


class Recorder:
    """The `send` of one call: forwards each message, then notes what it said."""

    __slots__ = (
        "_cap",
        "_chunks",
        "_context",
        "_finished",
        "_kept",
        "_meter",
        "_price",
        "_send",
        "_whole",
        "response_bytes",
        "status",
    )

    def __init__(
        self, context: GatewayContext, send: Send, price: Price | None, cap: int | None
    ) -> None:
        self._context = context
        self._send = send
        self._price = price
        self._cap = cap
        self._chunks: list[bytes] = []
        self._kept = 0
        self._finished = False
        self._meter: StreamMeter | None = None
        # Without a meter inside, a JSON answer is needed whole to read its usage.
        self._whole: list[bytes] | None = None
        self.response_bytes = 0
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            body: bytes = message.get("body", b"")
            if body:
                if self._context.first_byte_ns is None:
                    self._context.first_byte_ns = time.perf_counter_ns()
                await self._send(message)
                self._note(body)
            else:
                await self._send(message)
            if not message.get("more_body", False):
                self._finished = True
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            await self._send(self._started(message))
        else:
            await self._send(message)

    def _started(self, message: Message) -> Message:
        context = self._context
        headers = message.get("headers", ())
        if context.metered:
            context.set_cost(self._price)
        elif context.is_stream and message["status"] < 400:
            self._meter = StreamMeter(context.route.format or "")
        else:
            self._whole = []
        return {**message, "headers": [*headers, *gateway_headers(context)]}

    def _note(self, body: bytes) -> None:
        self.response_bytes += len(body)
        if self._cap is None or self._kept < self._cap:
            self._chunks.append(body)
            self._kept += len(body)
        if self._meter is not None:
            self._meter.feed(body)
        elif self._whole is not None and self.response_bytes <= MAX_METERED_BYTES:
            self._whole.append(body)

    def _meter_alone(self) -> None:
        """Fill in what the innermost part writes in a whole stack."""
        context = self._context
        metered: Metered | None = None
        wire_format = context.route.format or ""
        if self._meter is not None:
            metered = self._meter.close()
            context.complete = self._finished and metered.complete
        else:
            context.complete = self._finished
            if self._whole is not None and self.status is not None and self.status < 400:
                metered = meter_json(wire_format, b"".join(self._whole))
        if metered is not None:
            request = context.body.parsed
            context.target_model = metered.model or context.target_model
            context.usage = complete_usage(metered, wire_format, request, context.target_model)

    def record(self) -> CallRecord:
        now = time.perf_counter_ns()
        context = self._context
        if not context.metered:
            self._meter_alone()
        context.set_cost(self._price)
        route = context.route
        body = context.body
        status = self.status
        if status is None and context.client_left:
            status = CLIENT_LEFT
        request_body = body.original
        response_body: bytes | None = b"".join(self._chunks) if self._chunks else None
        cap = self._cap
        directives = context.directives_or_default
        request_truncated = response_truncated = False
        if cap is not None:
            if request_body is not None and len(request_body) > cap:
                request_body, request_truncated = request_body[:cap], True
            if response_body is not None and self.response_bytes > cap:
                response_body, response_truncated = response_body[:cap], True
        if directives.omit_request or cap == 0:
            request_body = None
        # A provider that refuses a key likes to quote it.
        is_refusal = status in (401, 403) and context.error_code is None
        if directives.omit_response or cap == 0 or is_refusal:
            response_body = None
        if context.model_requested is None:
            # Refused before anybody asked for it; who looks for refusals looks by model, too.
            context.model_requested = _model_in(context)
        usage = context.usage
        tags = context.tags
        if tags is None:
            policy = context.policy
            takes_word = policy is None or policy.takes_word
            tags = derive_tags(context.principal, directives, body.parsed, takes_word=takes_word)
        principal = context.principal
        first = context.first_byte_ns
        return CallRecord(
            id=context.id,
            tenant=principal.tenant if principal else None,
            principal_kind=principal.kind.value if principal else None,
            principal_id=principal.id if principal else None,
            started_at_us=context.started_at_us,
            duration_ms=(now - context.started_ns) / 1e6,
            first_byte_ms=None if first is None else (first - context.started_ns) / 1e6,
            dialect=route.dialect.value,
            format=route.format,
            route=route.name,
            provider=context.target_provider,
            model_requested=clipped(context.model_requested),
            model=clipped(context.target_model),
            status=status,
            error_code=context.error_code,
            is_stream=context.is_stream,
            complete=context.complete,
            client_left=context.client_left,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            cache_read_tokens=usage.cache_read_tokens if usage else None,
            cache_write_tokens=usage.cache_write_tokens if usage else None,
            cache_write_1h_tokens=usage.cache_write_1h_tokens if usage else None,
            reasoning_tokens=usage.reasoning_tokens if usage else None,
            input_audio_tokens=usage.input_audio_tokens if usage else None,
            output_audio_tokens=usage.output_audio_tokens if usage else None,
            usage_estimated=usage.estimated if usage else False,
            cost_nanousd=context.cost_nanousd,
            cache=context.cache.value if context.cache else None,
            attempts=tuple(context.attempts),
            user_id=tags.user_id,
            user_source=tags.user_source,
            user_trust=tags.user_trust,
            session_id=tags.session_id,
            session_path=tags.session_path,
            session_name=tags.session_name,
            properties=tags.properties,
            request_bytes=body.received_bytes,
            response_bytes=self.response_bytes,
            request_body=request_body,
            response_body=response_body,
            request_truncated=request_truncated,
            response_truncated=response_truncated,
            cache_reason=context.cache_reason,
            saved_nanousd=context.saved_nanousd,
            saved_ms=context.saved_ms,
            original_id=context.original_id,
            trace_id=tags.trace_id,
        )


def _model_in(context: GatewayContext) -> str | None:
    parsed = context.body.parsed
    named = context.route.model or (parsed.get("model") if parsed is not None else None)
    return named if isinstance(named, str) else None


def clipped(name: str | None) -> str | None:
    """Return a model's name, bounded: it comes from a request, or from a provider."""
    return name if name is None else name[:MAX_MODEL_CHARS]
