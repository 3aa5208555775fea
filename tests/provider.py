"""A provider on a real socket: it records what it is asked and answers what the test says.

It speaks HTTP/1.1 by hand, in a thread with an event loop of its own, because tests need what web
servers hide: the exact request line and header order, an answer that stops in the middle until the
test lets it go on, a connection that is reset, and the moment at which the other side left.

    provider.script(Answer([event(1), gate, event(2)]))   # a stream that waits at `gate`
    ...
    gate.open()
    provider.wait(lambda: provider.asked[0].left_at)       # seconds of `time.perf_counter`

Requests without a scripted answer get `default`, by default a short answer in the format asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from tests import wire

T = TypeVar("T")
JSON = {"Content-Type": "application/json"}
SSE = {"Content-Type": "text/event-stream"}


class End(enum.Enum):
    """How an answer breaks off."""

    RESET = "reset"
    """TCP reset: what was sent but not yet read may be lost, too."""
    CLOSE = "close"
    """An orderly close of the connection before the body is complete."""


class Gate:
    """A point in an answer that waits until the test opens it."""

    def __init__(self) -> None:
        self.opened: Future[None] = Future()

    def open(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)


@dataclass(frozen=True)
class Answer:
    """What to send back. Without a Content-Length of its own, several `parts` go out chunked.

    With status 0 no head is sent, only what `parts` do.
    """

    parts: Sequence[bytes | Gate | End] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


@dataclass
class Asked:
    """One request as it arrived. `body` grows while the caller sends."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    left_at: float | None = None
    """When the other side closed before the answer was out; `time.perf_counter` seconds."""
    answered: bool = False

    def header(self, name: str) -> str | None:
        """Return the value of a header that is there once; None where absent."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def names(self) -> set[str]:
        return {name.lower() for name, _ in self.headers}

    def json(self) -> Any:
        return wire.loads(bytes(self.body))

    @property
    def everything(self) -> bytes:
        """All that was received, for searching."""
        lines = [
            f"{self.method} {self.target}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + bytes(self.body)


class Provider:
    """See the module's docstring. Use as a context manager; `url` has no trailing slash."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.default: Callable[[Asked], Answer] = default_answer
        self._answers: deque[Answer] = deque()
        self._gates: list[Gate] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="provider", daemon=True)
        self._connections: set[_Connection] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *answers: Answer) -> None:
        """Give `answers` to the next requests, in this order."""
        for answer in answers:
            self._gates += [part for part in answer.parts if isinstance(part, Gate)]
        self._answers += answers

    def wait(self, predicate: Callable[[], T | None], timeout_s: float = 10) -> T:
        """Block until `predicate` returns something true, looked at after every change."""
        with self._changed:
            value = self._changed.wait_for(predicate, timeout_s)
        assert value, f"the provider did not see this within {timeout_s} s"
        return value

    def reset(self) -> None:
        """Forget requests and answers, and let what still waits at a gate go on."""
        for gate in self._gates:
            gate.open()
        self._gates.clear()
        self._answers.clear()
        self.asked.clear()
        self.default = default_answer

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> asyncio.Server:
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        return self._server

    async def _stop(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.writer.transport.abort()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    def _answer(self, asked: Asked) -> Answer:
        return self._answers.popleft() if self._answers else self.default(asked)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Change what tests look at, and wake those that wait for it."""
        with self._changed:
            yield
            self._changed.notify_all()


class _Connection(asyncio.StreamReaderProtocol):
    """One connection: requests one after another, and the moment it ends."""

    def __init__(self, provider: Provider) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=2**20, loop=loop)
        super().__init__(self.reader, self._serve, loop)
        self._provider = provider
        self._current: Asked | None = None

    def eof_received(self) -> bool | None:
        self._left()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        self._provider._connections.discard(self)
        super().connection_lost(exc)

    def _left(self) -> None:
        asked, now = self._current, time.perf_counter()
        if asked is None or asked.left_at is not None:
            return
        with self._provider.changing():
            asked.left_at = now

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._provider._connections.add(self)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one():
                pass
        writer.close()

    async def _one(self) -> bool:
        head = await self.reader.readuntil(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = request_line.split(" ")
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        asked = Asked(method, target, headers)
        with self._provider.changing():
            self._provider.asked.append(asked)
        self._current = asked
        await self._read_body(asked)
        go_on = await self._send(asked, self._provider._answer(asked))
        self._current = None
        with self._provider.changing():
            asked.answered = True
        return go_on

    async def _read_body(self, asked: Asked) -> None:
        if (asked.header("expect") or "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if (asked.header("transfer-encoding") or "").lower() == "chunked":
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await self._read_exactly(asked, size)
                await self.reader.readexactly(2)
            await self.reader.readuntil(b"\r\n")
        else:
            await self._read_exactly(asked, int(asked.header("content-length") or 0))
        with self._provider.changing():
            asked.complete = True

    async def _read_exactly(self, asked: Asked, size: int) -> None:
        while size:
            data = await self.reader.read(min(size, 2**16))
            if not data:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(data)
            with self._provider.changing():
                asked.body += data

    async def _send(self, asked: Asked, answer: Answer) -> bool:
        given = {name.lower() for name in answer.headers}
        headers = dict(answer.headers)
        pieces = [part for part in answer.parts if isinstance(part, bytes)]
        chunked = False
        if not given & {"content-length", "transfer-encoding"} and answer.status not in (204, 304):
            chunked = not len(pieces) == len(answer.parts) <= 1
            if chunked:
                headers["Transfer-Encoding"] = "chunked"
            else:
                headers["Content-Length"] = str(len(b"".join(pieces)))
        lines = [
            f"HTTP/1.1 {answer.status} X",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if answer.status:
            self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        if asked.method == "HEAD":
            return True
        for part in answer.parts:
            match part:
                case bytes():
                    self.writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                    await self.writer.drain()
                case Gate():
                    await asyncio.wrap_future(part.opened)
                case End.RESET:
                    sock = self.writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.writer.transport.abort()
                    return False
                case End.CLOSE:
                    return False
        if chunked:
            self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return "close" not in (asked.header("connection") or "")


def default_answer(asked: Asked) -> Answer:
    """Return a short good answer in the format that path and body ask for."""
    path = asked.target.partition("?")[0]
    request = asked.json() if "json" in (asked.header("content-type") or "") else {}
    answer = wire.answer_to(path, request)
    if isinstance(answer, bytes):
        return Answer([answer])
    return Answer(answer, headers=SSE)
