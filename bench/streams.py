"""Streams: a provider that paces its chunks, callers that read them, callers that leave.

Both ends live in this process and share its clock, so the time from a caller's leaving to the
closing of the provider's socket needs no message between processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

from bench.payloads import CHAT_PATH, stream_chunk, stream_end

__all__ = ["CUT_WAIT_S", "Caller", "Pace", "StreamProvider", "leave", "read_streams"]

# A caller who left and is not noticed within this is not noticed at all.
CUT_WAIT_S = 1.0

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NO_STREAM = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How a provider streams. With `stalls` it falls silent after the first chunk."""

    chunks: int
    spacing_s: float
    stalls: bool = False


class StreamProvider:
    """An HTTP/1.1 server that answers every POST with a stream at `pace`."""

    def __init__(self) -> None:
        self.pace = Pace(chunks=1, spacing_s=0.0)
        self.port = 0
        self.cut_at_ns: asyncio.Queue[int] = asyncio.Queue()
        """`time.perf_counter_ns` whenever a stream's socket was closed before its end."""
        self.begun = 0
        self.streaming: set[_Stream] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Stream(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()

    def drop(self) -> None:
        """Close what still streams, without noting it."""
        for stream in tuple(self.streaming):
            stream.abort()


class _Stream(asyncio.Protocol):
    """One connection of a gateway to the provider: any number of streams, one after another."""

    def __init__(self, provider: StreamProvider) -> None:
        self._provider = provider
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = bytes(head).lower().split(b"\r\n")
        lengths = [line[15:] for line in lines if line.startswith(b"content-length:")]
        if lengths and len(body) < int(lengths[0]):
            return
        if (
            not lengths
            and b"transfer-encoding: chunked" in lines
            and not body.endswith(b"0\r\n\r\n")
        ):
            return
        self._received.clear()
        if not lines[0].startswith(b"post "):
            self._transport.write(_NO_STREAM)
            return
        self._provider.streaming.add(self)
        self._transport.write(_HEAD)
        # Streams that begin together would send together, and be relayed in batches. Multiples
        # of the golden ratio spread any number of them evenly.
        self._provider.begun += 1
        phase = self._provider.begun * 0.6180339887498949 % 1
        loop = asyncio.get_running_loop()
        self._due = loop.time() + phase * self._provider.pace.spacing_s
        self._timer = loop.call_at(self._due, self._send, 0)

    def _send(self, index: int) -> None:
        pace = self._provider.pace
        if index == pace.chunks:
            self._provider.streaming.discard(self)
            self._transport.write(_framed(stream_end(pace.chunks)) + b"0\r\n\r\n")
            return
        self._transport.write(_framed(stream_chunk(index)))
        if pace.stalls:
            return
        # Due times, not delays, so that a late timer does not slow the stream down.
        self._due += pace.spacing_s
        self._timer = asyncio.get_running_loop().call_at(self._due, self._send, index + 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self in self._provider.streaming:
            self._provider.streaming.discard(self)
            self._provider.cut_at_ns.put_nowait(time.perf_counter_ns())

    def abort(self) -> None:
        self._provider.streaming.discard(self)
        self._transport.abort()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Caller(asyncio.Protocol):
    """One caller: posts a request, counts what comes back, sees the end of the stream."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        loop = asyncio.get_running_loop()
        self.first_event: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.head = b""
        self.reads = 0
        self.events = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.head:
            self.head = data
        self.reads += 1
        # An event never ends inside the few bytes kept, so none is counted twice.
        text = self._tail + data
        self.events += text.count(b"data: ") - self._tail.count(b"data: ")
        self._tail = text[-8:]
        if self.events and not self.first_event.done():
            self.first_event.set_result(None)
        if b"[DONE]" in text and not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        error = ConnectionError(f"the stream broke off; it began {self.head[:200]!r}")
        for future in (self.first_event, self.ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # Looked at here: nobody may be waiting for both.


async def call(port: int, body: bytes, headers: Mapping[str, str]) -> Caller:
    """Connect, post `body` and return at once."""
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = head.encode() + b"\r\n" + body
    loop = asyncio.get_running_loop()
    _, caller = await loop.create_connection(lambda: Caller(request), "127.0.0.1", port)
    return caller


async def read_streams(
    port: int, body: bytes, headers: Mapping[str, str], *, streams: int, timeout_s: float = 60.0
) -> tuple[int, int]:
    """Read `streams` streams at once to their end; return how many events and reads there were."""
    callers = await asyncio.gather(*(call(port, body, headers) for _ in range(streams)))
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(caller.ended for caller in callers))
    finally:
        for caller in callers:
            caller.transport.close()
    return sum(caller.events for caller in callers), sum(caller.reads for caller in callers)


async def leave(
    port: int, body: bytes, headers: Mapping[str, str], provider: StreamProvider
) -> float | None:
    """Open a stream, leave after its first event, return the ms until the provider was cut off.

    None means that it was not within `CUT_WAIT_S`.
    """
    while not provider.cut_at_ns.empty():
        provider.cut_at_ns.get_nowait()
    caller = await call(port, body, headers)
    async with asyncio.timeout(30):
        await caller.first_event
    left_at_ns = time.perf_counter_ns()
    caller.transport.close()
    try:
        async with asyncio.timeout(CUT_WAIT_S):
            cut_at_ns = await provider.cut_at_ns.get()
    except TimeoutError:
        provider.drop()
        return None
    return (cut_at_ns - left_at_ns) / 1e6
