"""What a look into the semantic cache costs: embedding, neighbours, and the event loop meanwhile.

    python -m bench.vectors

`--redis URL` also asks a Redis with the search module. Figures are medians of one process, but for
the lag: how late a timer of 5 ms was while 200 different questions a second were embedded and
looked for among 20,000, arriving at random.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import numpy as np
import uvloop

from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder
from asgi_llmgate.backends.vectors_memory import MemoryVectorIndex
from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Vector
from asgi_llmgate.protocols import VectorIndex

__all__ = ["main"]

# With `[CLS]` and `[SEP]` 9 and 16 tokens.
QUESTIONS = {
    9: "how do I reset my password {}",
    16: "how do I reset my password if my old phone is broken, {}",
}
ROUNDS = 300
LOOKUPS_PER_S = 200
SCOPE = "a" * 64


def alias(number: int) -> Alias:
    now_us = time.time_ns() // 1000
    return Alias(
        f"{number:032x}", CacheKey(f"{number:064x}"), f"question {number}", "p" * 16, "q" * 16,
        now_us, now_us + 3600 * 10**6,
    )  # fmt: skip


def random_vectors(number: int) -> list[Vector]:
    drawn = np.random.default_rng(1).standard_normal((number, 384), dtype=np.float32)
    return list(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


async def p50_ms(act: Callable[[int], Awaitable[object]], rounds: int = ROUNDS) -> float:
    took = []
    for number in range(rounds):
        began = time.perf_counter()
        await act(number)
        took.append(time.perf_counter() - began)
    return median(took) * 1000


async def embedding() -> None:
    embedder = MiniLMEmbedder()
    began = time.perf_counter()
    await embedder.load()
    print(f"load the model              {(time.perf_counter() - began) * 1000:8.0f} ms, once")
    run = embedder._run
    assert run is not None
    for tokens, template in QUESTIONS.items():
        alone, handed = [], []
        for number in range(ROUNDS):
            began = time.perf_counter()
            run(template.format(number % 10))
            between = time.perf_counter()
            # White space makes another text of it, and no more tokens.
            await embedder.embed(template.format(number % 10) + " " * number)
            alone.append(between - began)
            handed.append(time.perf_counter() - between)
        rest_ms = median(two - one for one, two in zip(alone, handed, strict=True)) * 1000
        print(
            f"embed {tokens:2} tokens             {median(handed) * 1000:8.2f} ms, "
            f"of which {rest_ms:.2f} to the thread and back"
        )
    await embedder.aclose()


async def neighbours(name: str, index: VectorIndex, number: int) -> None:
    vectors = random_vectors(number + ROUNDS)
    scope = f"{number:064x}"
    for count in range(number):
        await index.add(scope, alias(count), vectors[count])
        if count % 500 == 0:
            await index.size()  # lets a queue empty itself
    p50 = await p50_ms(lambda n: index.nearest(scope, vectors[-n - 1], limit=10))
    add = await p50_ms(lambda n: index.add(scope, alias(number + n), vectors[-n - 1]))
    miss = await p50_ms(lambda n: index.nearest(f"{n + 10**9:064x}", vectors[-n - 1], limit=10))
    print(
        f"{name:8}{number:7,} nearest 10  {p50:8.3f} ms, "
        f"add {add:.3f}, scope without any {miss:.3f}"
    )


async def lag(seconds: float) -> None:
    embedder, index = MiniLMEmbedder(), MemoryVectorIndex()
    await embedder.load()
    for count, vector in enumerate(random_vectors(20_000)):
        await index.add(SCOPE, alias(count), vector)
    late: list[float] = []
    took: list[float] = []
    failed = 0
    drawn = random.Random(1)

    async def watch() -> None:
        while True:
            due = time.perf_counter() + 0.005
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - due)

    async def look(number: int) -> None:
        nonlocal failed
        began = time.perf_counter()
        try:
            vector = await embedder.embed(QUESTIONS[9 if number % 2 else 16].format(number))
            await index.nearest(SCOPE, vector, limit=10)
        except Exception:  # noqa: BLE001 -- counted
            failed += 1
        took.append(time.perf_counter() - began)

    watching = asyncio.create_task(watch())
    tasks: list[asyncio.Task[None]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        tasks.append(asyncio.create_task(look(len(tasks))))
        await asyncio.sleep(drawn.expovariate(LOOKUPS_PER_S))
    await asyncio.gather(*tasks)
    watching.cancel()
    late.sort()
    took.sort()
    rate = len(tasks) / seconds
    print(
        f"{rate:.0f} lookups/s              p50 {median(took) * 1000:8.2f} ms, "
        f"p99 {took[int(len(took) * 0.99)] * 1000:.1f}, {failed} refused; "
        f"loop late p50 {median(late) * 1000:.2f} ms, p99 {late[int(len(late) * 0.99)] * 1000:.1f}"
    )
    await embedder.aclose()


async def run(redis: str | None, seconds: float) -> None:
    await embedding()
    for number in (1000, 20_000):
        await neighbours("memory", MemoryVectorIndex(max_per_scope=30_000), number)
        with tempfile.TemporaryDirectory() as folder:
            index = SqliteVectorIndex(Path(folder), max_per_scope=30_000)
            await neighbours("sqlite", index, number)
            await index.aclose()
        if redis:
            from asgi_llmgate.backends.vectors_redis import RedisVectorIndex

            there = RedisVectorIndex.from_url(redis, timeout_s=5, prefix="llmgate-bench:")
            await neighbours("redis", there, number)
            await there.purge()
            await there.aclose()
    await lag(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--redis", help="URL of a Redis with the search module")
    parser.add_argument("--seconds", type=float, default=10, help="of 200 lookups per second")
    asked = parser.parse_args()
    uvloop.run(run(asked.redis, asked.seconds))


if __name__ == "__main__":
    main()
