"""One upstream call for one `Idempotency-Key`, however often it is sent.

    new ──claim──▶ running ──an answer──▶ kept ten minutes: given again, byte for byte
                      │
                      └── 5xx, 429 …, no answer ──▶ forgotten: the next one calls

Within a process all who come meanwhile wait for the first one; workers ask each other through the
store of the cache (`_idempotent.py`).

Keys belong to a tenant. The same key with another body is a 422. Sources: the draft
`draft-ietf-httpapi-idempotency-key-header`, and how Stripe does it; unlike there an answer of 500
or more is not kept, for a model call that failed has no effect to protect; nor is one that a moment
later, or with a good key, would be another.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate._asgi.disconnect import DisconnectWatch
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.retry import RETRYABLE
from asgi_llmgate.errors import ClientDisconnectedError, InvalidRequestError
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware._idempotent import Answered, SharedAnswers, Taken
from asgi_llmgate.middleware._lease import Lease
from asgi_llmgate.protocols import CacheStore
from asgi_llmgate.types import PrincipalKind

__all__ = ["IdempotencyMiddleware"]

T = TypeVar("T")

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
    Who comes while the first call runs waits for its end. A store that fails costs no call, but
    then two workers may both make one.

    Args:
        app: The application inside.
        store: Where workers tell each other, that of the cache; None, or one that is not shared,
            keeps answers in the memory of one process.
        secret: What is in the store is signed with it. Needed with a store.
        kept_s: How long an answer is given again.
        clock: Monotonic seconds.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    must_be_inside = ("LoggingMiddleware", "AuthMiddleware", "TaggingMiddleware")

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: CacheStore | None = None,
        secret: bytes = b"",
        kept_s: float = KEPT_S,
        clock: Callable[[], float] = time.monotonic,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self.kept_s = kept_s
        self.clock = clock
        if store is not None and store.is_shared and not secret:
            raise ValueError("a store that others use needs a secret")
        self._shared: SharedAnswers | None = None
        if store is not None and store.is_shared:
            self._shared = SharedAnswers(store, secret, kept_s=kept_s)
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
        name = _whose(context), key
        digest = hashlib.sha256(f"{scope['path']}\0".encode() + body).digest()
        while (kept := self._kept.get(name)) is not None:
            if kept.digest != digest and not self._is_over(kept):
                raise _used()
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
        lease: Lease | None = None
        shared, shared_key = self._shared, CacheKey("")
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

        good = False
        try:
            if shared is not None:
                shared_key = shared.key_of(*name)
                claimed = await self._claimed(shared.claim(shared_key, digest), context, receive)
                match claimed:
                    case Answered():
                        if claimed.digest != digest:
                            raise _used()
                        self._adopt(kept, claimed)
                        await self._give_again(kept, context, send)
                        return
                    case Taken():
                        raise _used()
                lease = claimed
            # Whoever watched for the caller's leaving may have got the body.
            await self.app(scope, context.body.replay(receive, again=True), keeping)
            good = is_whole and size <= MAX_ANSWER_BYTES and _is_final(messages[0])
            good = good and context.error_code is None and not context.client_left
            if good:
                kept.messages, kept.size = messages, size
                kept.until_s = self.clock() + self.kept_s
                self._bytes += size
                self._make_room()
        finally:
            if kept.messages is None:
                self._kept.pop(name, None)
            kept.done.set()
            if lease is not None and not good:
                await lease.release()
        if good and lease is not None and shared is not None:
            await shared.keep(lease, shared_key, digest, messages, context.id)

    async def _claimed(
        self, claiming: Coroutine[Any, Any, T], context: GatewayContext, receive: Receive
    ) -> T:
        """Return what comes of `claiming`, unless the caller leaves before.

        Raises:
            ClientDisconnectedError: he did.
        """
        watch = DisconnectWatch(receive)
        try:
            return await claiming
        except asyncio.CancelledError:
            if watch.caused():
                context.client_left = True
                raise ClientDisconnectedError from None
            raise
        finally:
            watch.stop()

    def _adopt(self, kept: _Kept, answered: Answered) -> None:
        """Keep here, too, what another worker has answered."""
        kept.messages, kept.call_id = answered.messages, answered.call_id
        kept.size = len(answered.messages[1]["body"])
        kept.until_s = self.clock() + answered.left_s
        self._bytes += kept.size
        self._make_room()

    async def _wait(self, kept: _Kept, context: GatewayContext, receive: Receive) -> None:
        await self._claimed(kept.done.wait(), context, receive)

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


def _whose(context: GatewayContext) -> str:
    principal = context.principal
    if principal is None:
        return ""
    # A configured name could look like that of a caller known by his provider key only.
    return f"{'byok' if principal.kind is PrincipalKind.BYOK else 'own'}:{principal.tenant}"


def _is_final(start: Message) -> bool:
    """Tell whether the same request would get the same answer again."""
    status: int = start["status"]
    return status < 500 and status not in RETRYABLE and status not in (401, 402, 403)


def _used() -> IdempotencyError:
    return IdempotencyError(
        "This Idempotency-Key was used with another request. Use a new key for a new request.",
        param="Idempotency-Key",
    )
