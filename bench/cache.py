"""What the cache costs and gives, as ratios in one run.

    python -m bench.cache

µs are of the calling thread, without a server, over an inner application that does nothing; the
least of interleaved rounds. `--server` adds requests per second under uvicorn, against uvicorn
answering by itself: the same server, parser, core and load.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
from asgi_llmgate.core.cache_key import Question, cache_key
from asgi_llmgate.core.json import dumps
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.protocols import CacheStore
from bench.driver import Call, call

__all__ = ["main"]

ROUNDS = 7
CALLS = 1000

REQUEST = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "You answer questions about our products. " * 20},
        {"role": "user", "content": "Which of them is the best for me, and why? " * 25},
    ],
    "temperature": 0.2,
}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Take the blue one. " * 20},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 500, "completion_tokens": 100, "total_tokens": 600},
    }
).encode()


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    return b"data: " + dumps(head | {"choices": [choice]}) + b"\n\n"


def streams(chunks: int) -> ASGIApp:
    parts = [*(event("word ") for _ in range(chunks - 2)), event("", "stop"), b"data: [DONE]\n\n"]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)  # as where each comes from a socket
        await send({"type": "http.response.body", "body": b""})

    return app


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    """Read and parse the body, which somebody has to in any case."""
    json.loads((await receive())["body"])
    await answers(scope, receive, send)


def request(number: int | None, *, stream: bool = False) -> Call:
    body = REQUEST | ({} if number is None else {"seed": number}) | {"stream": stream}
    return Call(json.dumps(body).encode())


async def least_us(ask: Callable[[], Awaitable[object]], calls: int = CALLS) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time_ns()
        for _ in range(calls):
            await ask()
        best = min(best, (time.thread_time_ns() - began) / 1e3 / calls)
        await asyncio.sleep(0.1)
    return best


async def key_us() -> float:
    body = json.dumps(REQUEST).encode()
    question = Question("own:acme", "openai", "openai-chat", "/v1/chat", REQUEST, body=body)

    async def once() -> None:
        cache_key(b"s" * 32, question)

    return await least_us(once, 5000)


async def measure(store: CacheStore) -> dict[str, float]:
    """Return the own cost of a hit, a recorded miss, and a chunk of one, in µs."""

    def wrapped(app: ASGIApp) -> CacheMiddleware:
        return CacheMiddleware(app, store=store, namespace="bench")

    numbers = iter(range(10**9))
    hit, plain = request(None), request(None)
    cached = wrapped(answers)
    await call(cached, hit)
    figures = {"hit": await least_us(lambda: call(cached, hit))}
    bare = await least_us(lambda: call(answers, plain))
    figures["hit"] -= bare
    misses = [request(next(numbers)) for _ in range(ROUNDS * CALLS)]
    waiting = iter(misses)
    figures["miss"] = await least_us(lambda: call(cached, next(waiting))) - bare
    for chunks in (10, 210):
        app = streams(chunks)
        inner = wrapped(app)
        calls = 200
        asked = iter([request(next(numbers), stream=True) for _ in range(ROUNDS * calls)])
        own = await least_us(lambda: call(inner, next(asked)), calls)  # noqa: B023 -- used at once
        alone = await least_us(lambda: call(app, plain), calls)  # noqa: B023 -- used at once
        figures[f"stream of {chunks}"] = own - alone
    per_chunk = (figures["stream of 210"] - figures["stream of 10"]) / 200
    return figures | {"per chunk": per_chunk}


async def micro() -> None:
    print(f"key of a {len(json.dumps(REQUEST))}-byte request: {await key_us():.1f} µs")
    with tempfile.TemporaryDirectory(prefix="llmgate-bench-") as folder:
        for store in (MemoryCacheStore(), SqliteCacheStore(Path(folder))):
            figures = await measure(store)
            told = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
            print(f"{type(store).__name__}: {told} µs")
            await store.aclose()


SERVED = """
import json, tempfile, pathlib
from bench.cache import answers
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
bare = answers
memory = CacheMiddleware(answers, store=MemoryCacheStore(), namespace="bench")
sqlite = CacheMiddleware(
    answers, store=SqliteCacheStore(pathlib.Path(tempfile.mkdtemp())), namespace="bench"
)
"""


def server(seconds: int = 4) -> None:
    """Print requests per second of each, one after the other, twice."""
    with tempfile.TemporaryDirectory(prefix="llmgate-bench-") as folder:
        (Path(folder) / "cache_served.py").write_text(SERVED)
        body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 100}]})
        script = Path(folder) / "chat.lua"
        script.write_text(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = [[{body}]]\n"
        )
        best = dict.fromkeys(("bare", "memory", "sqlite"), 0.0)
        for _ in range(2):
            for name in best:
                best[name] = max(best[name], _served(name, folder, script, seconds))
    for name, rate in best.items():
        print(f"{name}: {rate:,.0f} requests/s, {rate / best['bare']:.0%} of bare")


def _served(name: str, folder: str, script: Path, seconds: int) -> float:
    port = "18790"
    argv = [sys.executable, "-m", "uvicorn", f"cache_served:{name}", "--port", port]
    argv += ["--log-level", "error", "--no-access-log", "--app-dir", folder, "--loop", "uvloop"]
    process = subprocess.Popen(["taskset", "-c", "0", *argv, "--http", "httptools"])
    try:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        load = ["taskset", "-c", "1", "wrk", "-t1", "-c32", "-s", str(script), url]
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            time.sleep(0.2)
            if "Requests/sec" in _output([*load, "-d1s"]):
                break
        text = _output([*load, f"-d{seconds}s"])
        return float(text.partition("Requests/sec:")[2].split()[0])
    finally:
        process.terminate()
        process.wait(10)


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def main() -> None:
    uvloop.run(micro())
    if "--server" in sys.argv:
        server()


if __name__ == "__main__":
    main()
