from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from asgi_llmgate.backends.labels_memory import MemoryLabelStore
from asgi_llmgate.backends.labels_redis import RedisLabelStore
from asgi_llmgate.backends.labels_sqlite import SqliteLabelStore
from asgi_llmgate.backends.vectors_memory import MemoryVectorIndex
from asgi_llmgate.backends.vectors_redis import RedisVectorIndex
from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex
from asgi_llmgate.protocols import LabelStore, VectorIndex
from tests.cache.conftest import redis_for_all, redis_server
from tests.cache.redis_server import RedisServer
from tests.semantic_backends.making import TEST_PREFIX
from tests.semantic_backends.search_stand_in import SearchStandIn

__all__ = ["redis_for_all", "redis_server"]


@pytest.fixture
def search_server(redis_for_all: RedisServer) -> Iterator[SearchStandIn]:
    """A Redis with the search module, as far as we use it."""
    redis_for_all.command("FLUSHALL")
    server = SearchStandIn(redis_for_all)
    yield server
    server.stop()


REAL_SEARCH_URL = os.environ.get("LLMGATE_TEST_REDIS_SEARCH_URL", "")


@pytest.fixture
def real_search_url() -> Iterator[str]:
    """The URL of a real Redis with the search module; what a test leaves there is removed."""
    if not REAL_SEARCH_URL:
        pytest.skip("LLMGATE_TEST_REDIS_SEARCH_URL is not set")
    wipe(REAL_SEARCH_URL)
    yield REAL_SEARCH_URL
    wipe(REAL_SEARCH_URL)


def wipe(url: str) -> None:
    """Remove our indexes with their rows, and no more: the server may be somebody's."""
    client: Any = Redis.from_url(url, protocol=2)
    for name in client.execute_command("FT._LIST"):
        if name.startswith(TEST_PREFIX.encode()):
            client.execute_command("FT.DROPINDEX", name, "DD")
    for key in client.scan_iter(match=f"{TEST_PREFIX}*"):
        client.delete(key)
    client.close()


@pytest.fixture(
    params=["memory", "sqlite", "redis", pytest.param("real", marks=pytest.mark.redis_search)]
)
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorIndex]:
    made: VectorIndex
    match request.param:
        case "memory":
            made = MemoryVectorIndex()
        case "sqlite":
            made = SqliteVectorIndex(tmp_path)
        case "redis":
            server: SearchStandIn = request.getfixturevalue("search_server")
            # Other tests run on the same two cores; the limit itself is tested elsewhere.
            made = RedisVectorIndex.from_url(server.url, timeout_s=5)
        case _:
            url: str = request.getfixturevalue("real_search_url")
            made = RedisVectorIndex.from_url(url, timeout_s=5, prefix=TEST_PREFIX)
    yield made
    await made.aclose()


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def labels(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LabelStore]:
    made: LabelStore
    match request.param:
        case "memory":
            made = MemoryLabelStore(window=100)
        case "sqlite":
            made = SqliteLabelStore(tmp_path, window=100)
        case _:
            server: RedisServer = request.getfixturevalue("redis_for_all")
            server.command("FLUSHALL")
            made = RedisLabelStore.from_url(server.url, timeout_s=5, window=100)
    yield made
    await made.aclose()
