"""A provider in memory: implements `protocols.Upstream` without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from asgi_llmgate.protocols import RawHeaders, UpstreamRequest
from bench.payloads import ANSWER, stream_chunk, stream_end

__all__ = ["MemoryResponse", "MemoryUpstream"]

JSON_HEADERS: RawHeaders = [
    (b"server", b"nginx"),
    (b"date", b"Thu, 09 Oct 2025 10:00:00 GMT"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(ANSWER)).encode()),
]
STREAM_HEADERS: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


class MemoryResponse:
    """A response that gives the loop one turn per read, as a read from a socket does."""

    __slots__ = ("_chunks", "_headers")

    status = 200

    def __init__(self, headers: RawHeaders, chunks: Sequence[bytes]) -> None:
        self._headers = headers
        self._chunks = iter(chunks)

    @property
    def headers(self) -> RawHeaders:
        return self._headers

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return next(self._chunks, b"")

    async def aclose(self) -> None:
        pass


class MemoryUpstream:
    """Answers every request with the same completion, as JSON or as a stream of `chunks`."""

    def __init__(self, *, chunks: int = 0) -> None:
        self.calls = 0
        self.last: UpstreamRequest | None = None
        if chunks:
            self._headers = STREAM_HEADERS
            self._chunks = [stream_chunk(index) for index in range(chunks)] + [stream_end(chunks)]
        else:
            self._headers = JSON_HEADERS
            self._chunks = [ANSWER]

    async def open(self, request: UpstreamRequest, /) -> MemoryResponse:
        self.calls += 1
        self.last = request
        await asyncio.sleep(0)
        return MemoryResponse(self._headers, self._chunks)

    async def aclose(self) -> None:
        pass
