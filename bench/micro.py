"""What each part costs by itself, in µs of CPU on the request path.

    python -m bench.micro

Each part is driven without a server around an inner app that does nothing, and what the same
call costs without the part is taken off. The time of the calling thread is counted: what a
background thread does later (the journal's writer) is not on the request path.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate import LLMGate
from asgi_llmgate.context import SCOPE_KEY, GatewayContext, first_headers
from asgi_llmgate.core.policy import RoutePolicy
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.middleware.auth import AuthMiddleware
from asgi_llmgate.middleware.hygiene import HygieneMiddleware
from asgi_llmgate.middleware.logging import LoggingMiddleware
from asgi_llmgate.middleware.policy import PolicyMiddleware
from asgi_llmgate.middleware.tagging import TaggingMiddleware
from asgi_llmgate.types import Usage
from bench.driver import Call, NoLog, call, null_app
from bench.memory_upstream import MemoryUpstream
from bench.payloads import CHAT_PATH, MODEL, chat_request
from bench.report import micro_table
from bench.stacks import SOMEBODY, bench_settings, dispatch_of, slice_stack
from bench.subjects import GATEWAY_KEY

__all__ = ["main", "measure", "us_per_call"]

# What a route may be given, and 19 others that are passed over.
POLICIES = [
    RoutePolicy(
        CHAT_PATH,
        methods=["POST"],
        default={"Property-Feature": "chat", "Session-Name": "support"},
        force={"Omit-Request": True},
        forbid=["Target-URL"],
        models=[MODEL],
    ),
    *(RoutePolicy(f"/team-{number}/*", require=["User-Id"]) for number in range(19)),
]

USAGE = Usage(input_tokens=33, output_tokens=48)


class WithContext:
    """Makes the context, as the gateway does before the first middleware that needs one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = first_headers(scope)
        route = match_route(scope["method"], scope["path"], scope.get("raw_path"), headers)
        assert route is not None
        context = scope[SCOPE_KEY] = GatewayContext(scope, receive, route, headers)
        context.principal = SOMEBODY
        await self.app(scope, receive, send)


async def reads_json(scope: Scope, receive: Receive, send: Send) -> None:
    """Read and parse the body, which is the first reader's cost and nobody's in particular."""
    await scope[SCOPE_KEY].body.json()
    await null_app(scope, receive, send)


async def metered(scope: Scope, receive: Receive, send: Send) -> None:
    """Leave in the context what dispatch leaves there, so that there is a call to log."""
    context: GatewayContext = scope[SCOPE_KEY]
    await context.body.json()
    context.metered = context.complete = True
    context.target_provider, context.target_model, context.usage = "openai", MODEL, USAGE
    await null_app(scope, receive, send)


async def us_per_call(apps: Mapping[str, ASGIApp], *, calls: int, rounds: int) -> dict[str, float]:
    """Return the µs of this thread per call of each app: the least of interleaved rounds."""
    request = Call(chat_request(), [(b"authorization", f"Bearer {GATEWAY_KEY}".encode())])
    best = dict.fromkeys(apps, float("inf"))
    for _ in range(rounds):
        for name, app in apps.items():
            for _ in range(calls // 10):
                await call(app, request)
            began = time.thread_time_ns()
            for _ in range(calls):
                await call(app, request)
            best[name] = min(best[name], (time.thread_time_ns() - began) / 1e3 / calls)
            # A queue that is never emptied would turn every write into a drop.
            await asyncio.sleep(0.25)
    return best


async def measure(*, calls: int = 2000, rounds: int = 7) -> dict[str, float]:
    """Return the own cost of each part in µs, and of both stacks over a provider in memory."""
    with tempfile.TemporaryDirectory(prefix="llmgate-bench-") as folder:
        gate = LLMGate(bench_settings(Path(folder)), upstream=MemoryUpstream())
        journal, price = gate.log, gate.price
        keys = {name: key.get_secret_value() for name, key in gate.settings.keys.items()}
        # Name → the app, and the name of what it is compared with.
        parts: dict[str, tuple[ASGIApp, str | None]] = {
            "(nothing)": (null_app, None),
            "(a call made)": (WithContext(metered), None),
            "route and context": (WithContext(null_app), "(nothing)"),
            "body read and parsed": (WithContext(reads_json), "route and context"),
            "HygieneMiddleware": (HygieneMiddleware(null_app), "(nothing)"),
            "LoggingMiddleware": (
                WithContext(LoggingMiddleware(metered, sink=journal, price=price)),
                "(a call made)",
            ),
            "LoggingMiddleware, without the journal": (
                WithContext(LoggingMiddleware(metered, sink=NoLog(), price=price)),
                "(a call made)",
            ),
            "AuthMiddleware": (
                WithContext(AuthMiddleware(null_app, keys=keys)),
                "route and context",
            ),
            "TaggingMiddleware": (
                WithContext(TaggingMiddleware(reads_json)),
                "body read and parsed",
            ),
            "PolicyMiddleware, 20 policies": (
                WithContext(PolicyMiddleware(reads_json, policies=POLICIES)),
                "body read and parsed",
            ),
            "auth, policy and tags together": (
                WithContext(
                    AuthMiddleware(
                        PolicyMiddleware(TaggingMiddleware(reads_json), policies=POLICIES),
                        keys=keys,
                    )
                ),
                "body read and parsed",
            ),
            "Dispatch, provider in memory": (
                WithContext(dispatch_of(gate)),
                "body read and parsed",
            ),
            "slice, provider in memory": (
                slice_stack(gate),
                "(nothing)",
            ),
            "default app, provider in memory": (gate, "(nothing)"),
        }
        apps = {name: app for name, (app, _) in parts.items()}
        try:
            cost = await us_per_call(apps, calls=calls, rounds=rounds)
        finally:
            await gate.aclose()
    return {name: cost[name] - cost[base] for name, (_, base) in parts.items() if base is not None}


def main() -> None:
    print(micro_table(uvloop.run(measure())))


if __name__ == "__main__":
    main()
