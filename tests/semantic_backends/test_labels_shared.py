"""What may become of labels that several processes share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_llmgate.backends.labels_redis import RedisLabelStore
from asgi_llmgate.backends.labels_sqlite import LABELS_FILE, SqliteLabelStore
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import LabelStore
from tests.cache.redis_server import RedisServer

P = "a" * 16
ACL_USER = "on >secret ~llmgate:* resetchannels +@all -@scripting -@dangerous"


@pytest.fixture(params=["sqlite", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], LabelStore]:
    if request.param == "sqlite":
        return lambda: SqliteLabelStore(tmp_path)
    server: RedisServer = request.getfixturevalue("redis_for_all")
    server.command("FLUSHALL")
    return lambda: RedisLabelStore.from_url(server.url, timeout_s=5)


async def test_two_processes_share_what_was_learned(make: Callable[[], LabelStore]) -> None:
    one, two = make(), make()
    await one.append(P, [b"a"])
    read = await two.since(P, after=0, model_version=0)
    await two.append(P, [b"b"])
    version = await two.set_model(P, b"model")
    later = await one.since(P, after=read.last, model_version=0)
    await two.reset(P)
    afterwards = await one.since(P, after=later.last, model_version=version)

    assert read.labels == [b"a"]
    assert later.labels == [b"b"]
    assert later.model == (version, b"model")
    assert later.epoch == read.epoch
    assert afterwards.epoch != read.epoch
    assert await one.set_model(P, b"next") > version
    await one.aclose()
    await two.aclose()


async def test_two_who_add_models_at_once_end_with_one(make: Callable[[], LabelStore]) -> None:
    one, two = make(), make()
    versions = await asyncio.gather(
        *(store.set_model(P, b"%d" % number) for number, store in enumerate([one, two] * 5))
    )
    read = [await store.since(P, after=0, model_version=0) for store in (one, two)]

    assert len(set(versions)) == 10
    assert read[0].model == read[1].model
    assert read[0].model is not None
    assert read[0].model[0] == max(versions)
    assert read[0].model[1] == b"%d" % versions.index(max(versions))
    await one.aclose()
    await two.aclose()


async def test_a_file_that_was_deleted_begins_anew_and_above(tmp_path: Path) -> None:
    store = SqliteLabelStore(tmp_path)
    await store.append(P, [b"a", b"b"])
    version = await store.set_model(P, b"model")
    before = await store.since(P, after=0, model_version=0)
    for path in tmp_path.iterdir():
        path.unlink()
    await store.append(P, [b"c"])
    after = await store.since(P, after=before.last, model_version=version)

    assert after.epoch != before.epoch
    assert after.labels == [b"c"]
    assert await store.set_model(P, b"next") > version
    await store.aclose()


async def test_a_redis_that_lost_everything_begins_anew_and_above(
    redis_for_all: RedisServer,
) -> None:
    store = RedisLabelStore.from_url(redis_for_all.url, timeout_s=5)
    await store.append(P, [b"a", b"b"])
    version = await store.set_model(P, b"model")
    before = await store.since(P, after=0, model_version=0)
    redis_for_all.command("FLUSHALL")
    await store.append(P, [b"c"])
    after = await store.since(P, after=before.last, model_version=version)

    assert after.epoch != before.epoch
    assert after.labels == [b"c"]
    await store.aclose()


async def test_a_damaged_file_is_a_failing_store(tmp_path: Path) -> None:
    (tmp_path / LABELS_FILE).write_bytes(b"no database, but long enough to be taken for one" * 99)
    store = SqliteLabelStore(tmp_path)

    with pytest.raises(BackendError):
        await store.append(P, [b"a"])
    with pytest.raises(BackendError):
        await store.since(P, after=0, model_version=0)
    await store.aclose()


async def test_a_redis_that_is_gone_is_a_failing_store(redis_server: RedisServer) -> None:
    store = RedisLabelStore.from_url(redis_server.url)
    redis_server.kill()

    with pytest.raises(BackendError):
        await store.append(P, [b"a"])
    with pytest.raises(BackendError):
        await store.since(P, after=0, model_version=0)
    with pytest.raises(BackendError):
        await store.reset(P)
    with pytest.raises(BackendError):
        await store.partitions()
    await store.aclose()


async def test_garbage_in_redis_is_a_failing_store(redis_server: RedisServer) -> None:
    store = RedisLabelStore.from_url(redis_server.url, timeout_s=5)
    redis_server.command("SET", f"llmgate:labels:{P}:epoch", "no number")

    with pytest.raises(BackendError):
        await store.since(P, after=0, model_version=0)
    await store.aclose()


async def test_a_user_without_scripting_and_dangerous_commands_is_enough(
    redis_server: RedisServer,
) -> None:
    redis_server.command("ACL", "SETUSER", "gate", *ACL_USER.split())
    url = redis_server.url.replace("//", "//gate:secret@")
    store = RedisLabelStore.from_url(url, timeout_s=5)
    await store.append(P, [b"a"])
    await store.set_model(P, b"model")

    assert (await store.since(P, after=0, model_version=0)).labels == [b"a"]
    assert await store.partitions() == [P]
    await store.reset(P)
    assert await store.partitions() == []
    await store.aclose()
