"""What may become of Redis with its search module; see `search_stand_in.py` for which one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import Sentinel

from asgi_llmgate.backends.vectors_redis import RedisVectorIndex
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.protocols import VectorIndex
from tests.cache.redis_server import RedisServer
from tests.semantic_backends.making import (
    OTHER,
    SCOPE,
    alias,
    answer,
    now_us,
    random_vectors,
    vector,
)
from tests.semantic_backends.search_stand_in import SearchStandIn


def index_of(server: SearchStandIn | RedisServer) -> RedisVectorIndex:
    return RedisVectorIndex.from_url(server.url, timeout_s=5)


async def ids(index: VectorIndex, scope: str = SCOPE) -> list[int]:
    return [int(one.alias.id, 16) for one in await index.nearest(scope, vector(1), limit=50)]


@pytest.fixture
def maltreated(redis_server: RedisServer) -> Iterator[SearchStandIn]:
    server = SearchStandIn(redis_server)
    yield server
    server.stop()


async def test_each_search_is_within_one_scope(search_server: SearchStandIn) -> None:
    index = index_of(search_server)
    await index.add(SCOPE, alias(1), vector(1))
    await index.nearest(SCOPE, vector(1), limit=3)
    await index.remove_answer(SCOPE, answer(1))

    searches = [words[2] for words in search_server.asked if words[0] == b"FT.SEARCH"]
    assert len(searches) >= 2
    for query in searches:
        assert query.startswith(b"(@scope:{%s}" % SCOPE.encode())
    await index.aclose()


async def test_the_index_is_made_once_with_what_was_measured(search_server: SearchStandIn) -> None:
    index = index_of(search_server)
    await asyncio.gather(*(index.nearest(SCOPE, vector(1), limit=3) for _ in range(10)))

    [made] = [words for words in search_server.asked if words[0] == b"FT.CREATE"]
    text = b" ".join(made).decode()
    assert "scope TAG SEPARATOR | CASESENSITIVE" in text
    for option in ("HNSW", "TYPE FLOAT16", "DIM 16", "M 16", "EF_CONSTRUCTION 200", "COSINE"):
        assert option in text
    assert int(text.split("EF_RUNTIME ")[1].split()[0]) >= 64
    assert "question" not in text
    await index.aclose()


async def test_flat_looks_at_all(search_server: SearchStandIn) -> None:
    index = RedisVectorIndex.from_url(search_server.url, timeout_s=5, algorithm="flat")
    await index.add(SCOPE, alias(1), vector(1))

    assert await ids(index) == [1]
    assert any(b"FLAT" in words for words in search_server.asked)
    await index.aclose()


async def test_another_schema_is_another_index(search_server: SearchStandIn) -> None:
    one, two = index_of(search_server), index_of(search_server)
    flat = RedisVectorIndex.from_url(search_server.url, timeout_s=5, algorithm="flat")
    await one.add(SCOPE, alias(1), vector(1))
    await two.add(SCOPE, alias(2), vector(1, dims=8))
    await flat.add(SCOPE, alias(3), vector(1))

    assert await ids(one) == [1]
    [found] = await two.nearest(SCOPE, vector(1, dims=8), limit=9)
    assert found.alias.id == alias(2).id
    assert await ids(flat) == [3]
    assert len(search_server.indexes) == 3
    # An operator's commands reach all of them.
    assert (await one.size()).aliases == 3
    assert await one.purge() == 3
    for index in (one, two, flat):
        await index.aclose()


@pytest.mark.parametrize(
    "missing",
    [
        "{}: no such index",
        "Unknown index name",
        "No such index {}",
        "SEARCH_INDEX_NOT_FOUND Index not found",
    ],
    ids=["2.4", "2.4 info", "8.0", "8.6"],
)
async def test_an_index_that_was_lost_is_made_anew(
    search_server: SearchStandIn, missing: str
) -> None:
    search_server.missing = missing
    index = index_of(search_server)
    await index.add(SCOPE, alias(1), vector(1))
    assert await ids(index) == [1]
    search_server.lose_everything()

    assert await ids(index) == []
    await index.add(SCOPE, alias(2), vector(1))
    assert await ids(index) == [2]
    await index.aclose()


async def test_an_index_that_was_lost_is_made_anew_to_remove(search_server: SearchStandIn) -> None:
    index = index_of(search_server)
    await index.add(SCOPE, alias(1), vector(1))
    search_server.lose_everything()

    assert await index.remove_answer(SCOPE, answer(1)) == 0
    await index.remove(SCOPE, [alias(1).id])
    await index.aclose()


async def test_one_who_has_not_looked_yet_can_remove(search_server: SearchStandIn) -> None:
    one, two, three = (index_of(search_server) for _ in range(3))
    for number in range(6):
        await one.add(SCOPE, alias(number, answer=answer(number % 2)), vector(1, number))
        await one.add(OTHER, alias(number, answer=answer(number % 2)), vector(1, number))
    assert await two.remove_answer(SCOPE, answer(1)) == 3
    await three.remove(SCOPE, [alias(0).id])

    assert sorted(await ids(one)) == [2, 4]
    assert len(await ids(one, OTHER)) == 6
    for index in (one, two, three):
        await index.aclose()


async def test_what_expires_while_it_is_looked_for_is_left_out(
    search_server: SearchStandIn,
) -> None:
    index = index_of(search_server)
    await index.add(SCOPE, alias(1), vector(1))
    search_server.nil_fields = True

    assert await ids(index) == []
    await index.aclose()


async def test_rows_expire_by_themselves_at_a_time_that_no_lookup_moves(
    search_server: SearchStandIn,
) -> None:
    index = index_of(search_server)
    expires_us = now_us() + 60_000_000
    await index.add(SCOPE, alias(1, expires_us=expires_us), vector(1))
    await ids(index)
    client: Any = Redis.from_url(search_server.url, protocol=2)
    [key] = await client.keys("llmgate:v:*")

    assert await client.pexpiretime(key) == expires_us // 1000
    await client.aclose()
    await index.aclose()


async def test_garbage_in_redis_is_passed_over(search_server: SearchStandIn) -> None:
    index = index_of(search_server)
    await index.add(SCOPE, alias(1), vector(1))
    client: Any = Redis.from_url(search_server.url, protocol=2)
    [key] = await client.keys("llmgate:v:*")
    row = await client.hgetall(key)
    for number, text in enumerate(("", "no json", "[]", "[1,2,3,4,5,6,7]", '{"a": 1}')):
        made = key.decode()[:-32] + f"{number + 100:032x}"
        await client.hset(made, mapping={**row, b"alias": text})
    # As if it were of another scope, whatever the search module thinks.
    foreign = key.decode().replace(SCOPE, OTHER)
    await client.hset(foreign, mapping=row)

    assert await ids(index) == [1]
    assert len(await index.listed()) == 2
    await client.aclose()
    await index.aclose()


@pytest.mark.parametrize("is_decoding", [False, True], ids=["bytes", "decoded"])
@pytest.mark.parametrize("protocol", [None, 2, 3])
async def test_any_client_may_be_given(
    search_server: SearchStandIn, protocol: int | None, is_decoding: bool
) -> None:
    options: dict[str, Any] = {} if protocol is None else {"protocol": protocol}
    client = Redis.from_url(search_server.url, decode_responses=is_decoding, **options)
    await client.ping()
    index = RedisVectorIndex(client, timeout_s=5)
    await index.add(SCOPE, alias(1, question="Grüße"), vector(1))

    [found] = await index.nearest(SCOPE, vector(1), limit=3)
    assert found.alias.question == "Grüße"
    await index.aclose()
    assert await client.ping()
    await client.aclose()


async def test_a_url_may_ask_for_protocol_3(search_server: SearchStandIn) -> None:
    url = search_server.url + "?protocol=3&decode_responses=true"
    index = RedisVectorIndex.from_url(url, timeout_s=5)
    await index.add(SCOPE, alias(1), vector(1))

    assert await ids(index) == [1]
    assert b"3" not in search_server.hellos
    await index.aclose()


async def test_what_is_no_client_of_one_server_is_refused() -> None:
    cluster = RedisCluster.__new__(RedisCluster)
    sentinels: Any = Sentinel
    sentinel = sentinels([("127.0.0.1", 1)]).master_for("main")
    clients: list[Any] = [cluster, sentinel]
    for client in clients:
        with pytest.raises(ConfigurationError, match=r"HINT: .*protocol=2"):
            RedisVectorIndex(client)
    await sentinel.aclose()


async def test_whether_redis_can_search_is_known_before(
    search_server: SearchStandIn, redis_server: RedisServer
) -> None:
    able, plain = index_of(search_server), index_of(redis_server)

    assert await able.has_search()
    assert not await plain.has_search()
    redis_server.kill()
    with pytest.raises(BackendError):
        await plain.has_search()
    await able.aclose()
    await plain.aclose()


async def test_a_user_who_may_not_search_has_no_search(search_server: SearchStandIn) -> None:
    search_server.missing = "NOPERM User gate has no permissions to run the 'ft.search' command"
    index = index_of(search_server)

    assert not await index.has_search()
    await index.aclose()


async def test_a_redis_without_search_is_a_failing_index(redis_server: RedisServer) -> None:
    index = index_of(redis_server)

    with pytest.raises(BackendError):
        await index.nearest(SCOPE, vector(1), limit=1)
    with pytest.raises(BackendError):
        await index.add(SCOPE, alias(1), vector(1))
    await index.aclose()


async def test_a_redis_that_is_killed_fails_and_comes_back(maltreated: SearchStandIn) -> None:
    index = index_of(maltreated)
    await index.add(SCOPE, alias(1), vector(1))
    maltreated.redis.kill()
    for act in (
        lambda: index.nearest(SCOPE, vector(1), limit=1),
        lambda: index.add(SCOPE, alias(2), vector(1)),
        lambda: index.remove(SCOPE, [alias(1).id]),
        lambda: index.remove_answer(SCOPE, answer(1)),
        index.purge,
        index.listed,
        index.size,
    ):
        with pytest.raises(BackendError):
            await act()
    maltreated.indexes.clear()
    await asyncio.to_thread(maltreated.redis.start)
    index._guard.open_until_s = 0.001  # as a second later

    assert await ids(index) == []
    await index.add(SCOPE, alias(3), vector(1))
    assert await ids(index) == [3]
    await index.aclose()


async def test_a_frozen_redis_costs_little_and_once(maltreated: SearchStandIn) -> None:
    index = RedisVectorIndex.from_url(maltreated.url)
    index._guard.timeout_s = 5
    await index.add(SCOPE, alias(1), vector(1))
    index._guard.timeout_s = 0.05
    maltreated.redis.freeze()
    took = []
    for _ in range(10):
        began = time.perf_counter()
        with pytest.raises(BackendError):
            await index.nearest(SCOPE, vector(1), limit=1)
        took.append(time.perf_counter() - began)
    maltreated.redis.thaw()

    assert took[0] < 0.5
    assert sorted(took)[5] < 0.02
    await index.aclose()


async def test_asking_a_frozen_redis_what_it_can_do_costs_little_and_once(
    redis_server: RedisServer,
) -> None:
    index = RedisVectorIndex.from_url(redis_server.url)
    redis_server.freeze()
    took = []
    for _ in range(10):
        began = time.perf_counter()
        with pytest.raises(BackendError):
            await index.has_search()
        took.append(time.perf_counter() - began)
    redis_server.thaw()

    assert sorted(took)[5] < 0.02
    await index.aclose()


async def test_an_error_tells_nothing_of_the_url(redis_server: RedisServer) -> None:
    redis_server.kill()
    index = RedisVectorIndex.from_url(f"redis://me:hunter2@127.0.0.1:{redis_server.port}/0")

    with pytest.raises(BackendError) as caught:
        await index.nearest(SCOPE, vector(1), limit=1)

    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    await index.aclose()


async def test_all_of_a_large_answer_are_removed(search_server: SearchStandIn) -> None:
    index = index_of(search_server)
    for number, one in enumerate(random_vectors(520)):
        await index.add(SCOPE, alias(number, answer=answer(7)), one)

    assert await index.remove_answer(SCOPE, answer(7)) == 520
    assert (await index.size()).aliases == 0
    await index.aclose()
