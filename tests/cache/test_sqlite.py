"""What is particular to a file that several processes use."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

import apsw
import pytest

from asgi_llmgate.backends.cache_sqlite import CACHE_FILE, SqliteCacheStore
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.middleware.cache import CacheMiddleware
from tests import wire
from tests.asgi import CHAT, call
from tests.cache.model import Model
from tests.lag import machine_lag

KEY = CacheKey("0" * 64)


async def test_another_process_sees_what_was_written_and_moved(tmp_path: Path) -> None:
    one, two = SqliteCacheStore(tmp_path), SqliteCacheStore(tmp_path)
    before = await two.generations(["a"])
    await one.write(KEY, 0, b"x" * 5000, partition="p", ttl_s=100)
    await one.bump(["a"])
    await one.aclose()

    assert (await two.read(KEY, slots=1, names=())).values == [b"x" * 5000]
    assert (await two.generations(["a"]))["a"] != before["a"]
    await two.aclose()


async def test_two_workers_make_one_call(tmp_path: Path, model: Model) -> None:
    stores = [SqliteCacheStore(tmp_path), SqliteCacheStore(tmp_path)]
    apps = [CacheMiddleware(model, store=store, namespace="app") for store in stores]
    gate, began = asyncio.Event(), asyncio.Event()
    model.script = [(200, [gate, wire.chat_body("gpt-4o")], b"application/json")]
    model.on_call = began.set
    first = asyncio.create_task(call(apps[0], CHAT))
    await began.wait()
    refused = asyncio.Event()
    acquire = stores[1].acquire

    async def noted(key: CacheKey, holder: str, *, ttl_s: float) -> bool:
        got = await acquire(key, holder, ttl_s=ttl_s)
        if not got:
            refused.set()
        return got

    stores[1].acquire = noted  # type: ignore[method-assign]  # only listens
    second = asyncio.create_task(call(apps[1], CHAT))
    await refused.wait()
    gate.set()
    exchanges = await asyncio.gather(first, second)

    assert len(model.calls) == 1
    assert exchanges[0].body == exchanges[1].body
    assert "collapsed" in exchanges[1].headers["cache-status"]
    for store in stores:
        await store.aclose()


async def test_a_worker_that_died_holds_nobody_up(tmp_path: Path, model: Model) -> None:
    store = SqliteCacheStore(tmp_path)
    app = CacheMiddleware(model, store=store, namespace="app", lease_s=0.3, wait_s=0.2)
    probe = CacheMiddleware(model, store=store, namespace="app")
    await call(probe, CHAT, headers={"cache-control": "no-store"})
    taken = store.acquire

    async def never(key: CacheKey, holder: str, *, ttl_s: float) -> bool:
        # As if another worker had been faster, and killed.
        await taken(key, "dead", ttl_s=100)
        return await taken(key, holder, ttl_s=ttl_s)

    store.acquire = never  # type: ignore[method-assign]  # stands for the other worker
    began = time.monotonic()
    exchange = await call(app, CHAT)

    assert exchange.status == 200
    assert time.monotonic() - began < 2
    await store.aclose()


async def test_a_locked_file_delays_no_answer(tmp_path: Path, model: Model) -> None:
    store = SqliteCacheStore(tmp_path)
    app = CacheMiddleware(model, store=store, namespace="app")
    await call(app, CHAT)
    other = apsw.Connection(str(tmp_path / CACHE_FILE))
    other.execute("BEGIN EXCLUSIVE")
    with machine_lag() as lag:
        began = time.monotonic()
        for number in range(20):
            assert (await call(app, CHAT | {"seed": number})).status == 200
        assert (await call(app, CHAT)).headers["llmgate-cache"] == "HIT"
        took_s = time.monotonic() - began

    # A file that is waited for costs a second each time.
    assert took_s - lag.late_s < 0.5
    other.execute("ROLLBACK")
    other.close()
    await store.aclose()


async def test_a_file_that_was_deleted_is_made_anew(tmp_path: Path, model: Model) -> None:
    store = SqliteCacheStore(tmp_path)
    app = CacheMiddleware(model, store=store, namespace="app")
    await call(app, CHAT)
    await store.size()
    for path in tmp_path.iterdir():
        path.unlink()

    assert (await call(app, CHAT)).headers["llmgate-cache"] == "MISS"
    assert (await call(app, CHAT)).headers["llmgate-cache"] == "HIT"
    await store.aclose()


async def test_old_answers_make_room(tmp_path: Path) -> None:
    store = SqliteCacheStore(tmp_path, max_bytes=200_000)
    for number in range(100):
        value = b"LGC1" + number.to_bytes(8, "big") + os.urandom(10_000)
        await store.write(CacheKey(f"{number:064}"), 0, value, partition="p", ttl_s=100)
    await store.size()
    store._upkeep_at_s = 0.0
    await asyncio.to_thread(store._work)

    size = await store.size()
    assert 0 < size.bytes < 250_000
    newest = await store.read(CacheKey(f"{99:064}"), slots=1, names=())
    assert newest.values != [None]
    await store.aclose()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
async def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    store = SqliteCacheStore(tmp_path / "data")
    await store.write(KEY, 0, b"x", partition="p", ttl_s=100)
    await store.size()

    for path in (tmp_path / "data").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.aclose()
