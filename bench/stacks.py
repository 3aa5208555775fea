"""The gateway, whole and in part, for `run`, `micro` and `profile`.

uvicorn bench.stacks:slice_app      hygiene, logging, dispatch, upstream; settings as always
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate import LLMGate
from asgi_llmgate._asgi.lifespan import serve_lifespan
from asgi_llmgate.assemble import registry_of, timeouts_of
from asgi_llmgate.context import SCOPE_KEY, GatewayContext, first_headers
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.dispatch import Dispatch
from asgi_llmgate.middleware.hygiene import HygieneMiddleware
from asgi_llmgate.middleware.logging import LoggingMiddleware
from asgi_llmgate.process import calm_collector
from asgi_llmgate.settings import Settings, load_settings
from asgi_llmgate.types import Principal, PrincipalKind
from bench.subjects import GATEWAY_KEY, PROVIDER_KEY

__all__ = ["bench_settings", "dispatch_of", "slice_app", "slice_stack"]

# Dispatch spends the operator's key only for somebody known; in the slice nobody asks who.
SOMEBODY = Principal("bench", PrincipalKind.KEY, "bench")


def bench_settings(folder: Path, provider: str = "http://127.0.0.1:9") -> Settings:
    """Return settings with one gateway key and one pooled key, and state in `folder`."""
    openai = {"base_url": f"{provider}/v1", "api_key": PROVIDER_KEY}
    return load_settings(data_dir=folder, keys=f"bench:{GATEWAY_KEY}", providers={"openai": openai})


def slice_stack(gate: LLMGate) -> ASGIApp:
    """Return hygiene, logging, dispatch and upstream of `gate`, without auth and tagging."""
    settings = gate.settings
    logged = LoggingMiddleware(
        dispatch_of(gate), sink=gate.log, price=gate.price, max_body_bytes=settings.log.body_cap
    )

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        headers = first_headers(scope)
        route = match_route(scope["method"], scope["path"], scope.get("raw_path"), headers)
        assert route is not None, "the bench calls LLM routes only"
        context = scope[SCOPE_KEY] = GatewayContext(scope, receive, route, headers)
        context.principal = SOMEBODY
        await logged(scope, receive, send)

    return HygieneMiddleware(routed)


def dispatch_of(gate: LLMGate) -> Dispatch:
    return Dispatch(
        upstream=gate.upstream,
        registry=registry_of(gate.settings),
        timeouts=timeouts_of(gate.settings, stream=False),
        stream_timeouts=timeouts_of(gate.settings, stream=True),
    )


class SliceApp:
    """The slice as uvicorn loads it: built when the server starts, closed when it stops."""

    def __init__(self) -> None:
        self._gate: LLMGate | None = None
        self._inner: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(scope, receive, send, startup=self._build, shutdown=self._close)
        elif scope["type"] == "http" and self._inner is not None:
            await self._inner(scope, receive, send)

    async def _build(self) -> None:
        self._gate = LLMGate(load_settings())
        await self._gate.startup()
        self._inner = slice_stack(self._gate)
        await asyncio.to_thread(self._gate._warm)
        calm_collector()

    async def _close(self) -> None:
        if self._gate is not None:
            await self._gate.aclose()


slice_app = SliceApp()
