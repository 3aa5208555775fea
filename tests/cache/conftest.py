from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.cache_redis import RedisCacheStore
from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
from asgi_llmgate.protocols import CacheStore
from tests.cache.model import Model
from tests.cache.redis_server import RedisServer


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(scope="session")
def redis_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that a test may maltreat."""
    if shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheStore]:
    made: CacheStore
    if request.param == "memory":
        made = MemoryCacheStore()
    elif request.param == "sqlite":
        made = SqliteCacheStore(tmp_path)
    else:
        server: RedisServer = request.getfixturevalue("redis_for_all")
        server.command("FLUSHALL")
        # Other tests run on the same two cores; the limit itself is tested elsewhere.
        made = RedisCacheStore.from_url(server.url, timeout_s=2)
    yield made
    await made.aclose()
