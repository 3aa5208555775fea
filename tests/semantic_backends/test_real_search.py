"""A real Redis with its search module: what our stand-in for it cannot tell.

Needs LLMGATE_TEST_REDIS_SEARCH_URL. Beside these, the whole contract of an index is run on it.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import pytest
from redis.asyncio import Redis

from asgi_llmgate.backends.vectors_redis import RedisVectorIndex
from tests.semantic_backends.making import (
    OTHER,
    SCOPE,
    TEST_PREFIX,
    alias,
    answer,
    now_us,
    random_vectors,
    vector,
)

pytestmark = pytest.mark.redis_search


def index_of(url: str, **options: Any) -> RedisVectorIndex:
    return RedisVectorIndex.from_url(url, timeout_s=5, prefix=TEST_PREFIX, **options)


async def ids(index: RedisVectorIndex, scope: str = SCOPE) -> set[int]:
    return {int(one.alias.id, 16) for one in await index.nearest(scope, vector(1), limit=50)}


async def until(index: RedisVectorIndex, expected: set[int], scope: str = SCOPE) -> None:
    """Rows that were there before their index are found a little later."""
    deadline = time.monotonic() + 20
    while await ids(index, scope) != expected:
        assert time.monotonic() < deadline


async def test_it_is_known_to_search(real_search_url: str) -> None:
    index = index_of(real_search_url)

    assert await index.has_search()
    await index.aclose()


@pytest.mark.parametrize("algorithm", ["hnsw", "flat"])
async def test_neighbours_of_a_scope_among_many_others(
    real_search_url: str, algorithm: Literal["hnsw", "flat"]
) -> None:
    index = index_of(real_search_url, algorithm=algorithm)
    vectors = random_vectors(600, dims=384)
    for number, one in enumerate(vectors):
        scope = SCOPE if number % 6 == 0 else OTHER
        await index.add(scope, alias(number), one)
    asked = random_vectors(1, seed=3, dims=384)[0]
    found = await index.nearest(SCOPE, asked, limit=10)

    exact = sorted(1 - float(np.dot(vectors[number], asked)) for number in range(0, 600, 6))
    assert [one.distance for one in found] == pytest.approx(exact[:10], abs=1e-3)
    assert all(int(one.alias.id, 16) % 6 == 0 for one in found)
    await index.aclose()


async def test_a_dropped_index_is_made_anew(real_search_url: str) -> None:
    index = index_of(real_search_url)
    await index.add(SCOPE, alias(1), vector(1))
    assert await ids(index) == {1}
    client: Any = Redis.from_url(real_search_url, protocol=2)
    for name in await client.execute_command("FT._LIST"):
        if name.startswith(TEST_PREFIX.encode()):
            await client.execute_command("FT.DROPINDEX", name)

    await until(index, {1})
    await index.add(SCOPE, alias(2), vector(1))
    await until(index, {1, 2})
    assert await index.remove_answer(SCOPE, answer(2)) == 1
    await client.aclose()
    await index.aclose()


async def test_rows_expire_by_themselves(real_search_url: str) -> None:
    index = index_of(real_search_url)
    await index.add(SCOPE, alias(1, expires_us=now_us() + 300_000), vector(1))
    await index.add(SCOPE, alias(2), vector(1))
    await until(index, {2})
    client: Any = Redis.from_url(real_search_url, protocol=2)
    deadline = time.monotonic() + 20
    while len(await client.keys(f"{TEST_PREFIX}v:*")) > 1:
        assert time.monotonic() < deadline

    assert (await index.size()).aliases == 1
    await client.aclose()
    await index.aclose()


async def test_another_schema_is_another_index(real_search_url: str) -> None:
    one, two = index_of(real_search_url), index_of(real_search_url)
    flat = index_of(real_search_url, algorithm="flat")
    await one.add(SCOPE, alias(1), vector(1))
    await two.add(SCOPE, alias(2), vector(1, dims=8))
    await flat.add(SCOPE, alias(3), vector(1))

    assert await ids(one) == {1}
    [found] = await two.nearest(SCOPE, vector(1, dims=8), limit=9)
    assert found.alias.id == alias(2).id
    assert await ids(flat) == {3}
    assert await one.purge() == 3
    assert await ids(flat) == set()
    for index in (one, two, flat):
        await index.aclose()


@pytest.mark.parametrize("is_decoding", [False, True], ids=["bytes", "decoded"])
@pytest.mark.parametrize("protocol", [None, 2, 3])
async def test_any_client_may_be_given(
    real_search_url: str, protocol: int | None, is_decoding: bool
) -> None:
    options: dict[str, Any] = {} if protocol is None else {"protocol": protocol}
    client = Redis.from_url(real_search_url, decode_responses=is_decoding, **options)
    index = RedisVectorIndex(client, timeout_s=5, prefix=TEST_PREFIX)
    await index.add(SCOPE, alias(1, question="Grüße"), vector(1))

    [found] = await index.nearest(SCOPE, vector(1), limit=3)
    assert found.alias.question == "Grüße"
    assert await index.remove_answer(SCOPE, answer(1)) == 1
    await index.aclose()
    await client.aclose()
