"""The bounds of `llmgate serve` on what strangers send before there is a request to refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner

from asgi_llmgate import server as bounds
from asgi_llmgate.cli import cli
from asgi_llmgate.server import BoundedProtocol

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body, or with nothing to who leaves in it."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def server() -> AsyncIterator[uvicorn.Server]:
    config = uvicorn.Config(app, port=0, http=BoundedProtocol, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())  # Without handlers of signals.
    while not server.started:
        await asyncio.sleep(0)
    yield server
    server.should_exit = True
    await serving


@pytest.fixture
async def connect(server: uvicorn.Server) -> AsyncIterator[Connect]:
    port = server.servers[0].sockets[0].getsockname()[1]
    writers: list[asyncio.StreamWriter] = []

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield connected
    for writer in writers:
        writer.close()


async def ask(connect: Connect, *pieces: bytes) -> bytes:
    """Send `pieces`, then nothing; return all that comes until the server closes."""
    reader, writer = await connect()
    with contextlib.suppress(ConnectionError):  # It may have closed before all was sent.
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_requests_are_answered_one_after_another(connect: Connect) -> None:
    reader, writer = await connect()
    for size in (0, 10, 1_000_000):
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"a" * size)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(str(size))) == str(size).encode()


async def test_a_large_chunked_body_is_no_large_head(connect: Connect) -> None:
    chunks = [b"%x\r\n%b\r\n" % (100_000, b"a" * 100_000)] * 20
    close = b"Connection: close\r\n"
    answer = await ask(
        connect, HEAD, close, b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"
    )

    assert answer.endswith(b"2000000")


@pytest.mark.parametrize(
    "start",
    [
        HEAD + b"X-Long: ",
        b"POST /",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;extension=",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ",
    ],
    ids=["header", "path", "chunk extension", "trailer"],
)
async def test_what_is_no_body_does_not_pile_up(connect: Connect, start: bytes) -> None:
    reader, writer = await connect()
    writer.write(start)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 8 * bounds.MAX_HEAD_BYTES and not reader.at_eof():
            writer.write(b"a" * 65_536)
            await writer.drain()
            sent += 65_536
            await asyncio.sleep(0)
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert reader.at_eof() or reader.exception() is not None


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([], b""),
        ([HEAD], b"HTTP/1.1 400"),
        ([HEAD + b"Content-Length: 0\r\n\r\n" + HEAD], b"HTTP/1.1 200"),
        ([HEAD + b"Content-Length: 9\r\n\r\nhalf"], b""),
    ],
    ids=["nothing", "half a head", "half a second head", "half a body"],
)
async def test_who_stops_on_the_way_is_given_up(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], status: bytes
) -> None:
    monkeypatch.setattr(bounds, "HEAD_S", 0.1)
    monkeypatch.setattr(bounds, "BODY_IDLE_S", 0.1)

    answer = await ask(connect, *pieces)

    assert answer[:12] == status
    if len(pieces) == 1 and pieces[0].count(HEAD) == 2:
        assert b"did not arrive in time" in answer


async def test_a_slow_body_is_awaited_while_it_moves_or_is_held_back(
    connect: Connect, server: uvicorn.Server
) -> None:
    _, writer = await connect()
    writer.write(HEAD + b"Content-Length: 9\r\n\r\nhalf")
    while not (tasks := server.server_state.tasks):
        await asyncio.sleep(0)
    assert tasks
    [protocol] = server.server_state.connections
    assert isinstance(protocol, BoundedProtocol)
    now_s = asyncio.get_running_loop().time()

    protocol._moved_at_s = now_s - bounds.BODY_IDLE_S / 2
    protocol._give_up()
    assert not protocol.transport.is_closing()
    assert protocol._timer is not None

    protocol._moved_at_s = now_s - 2 * bounds.BODY_IDLE_S
    protocol.flow.read_paused = True
    protocol._give_up()
    assert not protocol.transport.is_closing()

    protocol.flow.read_paused = False
    protocol._give_up()
    assert protocol.transport.is_closing()


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_both_commands_run_the_bounded_server_that_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: given.update(options, app=app))
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LLMGATE_DEMO", "false")  # The command sets it; restored afterwards.
    done = CliRunner().invoke(cli, [command, "--port", "0"])

    assert done.exit_code == 0, done.output
    assert (given["app"], given["http"]) == ("asgi_llmgate:app", BoundedProtocol)
    assert given["timeout_graceful_shutdown"] == 120
