"""A server that does byte by byte what a test tells it, on real sockets, in the test's own loop.

    connection = await server.accept()
    request = await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nhi")
    await connection.left()        # returns when the other side closed

Whatever waits here fails after `PATIENCE_S`, so that a test that would hang says where.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

PATIENCE_S = 10


@dataclass
class Received:
    """A request exactly as it came in."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    body: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> Received:
        async with asyncio.timeout(PATIENCE_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].split(b"\r\n")
        method, target, version = first.split(b" ")
        assert version == b"HTTP/1.1"
        headers = []
        for line in lines:
            name, value = line.split(b":", 1)
            headers.append((name.lower(), value.strip()))
        return Received(method.decode(), target, headers)

    async def request(self) -> Received:
        request = await self.head()
        if length := request.values(b"content-length"):
            request.body = await self.read(int(length[0]))
        elif request.values(b"transfer-encoding") == [b"chunked"]:
            while chunk := await self.chunk():
                request.body += chunk
        return request

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(size)

    async def chunk(self) -> bytes:
        """Return the next chunk of a chunked body; b"" is the last."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self.reader.readline(), 16)
            data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            self.writer.write(data)
            await self.writer.drain()

    async def left(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until the other side closed or reset the connection; drop what it still sends."""
        async with asyncio.timeout(patience_s):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while await self.reader.read(65536):
                    pass

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Server:
    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Connection] = asyncio.Queue()
        self.connections: list[Connection] = []
        self.requests: list[Received] = []
        self.port = 0
        self.scheme = "http"
        self._reply: bytes | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    async def accept(self) -> Connection:
        async with asyncio.timeout(PATIENCE_S):
            return await self._waiting.get()

    def always(self, reply: bytes) -> None:
        """From now on answer every request of every new connection with `reply`."""
        self._reply = reply

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self.connections.append(connection)
        if self._reply is None:
            self._waiting.put_nowait(connection)
            return
        # 3.11 logs the cancellation of a connection's handler as an error, so none leaves it.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            while True:
                self.requests.append(await connection.request())
                await connection.send(self._reply)
        writer.close()


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    server.scheme = "https" if context else "http"
    try:
        yield server
    finally:
        listening.close()
        for connection in server.connections:
            connection.writer.transport.abort()
        for connection in server.connections:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await connection.writer.wait_closed()


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """Yield a port at which no connection is ever accepted: its queue is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]
