"""What is particular to an index in memory: its bounds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from asgi_llmgate.backends.alias_matrix import BLOCK, ENOUGH_OF_ONE
from asgi_llmgate.backends.vectors_memory import MemoryVectorIndex
from asgi_llmgate.errors import BackendError
from tests.semantic_backends.making import (
    OTHER,
    SCOPE,
    alias,
    answer,
    now_us,
    random_vectors,
    vector,
)


async def ids(index: MemoryVectorIndex, scope: str = SCOPE) -> set[int]:
    return {int(one.alias.id, 16) for one in await index.nearest(scope, vector(1), limit=10**6)}


async def test_the_scope_that_was_used_least_recently_makes_room() -> None:
    index = MemoryVectorIndex(max_aliases=4)
    for number in range(4):
        await index.add(SCOPE if number < 2 else OTHER, alias(number), vector(1, number / 10))
    await index.nearest(SCOPE, vector(1), limit=1)
    await index.add(SCOPE, alias(9), vector(1))

    assert await ids(index) == {0, 1, 9}
    assert len(await ids(index, OTHER)) == 1


async def test_the_phrasing_that_was_used_least_recently_makes_room() -> None:
    index = MemoryVectorIndex(max_per_scope=3)
    for number in range(3):
        await index.add(SCOPE, alias(number), vector(*([0] * number), 1))
    await index.nearest(SCOPE, vector(1), limit=1)
    await index.add(SCOPE, alias(9), vector(0, 0, 0, 1))

    assert await ids(index) == {0, 2, 9}


async def test_what_has_expired_makes_room_first() -> None:
    time_us = now_us()
    index = MemoryVectorIndex(max_aliases=3, clock_us=lambda: time_us)
    await index.add(SCOPE, alias(0), vector(1))
    await index.add(OTHER, alias(1, expires_us=time_us + 5), vector(1))
    await index.add(OTHER, alias(2), vector(1))
    time_us += 10**7
    await index.add(OTHER, alias(3, expires_us=time_us + 5), vector(0, 1))

    assert await ids(index) == {0}
    assert await ids(index, OTHER) == {2, 3}


async def test_bytes_are_bounded_too() -> None:
    index = MemoryVectorIndex(max_bytes=100_000)
    for number in range(300):
        await index.add(f"{number % 7:064x}", alias(number, question="q" * 500), vector(1, number))

    size = await index.size()
    assert size.bytes is not None
    assert 50_000 < size.bytes <= 100_000
    assert size.aliases < 100


async def test_phrasings_that_say_nothing_new_are_not_gathered() -> None:
    index = MemoryVectorIndex()
    same = answer(1)
    for number in range(ENOUGH_OF_ONE + 50):
        await index.add(SCOPE, alias(number, answer=same), vector(1, number / 10_000))
    await index.add(SCOPE, alias(200, answer=same), vector(0, 1))
    await index.add(SCOPE, alias(201, answer=answer(2)), vector(1))

    kept = await ids(index)
    assert len(kept) == ENOUGH_OF_ONE + 2
    # The newest lives longest, so it takes the place of what it repeats.
    assert {ENOUGH_OF_ONE + 49, 200, 201} <= kept


async def test_many_blocks_are_filled_and_emptied_rightly() -> None:
    index = MemoryVectorIndex()
    vectors = random_vectors(2 * BLOCK + 100)
    for number, one in enumerate(vectors):
        await index.add(SCOPE, alias(number), one)
    gone = {number for number in range(len(vectors)) if number % 3 or BLOCK < number < 2 * BLOCK}
    await index.remove(SCOPE, [alias(number).id for number in gone])
    left = [number for number in range(len(vectors)) if number not in gone]
    asked = random_vectors(1, seed=5)[0]
    found = await index.nearest(SCOPE, asked, limit=10)

    exact = sorted((1 - float(np.dot(vectors[number], asked)), number) for number in left)[:10]
    assert [int(one.alias.id, 16) for one in found] == [number for _, number in exact]
    assert await ids(index) == set(left)


async def test_thousands_that_expire_at_once_are_never_found() -> None:
    time_us = now_us()
    index = MemoryVectorIndex(clock_us=lambda: time_us)
    for number in range(1500):
        expires_us = time_us + 10 if number else time_us + 10**9
        await index.add(SCOPE, alias(number, expires_us=expires_us), vector(1, number / 10_000))
    time_us += 100

    for _ in range(5):
        assert await ids(index) == {0}
    assert (await index.size()).aliases == 1


async def test_vectors_of_another_embedder_are_refused() -> None:
    index = MemoryVectorIndex()
    await index.add(SCOPE, alias(1), vector(1))

    with pytest.raises(BackendError):
        await index.nearest(SCOPE, vector(1, dims=8), limit=1)
    with pytest.raises(BackendError):
        await index.add(SCOPE, alias(2), vector(1, dims=8))


async def fill(number: int, bound: int) -> tuple[int, int]:
    """Return how much memory an index says it has, and has, that holds `bound` of `number`."""
    drawn = np.random.default_rng(1)
    tracemalloc.start()
    index = MemoryVectorIndex(max_aliases=bound, max_bytes=bound * 2600)
    for count in range(number):
        one = drawn.standard_normal(384, dtype=np.float32)
        one /= np.float32(np.linalg.norm(one))
        scope = f"{count % 100 if count % 2 else count:064x}"
        await index.add(scope, alias(count, question=f"how do I {count} " * 4), one)
    size = await index.size()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size.aliases <= bound
    assert size.bytes is not None
    return size.bytes, used


async def test_memory_is_bounded() -> None:
    said, used = await fill(10_000, 2000)

    assert said < 2000 * 2600
    assert used < 2.2 * said


@pytest.mark.soak
async def test_memory_is_bounded_at_100_000_phrasings() -> None:
    said, used = await fill(250_000, 100_000)

    assert said < 100_000 * 2600
    assert used < 2.2 * said
