"""What `LimitsMiddleware` adds to a call, in CPU time of its process: `python -m bench.limits`.

The same call with and without it, in turns; the least of several rounds, for what else the
machine does only ever adds. With several policies most of the difference is the estimate of the
prompt's tokens, which the first policy on tokens or cents needs.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate.backends.limits_memory import MemoryLimitStore
from asgi_llmgate.backends.limits_shared import SharedLimitStore
from asgi_llmgate.backends.limits_sqlite import SqliteMeters
from asgi_llmgate.context import SCOPE_KEY, GatewayContext
from asgi_llmgate.core.limits import parse_policies
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.middleware.limits import LimitsMiddleware
from asgi_llmgate.process import calm_collector
from asgi_llmgate.protocols import LimitStore
from asgi_llmgate.types import Principal, PrincipalKind, Tags, Usage

ROUNDS, CALLS = 7, 3000
PROMPT = "Answer in one short sentence: why is the sky blue? " * 3
BODY = json.dumps(
    {"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": PROMPT}]}
).encode()
PATH = "/v1/chat/completions"
RATES = {
    "requests": "1000000000;w=60;s=key",
    "requests, tokens": "1000000000;w=60;s=key,1000000000000;w=60;u=token;s=key",
    "requests, tokens, cents": "1000000000;w=60;s=key,1000000000000;w=60;u=token;s=key,"
    "100000000000;w=3600;u=cents;s=tenant",
}


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for all that is inside: it has called a provider, and says what that used."""
    context: GatewayContext = scope[SCOPE_KEY]
    context.metered = True
    context.usage = Usage(60, 20)
    context.target_provider, context.target_model = "openai", "gpt-4o"
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def price(provider: str, model: str, usage: Usage) -> int:
    return usage.input_tokens * 2500 + usage.output_tokens * 10_000


async def cpu_us(app: ASGIApp) -> float:
    """Return microseconds of CPU per call."""

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        pass

    raw = [(b"host", b"x"), (b"content-type", b"application/json")]
    route = match_route("POST", PATH, None, dict(raw))
    assert route is not None
    started = time.process_time()
    for number in range(CALLS):
        scope: Scope = {"type": "http", "method": "POST", "path": PATH, "headers": raw}
        context = scope[SCOPE_KEY] = GatewayContext(scope, receive, route)
        context.principal = Principal("tenant", PrincipalKind.KEY, "key")
        context.tags = Tags(user_id="ada")
        _ = context.directives
        await context.body.json()
        await app(scope, receive, send)
        if number % 50 == 0:
            await asyncio.sleep(0)  # As between two calls of a server: timers and threads.
    return (time.process_time() - started) / CALLS * 1e6


async def added_us(rates: str, make_store: Callable[[], LimitStore]) -> float:
    store = make_store()
    app = LimitsMiddleware(
        answer, store=store, policies=parse_policies(rates, source="settings"), price=price
    )
    with_it, without = [], []
    for _ in range(ROUNDS):
        with_it.append(await cpu_us(app))
        without.append(await cpu_us(answer))
    await store.aclose()
    return min(with_it) - min(without)


async def main() -> None:
    calm_collector()
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, Callable[[], LimitStore]] = {
            "memory": MemoryLimitStore,
            "SQLite": lambda: SharedLimitStore(SqliteMeters(Path(folder))),
        }
        for name, rates in RATES.items():
            for store, make in stores.items():
                print(f"{name:<24} {store:<8} {await added_us(rates, make):6.1f} µs")


if __name__ == "__main__":
    asyncio.run(main())
