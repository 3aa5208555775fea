"""Call providers over HTTP/1.1 inside the event loop, parsed by httptools (Node's llhttp).

No thread stands between a call and its socket, so a call costs less than half of what it costs
with pyreqwest, and a cancellation closes the connection wherever it finds the call. Not here:
HTTP/2, and connecting to several addresses of a name at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from asgi_llmgate.errors import UpstreamConnectError
from asgi_llmgate.protocols import UpstreamRequest
from asgi_llmgate.upstream.h1_connection import Connection, Exchange, Origin
from asgi_llmgate.upstream.h1_pool import Pool
from asgi_llmgate.upstream.parts import (
    DEFAULT_MAX_CONNECTIONS,
    OWN_HEADERS,
    SLICE_BYTES,
    cannot_be_sent,
    client_context,
    slices,
)
from asgi_llmgate.upstream.per_loop import PerLoop
from asgi_llmgate.upstream.timer import FIRST_BYTE, WRITE, Clock, TaskTimer, clock_here

__all__ = ["H1Upstream"]

# RFC 9110 §5.6.2, and what may stand in a request line.
TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TARGET = bytes(range(0x21, 0x7F)).replace(b"#", b"")
HOST = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-_:[]"
DEFAULT_PORTS = {"http": 80, "https": 443}


class H1Upstream:
    """An `Upstream` on sockets of the event loop.

    Args:
        max_connections: Connections open at once, idle ones included; a further call waits for
            `pool_s`. None means no limit.
        ca_file: Certificates in PEM format to trust beside certifi's.
    """

    def __init__(
        self,
        *,
        max_connections: int | None = DEFAULT_MAX_CONNECTIONS,
        ca_file: Path | None = None,
    ) -> None:
        self.max_connections = max_connections
        self.ca_file = ca_file
        self._clock: Clock | None = None
        self._context: ssl.SSLContext | None = None
        self._pools = PerLoop(self._make)

    async def open(self, request: UpstreamRequest, /) -> Exchange:
        origin, head, body = encode(request)
        pool = self._pools.here() or await self._pools.make()
        clock = self._clock = clock_here(self._clock)
        timer = TaskTimer(clock, request.timeouts)
        try:
            connection = pool.take(origin) or await pool.connect(origin, timer)
        except BaseException:
            timer.stop()
            raise
        exchange = Exchange(connection, timer, request.method == "HEAD")
        connection.begin(exchange, head)
        try:
            if body is None:
                exchange.is_sending = False
            else:
                await upload(body, connection, exchange, timer)
            while exchange.status == 0:
                if exchange.error is not None:
                    raise exchange.error
                await exchange.news(request.timeouts.first_byte_s, FIRST_BYTE)
        except BaseException:
            await exchange.aclose()
            raise
        return exchange

    async def aclose(self) -> None:
        await self._pools.aclose()

    def _make(self) -> Pool:
        if self._context is None:
            self._context = client_context(self.ca_file)
            self._context.set_alpn_protocols(["http/1.1"])
        return Pool(self.max_connections, self._context)


class Upload(NamedTuple):
    """A body that is written bit by bit. `length` is None if unknown: then it goes chunked."""

    chunks: AsyncIterator[bytes]
    length: int | None


async def upload(
    body: Upload, connection: Connection, exchange: Exchange, timer: TaskTimer
) -> None:
    """Write `body`, unless the response is there before its end.

    Raises:
        UpstreamConnectError: the connection was lost, or the body is not as long as announced.
    """
    write, left = connection.transport.write, body.length
    while True:
        timer.begin(None, WRITE)  # the caller's time: only the total counts
        try:
            chunk = await anext(body.chunks, None)
        except asyncio.CancelledError:
            if (late := timer.end()) is not None:
                raise late from None
            raise
        if (late := timer.end()) is not None:
            raise late
        if exchange.error is not None:
            raise exchange.error
        if exchange.status != 0:
            return  # and `is_sending` stays, so that the connection is not used again
        if chunk is None:
            break
        if left is not None:
            left -= len(chunk)
            if left < 0:
                break
            write(chunk)
        elif chunk:
            write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        while not connection.can_write and exchange.status == 0:
            await exchange.news(timer.timeouts.write_s, WRITE)
            if exchange.error is not None:
                raise exchange.error
    if left:
        raise UpstreamConnectError("The request body is not as long as its Content-Length.")
    if left is None:
        write(b"0\r\n\r\n")
    exchange.is_sending = False


class Place(NamedTuple):
    origin: Origin
    host: bytes
    path: bytes


@lru_cache(maxsize=1024)
def locate(url: str) -> Place | None:
    """Take an ASCII URL without its query apart; None if it is malformed."""
    scheme, _, rest = url.partition("://")
    netloc, _, path = rest.partition("/")
    host = netloc.encode()
    if scheme not in DEFAULT_PORTS or not host or host.translate(None, HOST):
        return None
    try:
        parts = urlsplit(f"//{netloc}")
        port = parts.port or DEFAULT_PORTS[scheme]
    except ValueError:
        return None
    return Place(Origin(scheme == "https", parts.hostname or "", port), host, f"/{path}".encode())


def encode(request: UpstreamRequest) -> tuple[Origin, bytes, Upload | None]:
    """Return where to connect, what to write at once, and what to write afterwards.

    Raises:
        InvalidRequestError: it could be read as something else than it is.
    """
    url, question, query = request.url.partition("?")
    place = locate(url) if request.url.isascii() and request.method.isascii() else None
    if place is None:
        raise cannot_be_sent(request)
    origin, host, path = place
    target = path + f"{question}{query}".encode()
    names = [request.method.encode()]
    body, upload, length = request.body, None, None
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (names[0], target, host)]
    for name, value in request.headers:
        if name not in OWN_HEADERS:
            names.append(name)
            lines.append(b"%b: %b" % (name, value))
        elif name == b"content-length" and value.isdigit():
            length = int(value)
    if isinstance(body, bytes):
        length = len(body)
    elif body is None:
        length = None
    if length is not None:
        lines.append(b"content-length: %d" % length)
    elif body is not None:
        lines.append(b"transfer-encoding: chunked")
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    # No line may hold another, no name an end of names, and no target the end of the target.
    if (
        not head.count(b"\r") == head.count(b"\n") == len(lines) + 1
        or b"\0" in head
        or b"".join(names).translate(None, TOKEN)
        or not all(names)
        or target.translate(None, TARGET)
    ):
        raise cannot_be_sent(request)
    if isinstance(body, bytes):
        if len(body) <= SLICE_BYTES:
            return origin, head + body, None
        body = slices(body)
    if body is not None:
        upload = Upload(body, length)
    return origin, head, upload
