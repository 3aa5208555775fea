"""One `Idempotency-Key` is one call, whichever worker it reaches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from asgi_llmgate.backends.cache_redis import RedisCacheStore
from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware import _idempotent
from asgi_llmgate.middleware.idempotency import IdempotencyMiddleware
from asgi_llmgate.protocols import CacheRead, CacheStore
from tests import wire
from tests.asgi import CHAT, Exchange, call
from tests.cache.conftest import redis_for_all
from tests.cache.model import Model
from tests.cache.redis_server import RedisServer

__all__ = ["redis_for_all"]

KEY = {"Idempotency-Key": "order-7"}
SECRET = b"s" * 32
OTHER = {**CHAT, "model": "another"}


@pytest.fixture(params=["sqlite", "redis"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[CacheStore]]:
    """Two connections to one store, as two workers have them."""
    made: list[CacheStore]
    if request.param == "sqlite":
        made = [SqliteCacheStore(tmp_path) for _ in range(2)]
    else:
        server: RedisServer = request.getfixturevalue("redis_for_all")
        server.command("FLUSHALL")
        made = [RedisCacheStore.from_url(server.url, timeout_s=2) for _ in range(2)]
    yield made
    for store in made:
        await store.aclose()


@pytest.fixture
def model() -> Model:
    return Model()


def workers_of(model: Any, stores: list[CacheStore]) -> list[IdempotencyMiddleware]:
    return [IdempotencyMiddleware(model, store=store, secret=SECRET) for store in stores]


def is_replayed(exchange: Exchange) -> bool:
    return exchange.headers.get("idempotent-replayed") == "true"


async def began(model: Model) -> asyncio.Event:
    """Make the next answer wait for the returned event."""
    gate = asyncio.Event()
    model.script = [(200, [gate, wire.chat_body("gpt-4o")], b"application/json")]
    return gate


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_another_worker_gives_the_same_answer(
    model: Model, stores: list[CacheStore], stream: bool
) -> None:
    one, other = workers_of(model, stores)
    request = {**CHAT, "stream": stream}
    first = await call(one, request, headers=KEY)
    again = [await call(other, request, headers=KEY) for _ in range(2)]

    assert [each.body for each in again] == [first.body] * 2
    assert again[0].headers["content-type"] == first.headers["content-type"]
    assert [is_replayed(each) for each in (first, *again)] == [False, True, True]
    assert len(model.calls) == 1
    assert json.loads(json.dumps(model.calls[0])) == request


async def test_who_comes_to_another_worker_meanwhile_waits(
    model: Model, stores: list[CacheStore]
) -> None:
    one, other = workers_of(model, stores)
    gate = await began(model)
    first = asyncio.create_task(call(one, CHAT, headers=KEY))
    while not model.calls:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(call(other, CHAT, headers=KEY))
    done, _ = await asyncio.wait([second], timeout=0.1)
    assert not done
    different = await call(other, OTHER, headers={"Idempotency-Key": "order-8"})
    gate.set()

    assert (await second).body == (await first).body
    assert different.status == 200
    assert len(model.calls) == 2


@pytest.mark.parametrize("when", ["meanwhile", "afterwards"])
async def test_another_request_at_another_worker_is_a_422(
    model: Model, stores: list[CacheStore], when: str
) -> None:
    one, other = workers_of(model, stores)
    gate = await began(model)
    first = asyncio.create_task(call(one, CHAT, headers=KEY))
    while not model.calls:
        await asyncio.sleep(0.001)
    if when == "afterwards":
        gate.set()
        await first
    refused = await call(other, OTHER, headers=KEY)
    gate.set()

    assert refused.status == 422
    assert (await first).status == 200
    assert len(model.calls) == 1


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_a_failure_is_forgotten_by_all(
    model: Model, stores: list[CacheStore], status: int
) -> None:
    one, other = workers_of(model, stores)
    model.script = [(status, [b'{"error":{"message":"no"}}'], b"application/json")]
    failed = await call(one, CHAT, headers=KEY)
    answer = await call(other, CHAT, headers=KEY)

    assert (failed.status, answer.status) == (status, 200)
    assert not is_replayed(answer)


async def test_when_the_caller_leaves_another_worker_calls(
    model: Model, stores: list[CacheStore]
) -> None:
    one, other = workers_of(model, stores)
    await began(model)
    leaving = asyncio.create_task(call(one, CHAT, headers=KEY, leave_after=1))
    while not model.calls:
        await asyncio.sleep(0.001)
    answer = await call(other, CHAT, headers=KEY)
    await leaving

    assert answer.status == 200
    assert len(model.calls) == 2


async def test_a_worker_that_dies_releases_the_key(model: Model, stores: list[CacheStore]) -> None:
    shared = _idempotent.SharedAnswers(stores[0], SECRET, kept_s=600)
    assert await stores[0].acquire(shared.key_of("", b"order-7"), "dead", ttl_s=0.3)
    _, other = workers_of(model, stores)

    assert (await call(other, CHAT, headers=KEY)).status == 200


async def test_what_is_in_the_store_is_not_believed_unsigned(
    model: Model, stores: list[CacheStore]
) -> None:
    one, other = workers_of(model, stores)
    # By the worker that is asked next: who writes later may be written to the file earlier.
    shared = _idempotent.SharedAnswers(stores[1], b"x" * 32, kept_s=600)
    mine = _idempotent.SharedAnswers(stores[1], SECRET, kept_s=600)
    name = mine.key_of("", b"order-7")
    messages: list[Message] = [{"status": 200, "headers": []}, {"body": b"forged"}]
    digest = b"d" * 32
    await shared._write(name, _idempotent.ANSWER, digest, _idempotent._packed(messages), "id")

    assert b"forged" not in (await call(other, CHAT, headers=KEY)).body
    assert is_replayed(await call(one, CHAT, headers=KEY))


async def test_a_store_that_fails_costs_no_call(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SqliteCacheStore):
        async def acquire(self, key: CacheKey, holder: str, *, ttl_s: float) -> bool:
            raise BackendError("gone")

        async def read(self, *args: Any, **kwargs: Any) -> CacheRead:
            raise BackendError("gone")

    app = IdempotencyMiddleware(model, store=Broken(Path("unused")), secret=SECRET)
    first = await call(app, CHAT, headers=KEY)
    again = await call(app, CHAT, headers=KEY)

    assert (first.status, again.status, is_replayed(again)) == (200, 200, True)
    assert "not shared by workers" in caplog.text
