"""What every middleware does before its own work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate._asgi.respond import send_error
from asgi_llmgate.context import SCOPE_KEY, GatewayContext
from asgi_llmgate.core.routes import find_route, route_for_format
from asgi_llmgate.errors import ClientDisconnectedError, ConfigurationError, GatewayError
from asgi_llmgate.types import Route

__all__ = ["GatewayMiddleware"]


class GatewayMiddleware:
    """Base class: pass other traffic through, find the context, answer errors.

    Subclasses override `handle`. Inside a gateway every request is theirs; alone in somebody's
    app only LLM calls are: those whose path ends like one (`…/v1/chat/completions`,
    `…/v1/messages` …), and those that `paths` names.

    A `GatewayError` raised anywhere inside travels up to the outermost of our middlewares (and
    to `LoggingMiddleware`, which records the answer), and is answered there, in the caller's
    dialect.

    Args:
        app: The application inside.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    must_be_inside: ClassVar[tuple[str, ...]] = ()
    """Names of middlewares that, where present, must wrap this one."""

    def __init__(self, app: ASGIApp, *, paths: Mapping[str, str] | None = None) -> None:
        self.app = app
        self._own_paths = {
            path: route_for_format(wire_format, path) for path, wire_format in (paths or {}).items()
        }
        self._order_checked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context: GatewayContext | None = scope.get(SCOPE_KEY)
        if context is not None:
            self._enter(context)
            await self.handle(context, scope, receive, send)
            return
        route = self._route(scope)
        if route is None:
            await self.app(scope, receive, send)
            return
        context = scope[SCOPE_KEY] = GatewayContext(scope, receive, route)
        self._enter(context)
        await self._handle_outermost(context, scope, receive, send)

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        raise NotImplementedError

    async def _handle_outermost(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        started = False

        async def tracking_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.handle(context, scope, receive, tracking_send)
        except ClientDisconnectedError:
            return  # Nobody is left to answer.
        except GatewayError as error:
            if started:
                raise
            await send_error(error, context, send)

    def _route(self, scope: Scope) -> Route | None:
        path: str = scope["path"]
        return self._own_paths.get(path) or find_route(scope["method"], path)

    def _enter(self, context: GatewayContext) -> None:
        if not self._order_checked:
            self._check_order(context.trail)
            self._order_checked = True
        context.trail.append(type(self))

    def _check_order(self, outers: list[type]) -> None:
        inner = type(self)
        for outer in outers:
            if outer is inner:
                raise ConfigurationError(
                    f"{inner.__name__} is in the stack twice.\n"
                    "HINT: it was added both to the app and to a mounted sub-app; keep one."
                )
            if inner.__name__ in getattr(outer, "must_be_inside", ()):
                raise ConfigurationError(
                    f"{outer.__name__} wraps {inner.__name__}, so it runs first.\n"
                    f"HINT: list {inner.__name__} before {outer.__name__} in `middleware=[...]`; "
                    "`app.add_middleware` wraps, so there the last one added runs first."
                )
