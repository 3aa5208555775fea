"""What `llmgate doctor` says of the semantic cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from asgi_llmgate.assemble import cache_secret_of, cache_store_of
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.learned import Learned
from asgi_llmgate.protocols import IndexSize
from asgi_llmgate.semantic_cache import (
    MINILM,
    label_store_of,
    missing_parts,
    semantic_policy_of,
    vector_index_of,
)
from asgi_llmgate.semantic_index import ChosenIndex
from asgi_llmgate.settings import Settings

__all__ = ["semantic_checks"]

Told = tuple[str, str, str]
"""State, name and detail, as in `cli_doctor.Check`."""

NAME = "semantic cache"


def semantic_checks(settings: Settings) -> Iterator[Told]:
    given = settings.cache
    if given.mode == "exact":
        yield "ok", NAME, "off: cache.mode is exact"
        return
    if missing := missing_parts(given.semantic.embedder):
        state = "ok" if given.mode == "auto" else "fail"
        detail = f"{', '.join(missing)} is not installed: pip install 'asgi-llmgate[semantic]'"
        yield state, NAME, f"off: {detail}"
        return
    try:
        yield asyncio.run(_embedder(settings))
        yield from asyncio.run(_stores(settings))
    except (BackendError, ConfigurationError) as error:
        yield (
            "fail",
            NAME,
            f"{error}; every question is one that nobody asked before".replace("\n", " "),
        )


async def _embedder(settings: Settings) -> Told:
    name = settings.cache.semantic.embedder
    if name != MINILM:
        return "ok", "embedder", f"{name}, by calls through the gateway"
    from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder

    embedder = MiniLMEmbedder()
    try:
        began_s = time.perf_counter()
        await embedder.load()
        loaded_s = time.perf_counter()
        await embedder.embed("How long does the delivery of a parcel take?")
        took_ms = (time.perf_counter() - loaded_s) * 1e3
    finally:
        await embedder.aclose()
    detail = f"{embedder.id}; loaded in {loaded_s - began_s:.2f} s, a question in {took_ms:.1f} ms"
    return "ok", "embedder", detail


async def _stores(settings: Settings) -> list[Told]:
    if settings.redis_url is None and not settings.data_dir.exists():
        return [("ok", "phrasings", "none yet: the embedded index comes with the first answer")]
    index, labels, store = (
        vector_index_of(settings),
        label_store_of(settings),
        cache_store_of(settings),
    )
    policy = semantic_policy_of(settings)
    learned = Learned(
        lambda: store,
        lambda: index,
        lambda: labels,
        lambda: cache_secret_of(settings),
        policy=policy,
    )
    try:
        size = await index.size()
        used = await index.chosen() if isinstance(index, ChosenIndex) else index
        told = [_index(settings, type(used).__name__, size)]
        partitions = (await learned.report())["partitions"]
    finally:
        await index.aclose()
        await labels.aclose()
        await store.aclose()
    states = [str(partition["state"]) for partition in partitions]
    serving = sum(state == "serving" for state in states)
    number = sum(partition["labels"]["total"] for partition in partitions)
    bound = f"at most {policy.max_error:.3g} of hits wrong"
    if policy.threshold is not None:
        told.append(("warn", NAME, f"a cosine of {policy.threshold} serves: no bound on wrong"))
    elif policy.observes:
        told.append(("ok", NAME, f"observes only; {number} labels, {bound} once it serves"))
    elif serving:
        told.append(("ok", NAME, f"serves for {serving} of {len(states)} partitions; {bound}"))
    else:
        state = f"; {states[0]}" if len(states) == 1 else ""
        told.append(("ok", NAME, f"learns, and serves nothing yet: {number} labels{state}"))
    return told


def _index(settings: Settings, kind: str, size: IndexSize) -> Told:
    detail = f"{size.aliases} in {size.scopes} scopes"
    if kind.startswith("Redis"):
        return "ok", "phrasings", f"RedisVL; {detail}"
    if settings.redis_url is not None and settings.cache.semantic.index == "auto":
        return (
            "warn",
            "phrasings",
            f"this Redis has no search module (Redis 8 has), so it is the embedded index; {detail}",
        )
    return "ok", "phrasings", f"embedded index in the data folder; {detail}"
