"""What the semantic cache costs and how long its answers take.

    python -m bench.semantic

In one process, without a server, over a model that answers at once: what is left is the cache's
own time. Embedder and SQLite stores are the real ones, and it has learned before it is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder
from asgi_llmgate.backends.labels_sqlite import SqliteLabelStore
from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.middleware.semantic import SemanticTier
from bench.driver import Call, call
from tests.semantic.world import TopicModel, askings, body

__all__ = ["main"]

CALLS = 300
RATE_PER_S = 200
LOAD_S = 5.0
PROBE_S = 0.002

# Words that change a phrasing, so that no call is the very same as one before.
WORDS = ["well", "so", "now", "then", "okay", "right", "look", "listen", "say", "tell"]


def phrasings(count: int) -> list[str]:
    cores = [question for question, _ in askings()]
    return [
        f"{WORDS[number % 10]} {WORDS[number // 10 % 10]} {cores[number % len(cores)]}"
        for number in range(count)
    ]


def share(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


class World:
    def __init__(self, folder: Path) -> None:
        self.model = TopicModel()
        self.tier = SemanticTier(
            embedder=MiniLMEmbedder(),
            index=SqliteVectorIndex(folder),
            labels=SqliteLabelStore(folder),
        )
        self.store = SqliteCacheStore(folder)
        self.app = CacheMiddleware(
            self.model, store=self.store, namespace="bench", semantic=self.tier
        )
        self.exact = CacheMiddleware(self.model, store=self.store, namespace="exact")

    async def ask(self, app: CacheMiddleware, question: str) -> tuple[float, bool]:
        """Return how long the answer took, in ms, and whether it was a hit."""
        before = len(self.model.calls)
        request = Call(json.dumps(body(question)).encode())
        began = time.perf_counter()
        status, _, _ = await call(app, request)
        took_ms = (time.perf_counter() - began) * 1e3
        assert status == 200
        return took_ms, len(self.model.calls) == before

    async def learn(self) -> None:
        for question, _ in askings():
            await self.ask(self.app, question)
            await self.tier.settled()

    async def aclose(self) -> None:
        await self.tier.aclose()
        for each in (self.tier.index, self.tier.labels, self.tier.embedder, self.store):
            await each.aclose()


async def lag(stop: asyncio.Event) -> list[float]:
    """Return how late a timer was, in ms, again and again."""
    late: list[float] = []
    while not stop.is_set():
        began = time.perf_counter()
        await asyncio.sleep(PROBE_S)
        late.append((time.perf_counter() - began - PROBE_S) * 1e3)
    return late


async def measure(world: World) -> dict[str, float]:
    await world.learn()
    hits, misses, plain = [], [], []
    for number, question in enumerate(phrasings(CALLS)):
        took_ms, is_hit = await world.ask(world.app, question)
        await world.tier.settled()
        (hits if is_hit else misses).append(took_ms)
        strange = f"what is the weight of item {number} in the {WORDS[number % 10]} catalogue"
        took_ms, is_hit = await world.ask(world.app, strange)
        await world.tier.settled()
        (hits if is_hit else misses).append(took_ms)
        plain.append((await world.ask(world.exact, strange))[0])

    stop = asyncio.Event()
    probe = asyncio.create_task(lag(stop))
    tasks = []
    begun = time.perf_counter()
    for number, question in enumerate(phrasings(int(RATE_PER_S * LOAD_S))):
        tasks.append(asyncio.create_task(world.ask(world.app, f"{question} {number % 97} times")))
        await asyncio.sleep(max(0.0, begun + number / RATE_PER_S - time.perf_counter()))
    await asyncio.gather(*tasks)
    stop.set()
    late = await probe
    return {
        "hits": len(hits),
        "hit_p50_ms": share(hits, 0.5),
        "hit_p99_ms": share(hits, 0.99),
        "miss_p50_ms": share(misses, 0.5),
        "exact_miss_p50_ms": share(plain, 0.5),
        "lookup_p50_ms": share(misses, 0.5) - share(plain, 0.5),
        "lag_p99_ms": share(late, 0.99),
        "lag_max_ms": max(late),
    }


async def run() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            return await measure(world)
        finally:
            await world.aclose()


BARS = {"hit_p50_ms": 5.0, "lookup_p50_ms": 3.0, "lag_p99_ms": 20.0}


def main() -> int:
    figures = uvloop.run(run())
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        bar = BARS.get(name)
        told = "" if bar is None else f"   bar {bar:g}: {'held' if value <= bar else 'MISSED'}"
        print(f"{name:20} {value:8.2f}{told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
