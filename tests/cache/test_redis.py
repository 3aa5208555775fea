"""What may become of Redis, with a real one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from asgi_llmgate.backends.cache_redis import RedisCacheStore
from asgi_llmgate.core.cache_plan import BUMPS, generation_name
from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware.cache import CacheMiddleware
from tests.asgi import CHAT, call
from tests.cache.model import Model
from tests.cache.redis_server import RedisServer
from tests.lag import loop_lag

ACL_USER = "on >secret ~llmgate:* resetchannels +@all -@scripting -@dangerous"


def cached(model: Model, store: RedisCacheStore) -> CacheMiddleware:
    return CacheMiddleware(model, store=store, namespace="app")


def status(exchange: Any) -> str | None:
    found: str | None = exchange.headers.get("llmgate-cache")
    return found


async def test_no_call_fails_while_redis_is_killed_and_comes_back(
    model: Model, redis_server: RedisServer
) -> None:
    store = RedisCacheStore.from_url(redis_server.url)
    app = cached(model, store)
    await call(app, CHAT)
    assert status(await call(app, CHAT)) == "HIT"
    redis_server.kill()
    during = [await call(app, CHAT) for _ in range(20)]
    await asyncio.to_thread(redis_server.start)
    store._guard.open_until_s = 0.001  # as a second later
    after = [await call(app, CHAT) for _ in range(2)]

    assert {exchange.status for exchange in (*during, *after)} == {200}
    assert {status(exchange) for exchange in during} == {"BYPASS"}
    assert [status(exchange) for exchange in after] == ["MISS", "HIT"]
    await store.aclose()


async def test_a_frozen_redis_costs_little_and_once(
    model: Model, redis_server: RedisServer
) -> None:
    store = RedisCacheStore.from_url(redis_server.url)
    app = cached(model, store)
    await call(app, CHAT)
    redis_server.freeze()
    waited = []
    async with loop_lag() as lag:
        for _ in range(10):
            began, late_s = time.perf_counter(), lag.late_s
            assert (await call(app, CHAT)).status == 200
            # What the machine is busy with is not the price of a frozen Redis.
            waited.append(time.perf_counter() - began - (lag.late_s - late_s))
    redis_server.thaw()

    assert waited[0] < 0.15
    assert sorted(waited)[5] < 0.02
    assert max(waited[1:]) < 0.15
    await store.aclose()


async def test_an_invalidation_that_nobody_heard_is_not_acknowledged(
    redis_server: RedisServer,
) -> None:
    store = RedisCacheStore.from_url(redis_server.url)
    redis_server.kill()

    with pytest.raises(BackendError):
        await store.bump(["tag:x"])
    with pytest.raises(BackendError):
        store.bump_blocking(["tag:x"])
    await store.aclose()


async def test_a_generation_that_was_evicted_makes_misses(
    model: Model, redis_server: RedisServer
) -> None:
    store = RedisCacheStore.from_url(redis_server.url, timeout_s=1)
    app = cached(model, store)
    headers = {"llmgate-cache-tags": "t"}
    await call(app, CHAT, headers=headers)
    await store.bump([generation_name("tag", "t"), BUMPS])
    redis_server.command("DEL", "llmgate:g:tag:t", "llmgate:g:bumps")

    assert status(await call(app, CHAT, headers=headers)) == "MISS"
    await store.aclose()


async def test_garbage_in_redis_costs_misses_and_no_error(
    model: Model, redis_server: RedisServer
) -> None:
    store = RedisCacheStore.from_url(redis_server.url, timeout_s=1)
    app = cached(model, store)
    first = await call(app, CHAT)
    key = first.headers["cache-status"].partition('key="')[2][:64]
    name = f"llmgate:e:{key}:0"
    for garbage in ("", "x", "\x80\x04pickle" * 10, "Z" * 30, "z" * 300):
        redis_server.command("SET", name, garbage)
        answer = await call(app, CHAT)
        assert (answer.status, status(answer)) == (200, "MISS")
    for command in (("LPUSH", name, "a"), ("SET", "llmgate:g:all", "no number")):
        redis_server.command("DEL", command[1])
        redis_server.command(*command)
        store._guard.open_until_s = 0.0
        assert (await call(app, CHAT)).status == 200
    await store.aclose()


async def test_a_user_without_scripting_and_dangerous_commands_is_enough(
    model: Model, redis_server: RedisServer
) -> None:
    redis_server.command("ACL", "SETUSER", "gate", *ACL_USER.split())
    url = redis_server.url.replace("//", "//gate:secret@")
    store = RedisCacheStore.from_url(url, timeout_s=1)
    app = cached(model, store)
    await call(app, CHAT)

    assert status(await call(app, CHAT)) == "HIT"
    await store.bump([generation_name("tag", "x"), BUMPS])
    store.bump_blocking(["tag:x"])
    assert (await store.size()).entries == 1
    assert await store.delete_older(int(time.time() * 1e6) + 10**9) == 1
    await store.aclose()


async def test_an_error_tells_nothing_of_the_url(redis_server: RedisServer) -> None:
    redis_server.kill()
    store = RedisCacheStore.from_url(f"redis://me:hunter2@127.0.0.1:{redis_server.port}/0")

    with pytest.raises(BackendError) as caught:
        await store.generations(["a"])

    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    await store.aclose()
