"""Mount a gateway into a Django ASGI application."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["mount"]


def mount(application: ASGIApp, prefix: str, gate: ASGIApp) -> ASGIApp:
    """Return an application that serves `gate` below `prefix` and Django everywhere else.

    Goes into `asgi.py`:

        application = mount(get_asgi_application(), "/llm", LLMGate(...))

    Django raises on lifespan events, so they end here: the gateway needs none, and starting and
    stopping it is offered to servers that send them.
    """
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ValueError("the prefix starts with a slash and does not end with one")

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await gate(scope, receive, send)
            return
        path: str = scope.get("path", "")
        if path == prefix or path.startswith(prefix + "/"):
            inner = {**scope, "root_path": scope.get("root_path", "") + prefix}
            await gate(inner, receive, send)
            return
        await application(scope, receive, send)

    return mounted
