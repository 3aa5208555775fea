from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from asgi_llmgate.backends.limits_memory import MemoryLimitStore
from asgi_llmgate.backends.limits_redis import RedisMeters
from asgi_llmgate.backends.limits_shared import SharedLimitStore
from asgi_llmgate.backends.limits_sqlite import SqliteMeters
from asgi_llmgate.core.meters import Claim
from asgi_llmgate.protocols import LimitStore, Taken
from tests.cache.redis_server import RedisServer
from tests.conftest import requires

MakeStore = Callable[[], LimitStore]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def redis_of_limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=requires("redis-server"))])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Make stores over the same meters: each is one worker. In memory there is only one."""
    made: list[LimitStore] = []
    prefix = f"test-{next(_numbers)}:"

    def make() -> LimitStore:
        store: LimitStore
        if request.param == "memory":
            store = made[0] if made else MemoryLimitStore()
        elif request.param == "sqlite":
            store = SharedLimitStore(SqliteMeters(tmp_path))
        else:
            server: RedisServer = request.getfixturevalue("redis_of_limits")
            meters = RedisMeters.from_url(server.url, prefix=prefix)
            # Other tests run on the same two cores; the time limit is tested elsewhere.
            meters.timeout_s = 5
            store = SharedLimitStore(meters)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.aclose()


@pytest.fixture
def store(make_store: MakeStore) -> LimitStore:
    return make_store()


async def take(store: LimitStore, *claims: Claim) -> Taken:
    taken = store.take(claims)
    return taken if isinstance(taken, Taken) else await taken
