"""Every transport, a server for it, and both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from asgi_llmgate.protocols import Upstream
from asgi_llmgate.upstream.h1 import H1Upstream
from asgi_llmgate.upstream.httpx import HttpxUpstream
from asgi_llmgate.upstream.pyreqwest import PyreqwestUpstream
from tests.upstream.server import Server, serving

TRANSPORTS: dict[str, Callable[..., Upstream]] = {
    "pyreqwest": PyreqwestUpstream,
    "httpx": HttpxUpstream,
    "h1": H1Upstream,
}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops, for their sockets, timers and TLS differ."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=TRANSPORTS)
def make(request: pytest.FixtureRequest) -> Callable[..., Upstream]:
    return TRANSPORTS[request.param]


@pytest.fixture
async def upstream(make: Callable[..., Upstream]) -> AsyncIterator[Upstream]:
    upstream = make()
    yield upstream
    await upstream.aclose()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server
