"""One upstream call for one `Idempotency-Key`, however often it is sent.

    new ──claim──▶ running ──answer below 500──▶ kept ten minutes: given again, byte for byte
                      │
                      └── 5xx, no answer ──▶ forgotten: the next one calls

Keys belong to a tenant. The same key with another body is a 422. Sources: the draft
`draft-ietf-httpapi-idempotency-key-header`, and how Stripe does it; unlike there an answer of 500
or more is not kept, for a model call that failed has no effect to protect.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate._asgi.disconnect import DisconnectWatch
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.errors import ClientDisconnectedError, InvalidRequestError
from asgi_llmgate.middleware._base import GatewayMiddleware

__all__ = ["IdempotencyMiddleware"]

HEADER = b"idempotency-key"
MAX_KEY_BYTES = 255

KEPT_S = 600.0
# A key is a promise of ten minutes, so what is kept is bounded by its size, oldest first.
MAX_KEPT_BYTES = 64 * 1024 * 1024
# Larger answers are given once: they are images and audio.
MAX_ANSWER_BYTES = 8 * 1024 * 1024


class IdempotencyError(InvalidRequestError):
    status = 422
    code = "invalid_header"


@dataclass(slots=True)
class _Kept:
    """An answer, complete or on its way."""

    digest: bytes
    done: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[Message] | None = None
    size: int = 0
    until_s: float = 0.0
    call_id: str = ""


class IdempotencyMiddleware(GatewayMiddleware):
    """Answer a repeated `Idempotency-Key` with the first answer.

    Alone: keys of everybody are one set, since nobody has set a principal. Stacked: of the tenant.
    Who comes while the first call runs waits for its end. Kept in the memory of one process: with
    several workers the same key may reach another one.

    Args:
        app: The application inside.
        kept_s: How long an answer is given again.
        clock: Monotonic seconds.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    must_be_inside = ("LoggingMiddleware", "AuthMiddleware", "TaggingMiddleware")

    def __init__(
        self,
        app: ASGIApp,
        *,
        kept_s: float = KEPT_S,
        clock: Callable[[], float] = time.monotonic,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self.kept_s = kept_s
        self.clock = clock
        self._kept: dict[tuple[str, bytes], _Kept] = {}
        self._bytes = 0

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        key = context.headers.get(HEADER)
        if key is None or not context.route.is_json:
            await self.app(scope, receive, send)
            return
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise InvalidRequestError(
                f"Idempotency-Key must have 1 to {MAX_KEY_BYTES} characters.",
                code="invalid_header",
                param="Idempotency-Key",
            )
        body = await context.body.read()
        receive = context.body.replay(receive)
        tenant = context.principal.tenant if context.principal is not None else ""
        name = tenant, key
        digest = hashlib.sha256(f"{scope['path']}\0".encode() + body).digest()
        while (kept := self._kept.get(name)) is not None:
            if kept.digest != digest and not self._is_over(kept):
                raise IdempotencyError(
                    "This Idempotency-Key was used with another request. Use a new key for a new "
                    "request.",
                    param="Idempotency-Key",
                )
            if not kept.done.is_set():
                await self._wait(kept, context, receive)
                continue
            if kept.messages is not None and not self._is_over(kept):
                await self._give_again(kept, context, send)
                return
            self._forget(name)
        await self._first(name, digest, context, scope, receive, send)

    async def _first(
        self,
        name: tuple[str, bytes],
        digest: bytes,
        context: GatewayContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        kept = self._kept[name] = _Kept(digest, call_id=context.id)
        messages: list[Message] = []
        size = 0
        is_whole = False

        async def keeping(message: Message) -> None:
            nonlocal size, is_whole
            if size <= MAX_ANSWER_BYTES:
                messages.append(message)
                size += len(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                is_whole = True
            await send(message)

        try:
            await self.app(scope, receive, keeping)
        finally:
            good = is_whole and size <= MAX_ANSWER_BYTES and messages[0].get("status", 500) < 500
            if good and context.error_code is None and not context.client_left:
                kept.messages, kept.size = messages, size
                kept.until_s = self.clock() + self.kept_s
                self._bytes += size
                self._make_room()
            else:
                self._kept.pop(name, None)
            kept.done.set()

    async def _wait(self, kept: _Kept, context: GatewayContext, receive: Receive) -> None:
        watch = DisconnectWatch(receive)
        try:
            await kept.done.wait()
        except asyncio.CancelledError:
            if watch.caused():
                context.client_left = True
                raise ClientDisconnectedError from None
            raise
        finally:
            watch.stop()

    async def _give_again(self, kept: _Kept, context: GatewayContext, send: Send) -> None:
        assert kept.messages is not None
        # Nothing was paid for this call: the record points to the one that was.
        context.original_id = kept.call_id
        context.metered = True
        context.complete = True
        for message in kept.messages:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"idempotent-replayed", b"true")]
                message = {**message, "headers": headers}
            await send(message)

    def _is_over(self, kept: _Kept) -> bool:
        return kept.done.is_set() and self.clock() >= kept.until_s

    def _forget(self, name: tuple[str, bytes]) -> None:
        kept = self._kept.pop(name)
        self._bytes -= kept.size

    def _make_room(self) -> None:
        for name, kept in list(self._kept.items()):
            if not kept.done.is_set():
                continue
            if self._bytes <= MAX_KEPT_BYTES and self.clock() < kept.until_s:
                return  # The rest is younger.
            self._forget(name)
