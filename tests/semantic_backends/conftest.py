from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asgi_llmgate.backends.labels_memory import MemoryLabelStore
from asgi_llmgate.backends.labels_sqlite import SqliteLabelStore
from asgi_llmgate.backends.vectors_memory import MemoryVectorIndex
from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex
from asgi_llmgate.protocols import LabelStore, VectorIndex
from tests.cache.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "sqlite"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorIndex]:
    made: VectorIndex
    made = MemoryVectorIndex() if request.param == "memory" else SqliteVectorIndex(tmp_path)
    yield made
    await made.aclose()


@pytest.fixture(params=["memory", "sqlite"])
async def labels(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LabelStore]:
    made: LabelStore
    if request.param == "memory":
        made = MemoryLabelStore(window=100)
    else:
        made = SqliteLabelStore(tmp_path, window=100)
    yield made
    await made.aclose()
