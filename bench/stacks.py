"""The gateway, whole and in part, for `run`, `micro` and `profile`.

uvicorn bench.stacks:slice_app      hygiene, logging, dispatch, upstream; settings as always
"""

from __future__ import annotations

from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate import LLMGate
from asgi_llmgate._asgi.lifespan import serve_lifespan
from asgi_llmgate.assemble import journal_of, prices_of, registry_of, timeouts_of
from asgi_llmgate.context import SCOPE_KEY, GatewayContext, first_headers
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.dispatch import Dispatch
from asgi_llmgate.middleware.hygiene import HygieneMiddleware
from asgi_llmgate.middleware.logging import LoggingMiddleware
from asgi_llmgate.protocols import LogSink, Price, Upstream
from asgi_llmgate.settings import Settings, load_settings
from asgi_llmgate.types import Principal, PrincipalKind
from asgi_llmgate.upstream.make import make_upstream
from bench.subjects import GATEWAY_KEY, PROVIDER_KEY

__all__ = ["bench_settings", "full_stack", "slice_app", "slice_stack"]

# Dispatch spends the operator's key only for somebody known; in the slice nobody asks who.
SOMEBODY = Principal("bench", PrincipalKind.KEY, "bench")


def bench_settings(folder: Path, provider: str = "http://127.0.0.1:9") -> Settings:
    """Return settings with one gateway key and one pooled key, and state in `folder`."""
    openai = {"base_url": f"{provider}/v1", "api_key": PROVIDER_KEY}
    return load_settings(data_dir=folder, keys=f"bench:{GATEWAY_KEY}", providers={"openai": openai})


def full_stack(
    settings: Settings, *, upstream: Upstream | None = None, log: LogSink | None = None
) -> LLMGate:
    """Return the default app."""
    return LLMGate(settings, upstream=upstream, log=log)


def slice_stack(
    settings: Settings, *, upstream: Upstream, log: LogSink, price: Price | None
) -> ASGIApp:
    """Return hygiene, logging, dispatch and upstream, without auth and tagging."""
    dispatch = Dispatch(
        upstream=upstream,
        registry=registry_of(settings),
        timeouts=timeouts_of(settings, stream=False),
        stream_timeouts=timeouts_of(settings, stream=True),
    )
    logged = LoggingMiddleware(
        dispatch, sink=log, price=price, max_body_bytes=settings.log.body_cap
    )

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        headers = first_headers(scope)
        route = match_route(scope["method"], scope["path"], scope.get("raw_path"), headers)
        assert route is not None, "the bench calls LLM routes only"
        context = scope[SCOPE_KEY] = GatewayContext(scope, receive, route, headers)
        context.principal = SOMEBODY
        await logged(scope, receive, send)

    return HygieneMiddleware(routed)


class SliceApp:
    """The slice as uvicorn loads it: built at the first event, closed when the server stops."""

    def __init__(self) -> None:
        self._inner: ASGIApp | None = None
        self._log: LogSink | None = None
        self._upstream: Upstream | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(scope, receive, send, startup=self._build, shutdown=self._close)
        elif scope["type"] == "http" and self._inner is not None:
            await self._inner(scope, receive, send)

    async def _build(self) -> None:
        settings = load_settings()
        price = prices_of(settings)
        self._log = journal_of(settings, price)
        self._upstream = make_upstream(settings.upstream.client)
        self._inner = slice_stack(settings, upstream=self._upstream, log=self._log, price=price)

    async def _close(self) -> None:
        if self._upstream is not None:
            await self._upstream.aclose()
        if self._log is not None:
            await self._log.aclose()


slice_app = SliceApp()
