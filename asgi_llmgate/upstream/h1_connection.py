"""One HTTP/1.1 connection in the event loop, and one exchange on it.

A connection carries one exchange at a time, and an exchange lives on exactly one connection:

    idle ──begin──▶ busy ──whole response, whole request, keep-alive──▶ idle
                      └──anything else──▶ aborted

Bytes that arrive while idle, or after the end of a response, abort the connection: what follows
on it could be taken for the answer to somebody else's request.
"""

from __future__ import annotations

import asyncio
import select
from typing import NamedTuple, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from asgi_llmgate.errors import UpstreamBrokenError, UpstreamConnectError
from asgi_llmgate.protocols import RawHeaders
from asgi_llmgate.upstream.parts import BROKEN, NO_ANSWER
from asgi_llmgate.upstream.timer import IDLE, TaskTimer

__all__ = ["Connection", "Exchange", "Origin", "Owner"]

# A reader that is slower than the provider holds it back once this much waits for him.
MAX_WAITING_BYTES = 256 * 1024

# httptools sets no bound. httpcore stops at 100 KiB, hyper at about 400.
MAX_HEAD_BYTES = 128 * 1024


class Origin(NamedTuple):
    is_tls: bool
    host: str
    port: int


class Owner(Protocol):
    def made(self, connection: Connection, /) -> None:
        """`connection` is there, and idle."""

    def freed(self, connection: Connection, /) -> None:
        """`connection` can carry another exchange."""

    def lost(self, connection: Connection, /) -> None:
        """`connection` is gone."""


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, owner: Owner, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.loop = loop
        self.idle_since = 0.0
        self.can_write = True
        self.exchange: Exchange | None = None
        self.parser: HttpResponseParser | None = None
        self._owner = owner
        self._arrivals = select.poll()

    def begin(self, exchange: Exchange, head: bytes) -> None:
        if self.transport.is_closing():
            exchange.fail()
            return
        self.exchange = exchange
        self.parser = HttpResponseParser(exchange)
        self.transport.write(head)

    def abort(self) -> None:
        """Close at once, without waiting for what is still to be written."""
        self.exchange = self.parser = None
        self.transport.abort()

    def is_usable(self) -> bool:
        """Whether the other side has neither closed this idle connection nor sent anything."""
        # The loop may not have looked at the socket since, so this asks the system.
        return not self.transport.is_closing() and not self._arrivals.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        exchange, parser = self.exchange, self.parser
        if exchange is None or parser is None:
            self.abort()
            return
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.abort()
            exchange.fail()
            return
        exchange.fed(len(data))
        if exchange.complete:
            if exchange.keep_alive and not exchange.is_sending:
                self.exchange = self.parser = None
                self._owner.freed(self)
            else:
                self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self.exchange
        self.exchange = self.parser = None
        if exchange is not None:
            if exc is None and exchange.ends_with_connection:
                exchange.finish()
            else:
                exchange.fail()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self.can_write = False

    def resume_writing(self) -> None:
        self.can_write = True
        if self.exchange is not None:
            self.exchange.wake()


class Exchange:
    """A request under way and its response; both the parser's listener and the reader's side."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_head_bytes",
        "_is_head",
        "_is_held",
        "_timer",
        "_waiter",
        "_waiting_bytes",
        "complete",
        "error",
        "headers",
        "is_sending",
        "keep_alive",
        "status",
    )

    def __init__(self, connection: Connection, timer: TaskTimer, is_head: bool) -> None:
        self.status = 0
        self.headers: RawHeaders = []
        self.complete = False
        self.keep_alive = False
        self.is_sending = True
        self.error: Exception | None = None
        self._connection = connection
        self._timer = timer
        self._is_head = is_head
        self._head_bytes = 0
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._is_held = False
        self._waiter: asyncio.Future[None] | None = None

    # The reader's side

    async def read(self) -> bytes:
        while not self._chunks:
            if self.error is not None:
                raise self.error
            if self.complete:
                return b""
            await self.news(self._timer.timeouts.idle_s, IDLE)
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._waiting_bytes = 0
        self._hold(False)
        return data

    async def aclose(self) -> None:
        self._timer.stop()
        self._chunks.clear()
        self.complete = True
        if self._connection.exchange is self:
            self._connection.abort()

    async def news(self, limit_s: float | None, message: str) -> None:
        """Wait until something happened; if time runs out, that is an error that happened."""
        waiter = self._waiter = self._connection.loop.create_future()
        self._timer.wait(self._expire, limit_s, message)
        try:
            await waiter
        finally:
            self._waiter = None
            self._timer.done()

    def _expire(self) -> None:
        self.error = self._timer.error()
        self.wake()

    # The connection's side

    @property
    def ends_with_connection(self) -> bool:
        framing = (b"content-length", b"transfer-encoding")
        return self.status != 0 and not any(name in framing for name, _ in self.headers)

    def fed(self, size: int) -> None:
        if self.status == 0:
            self._head_bytes += size
            if self._head_bytes > MAX_HEAD_BYTES:
                self._connection.abort()
                self.fail()
        elif self.complete:
            self.finish()
        else:
            if self._waiting_bytes > MAX_WAITING_BYTES:
                self._hold(True)
            self.wake()

    def finish(self) -> None:
        self.complete = True
        self._timer.stop()
        self._hold(False)
        self.wake()

    def _hold(self, hold: bool) -> None:
        transport = self._connection.transport
        if hold is not self._is_held and not transport.is_closing():
            self._is_held = hold
            (transport.pause_reading if hold else transport.resume_reading)()

    def fail(self) -> None:
        no_answer = self.status == 0
        self.error = UpstreamConnectError(NO_ANSWER) if no_answer else UpstreamBrokenError(BROKEN)
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The parser's side

    def on_message_begin(self) -> None:
        if self.complete:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status == 0:  # else it is a trailer
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._connection.parser
        if parser is None or self.status != 0:
            return
        status = parser.get_status_code()
        if status < 200:  # an informational response; the real one follows
            self.headers.clear()
            return
        self.status = status
        self.keep_alive = parser.should_keep_alive()
        self.complete = self._is_head

    def on_body(self, data: bytes) -> None:
        if self.complete:
            self.keep_alive = False
        else:
            self._chunks.append(data)
            self._waiting_bytes += len(data)

    def on_message_complete(self) -> None:
        if self.status != 0:
            self.complete = True
