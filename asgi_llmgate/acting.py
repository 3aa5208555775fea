"""For whom the host's own code calls models: whoever made the request that it is answering."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.types import Principal

__all__ = ["HostRequestMiddleware", "acting_as", "acting_principal", "host_request"]

_principal: ContextVar[Principal | None] = ContextVar("llmgate_principal", default=None)
_scope: ContextVar[Scope | None] = ContextVar("llmgate_host_request", default=None)


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Make calls through `gate.http_client()` in this block those of `principal`.

    For jobs and scripts, and for whatever no request stands behind.
    """
    token = _principal.set(principal)
    try:
        yield
    finally:
        _principal.reset(token)


@contextmanager
def host_request(scope: Scope) -> Iterator[None]:
    """Remember that the code in this block answers the request of `scope`."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


class HostRequestMiddleware:
    """Lets `gate.http_client()` know which request of the host it is used in.

        app.add_middleware(HostRequestMiddleware)

    Costs nothing: who is logged in is asked when a call is made.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        with host_request(scope):
            await self.app(scope, receive, send)


async def acting_principal(
    ask: Callable[[Scope], Awaitable[Principal | None]],
) -> Principal | None:
    """Return for whom the running code acts: `acting_as`, else who made the host's request."""
    principal = _principal.get()
    if principal is not None:
        return principal
    scope = _scope.get()
    return None if scope is None else await ask(scope)
