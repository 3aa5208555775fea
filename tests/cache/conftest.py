from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
from asgi_llmgate.protocols import CacheStore
from tests.cache.model import Model


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheStore]:
    made: CacheStore
    made = MemoryCacheStore() if request.param == "memory" else SqliteCacheStore(tmp_path)
    yield made
    await made.aclose()
