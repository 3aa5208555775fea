"""What an HTTP/1.1 client of one's own has to get right beside the contract."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from asgi_llmgate.errors import (
    InvalidRequestError,
    UpstreamConnectError,
    UpstreamTimeoutError,
)
from asgi_llmgate.upstream import h1_connection, h1_pool
from asgi_llmgate.upstream.h1 import H1Upstream
from tests.upstream.server import Server, serving
from tests.upstream.test_contract import (
    CHUNKED,
    OK,
    PATIENT,
    assert_left_at_once,
    assert_no_secret,
    body_of,
    call,
    chunk,
    get,
    opened,
    post,
)


@pytest.fixture
async def upstream() -> AsyncIterator[H1Upstream]:
    upstream = H1Upstream()
    yield upstream
    await upstream.aclose()


# What arrives when nobody asked


async def test_a_second_response_is_never_somebody_elses(
    upstream: H1Upstream, server: Server
) -> None:
    first, connection = await opened(upstream, server, OK + OK.replace(b"ok", b"no"))
    assert await body_of(first) == b"ok"
    await assert_left_at_once(connection)
    second, _ = await opened(upstream, server, OK)

    assert await body_of(second) == b"ok"


async def test_bytes_on_an_idle_connection_end_it(upstream: H1Upstream, server: Server) -> None:
    response, connection = await opened(upstream, server, OK)
    assert await body_of(response) == b"ok"
    await connection.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    await assert_left_at_once(connection)
    again, _ = await opened(upstream, server, OK)

    assert again.status == 200


async def test_news_that_the_loop_has_not_seen_yet_are_seen(
    upstream: H1Upstream, server: Server
) -> None:
    response, connection = await opened(upstream, server, OK)
    assert await body_of(response) == b"ok"
    descriptor = os.dup(connection.writer.get_extra_info("socket").fileno())
    with socket.socket(fileno=descriptor) as same:
        same.shutdown(socket.SHUT_WR)  # arrives at once, and the loop gets no chance to look
    again, _ = await opened(upstream, server, OK)

    assert again.status == 200
    assert len(server.connections) == 2


async def test_a_body_that_a_head_request_must_not_have_is_not_read(
    upstream: H1Upstream, server: Server
) -> None:
    request = post(server.url, None, method="HEAD")
    response, connection = await opened(upstream, server, OK, request)

    assert await body_of(response) == b""
    await assert_left_at_once(connection)


async def test_a_server_that_speaks_first_is_left(upstream: H1Upstream, server: Server) -> None:
    opening = asyncio.ensure_future(upstream.open(get(server.url)))
    connection = await server.accept()
    await connection.send(b"220 mail.example ESMTP\r\n")

    with pytest.raises(UpstreamConnectError):
        await opening
    await assert_left_at_once(connection)


async def test_a_server_that_hangs_up_on_everybody_is_a_connect_error(
    upstream: H1Upstream, server: Server
) -> None:
    for _ in range(10):
        opening = asyncio.ensure_future(upstream.open(get(server.url)))
        (await server.accept()).close()
        with pytest.raises(UpstreamConnectError):
            await opening


# What must not be believed


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx: a\nb: c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=["both-lengths", "two-lengths", "negative", "bare-newline", "upgrade"],
)
async def test_a_head_of_two_meanings_is_refused(
    upstream: H1Upstream, server: Server, head: bytes
) -> None:
    opening = asyncio.ensure_future(upstream.open(get(server.url)))
    connection = await server.accept()
    await connection.request()
    await connection.send(head)

    with pytest.raises(UpstreamConnectError):
        await opening
    await assert_left_at_once(connection)


@pytest.mark.parametrize("line", [b"x: %b\r\n" % (b"y" * 1000), b""], ids=["headers", "interim"])
async def test_a_head_without_end_is_refused(
    upstream: H1Upstream, server: Server, line: bytes
) -> None:
    opening = asyncio.ensure_future(upstream.open(get(server.url)))
    connection = await server.accept()
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\n" if line else b"")
    endless = line or b"HTTP/1.1 102 Processing\r\n\r\n"
    await connection.send(endless * (h1_connection.MAX_HEAD_BYTES // len(endless) + 1))

    with pytest.raises(UpstreamConnectError):
        await opening
    await connection.left()


async def test_trailers_are_no_headers(upstream: H1Upstream, server: Server) -> None:
    response, connection = await opened(upstream, server, CHUNKED + chunk(b"ok"))
    await connection.send(b"0\r\nx-trailer: 1\r\n\r\n")

    assert await body_of(response) == b"ok"
    assert response.headers == [(b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://localhost/",
        "http:///nohost",
        "http://user:password@localhost/",
        "http://local host/",
        "http://localhost/a b",
        "http://localhost/a\r\nx: 1",
        "http://localhost/#fragment",
        "http://localhost/é",
        "http://localhost/?q=é",
        "http://localhost:port/",
        "http://[half/",
        "localhost",
    ],
)
async def test_a_url_of_two_meanings_is_refused(upstream: H1Upstream, url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await upstream.open(get(url))

    assert_no_secret(caught.value)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:b", b"a\r\nb", b"a\nb", "é".encode()])
async def test_a_header_name_of_two_meanings_is_refused(upstream: H1Upstream, name: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        await upstream.open(post("http://localhost:1", headers=[(name, b"1")]))


@pytest.mark.parametrize("method", ["GET /x HTTP/1.1\r\nx:", "", "É"])
async def test_a_method_of_two_meanings_is_refused(upstream: H1Upstream, method: str) -> None:
    with pytest.raises(InvalidRequestError):
        await upstream.open(post("http://localhost:1", None, method=method))


async def test_a_header_value_goes_out_whatever_its_encoding(
    upstream: H1Upstream, server: Server
) -> None:
    server.always(OK)
    await call(upstream, post(server.url, headers=[(b"x-name", b"caf\xe9 \xff")]))

    assert server.requests[0].values(b"x-name") == [b"caf\xe9 \xff"]


# Uploads


async def two(first: bytes, second: bytes) -> AsyncIterator[bytes]:
    yield first
    yield second


@pytest.mark.parametrize("length", [b"7", b"5"], ids=["short", "long"])
async def test_an_upload_is_as_long_as_announced_or_an_error(
    upstream: H1Upstream, server: Server, length: bytes
) -> None:
    request = post(server.url, two(b"123", b"456"), headers=[(b"content-length", length)])
    opening = asyncio.ensure_future(upstream.open(request))
    connection = await server.accept()

    with pytest.raises(UpstreamConnectError, match="not as long as its Content-Length"):
        await opening
    await assert_left_at_once(connection)


async def test_empty_chunks_do_not_end_an_upload(upstream: H1Upstream, server: Server) -> None:
    server.always(OK)
    await call(upstream, post(server.url, two(b"", b"123")))

    assert server.requests[0].body == b"123"


async def test_an_early_answer_to_an_upload_is_returned_and_its_connection_left(
    upstream: H1Upstream, server: Server
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    opening = asyncio.ensure_future(upstream.open(post(server.url, endless())))
    connection = await server.accept()
    await connection.head()
    await connection.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    leaving = asyncio.ensure_future(connection.left())
    response = await opening
    await response.aclose()
    await leaving

    assert response.status == 413


async def test_a_server_that_hangs_up_on_an_upload_is_a_connect_error(
    upstream: H1Upstream, server: Server
) -> None:
    hung_up = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"first"
        await hung_up.wait()
        yield b"second"

    opening = asyncio.ensure_future(upstream.open(post(server.url, waiting())))
    connection = await server.accept()
    await connection.head()
    connection.reset()
    await connection.left()
    await asyncio.wait([opening], timeout=0.05)
    hung_up.set()

    with pytest.raises(UpstreamConnectError):
        await opening


async def test_an_upload_that_stands_still_is_bounded_by_the_total(
    upstream: H1Upstream, server: Server
) -> None:
    async def standing() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.get_running_loop().create_future()

    request = post(server.url, standing(), timeouts=replace(PATIENT, total_s=0.1))
    with pytest.raises(UpstreamTimeoutError, match=r"The call took longer than 0\.1 s\."):
        await upstream.open(request)


# The pool


async def test_an_idle_connection_makes_room_for_another_provider(server: Server) -> None:
    upstream = H1Upstream(max_connections=1)
    server.always(OK)
    async with serving() as other:
        other.always(OK)
        for place in (server, other, server):
            assert await call(upstream, get(place.url)) == (200, b"ok")
        assert (len(server.connections), len(other.connections)) == (2, 1)
        await upstream.aclose()


async def test_a_turn_that_comes_too_late_goes_to_the_next(server: Server) -> None:
    upstream = H1Upstream(max_connections=1)
    response, _ = await opened(upstream, server, CHUNKED)
    leaver = asyncio.ensure_future(call(upstream, get(server.url)))
    stayer = asyncio.ensure_future(call(upstream, get(server.url)))
    await asyncio.sleep(0)
    await response.aclose()
    for _ in range(3):
        await asyncio.sleep(0)  # the turn is given, and whoever has it may be about to connect
        leaver.cancel()
    server.always(OK)

    assert await stayer == (200, b"ok")
    with pytest.raises(asyncio.CancelledError):
        await leaver
    await upstream.aclose()


async def test_a_waiting_call_that_leaves_keeps_nobodys_turn(server: Server) -> None:
    upstream = H1Upstream(max_connections=1)
    response, _ = await opened(upstream, server, CHUNKED)
    leaver = asyncio.ensure_future(call(upstream, get(server.url)))
    stayer = asyncio.ensure_future(call(upstream, get(server.url)))
    await asyncio.sleep(0)
    leaver.cancel()
    server.always(OK)
    await response.aclose()

    assert await stayer == (200, b"ok")
    await upstream.aclose()


async def test_a_failed_connection_frees_its_place() -> None:
    upstream = H1Upstream(max_connections=1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for _ in range(3):
            with pytest.raises(UpstreamConnectError, match="it refuses connections"):
                await upstream.open(get(url))
    await upstream.aclose()


async def test_a_connection_that_was_idle_for_long_is_not_used_again(
    upstream: H1Upstream, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h1_pool, "KEEP_IDLE_S", 0)
    server.always(OK)
    for _ in range(2):
        await call(upstream, get(server.url))
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.01)

    assert len(server.connections) == 2


# Callers who leave while a connection is made


async def test_who_leaves_while_connecting_leaves_no_connection_behind(
    upstream: H1Upstream, server: Server
) -> None:
    pool = await upstream._pools.make()
    made = pool.made

    def made_and_left(connection: h1_connection.Connection) -> None:
        made(connection)
        leaving.cancel()  # Whoever waits for the connection has not been told of it yet.

    pool.made = made_and_left  # type: ignore[method-assign]  # at no other moment can this be told
    leaving = asyncio.ensure_future(upstream.open(get(server.url)))
    await asyncio.wait([leaving])

    assert leaving.cancelled()
    assert not pool._open
    async with asyncio.timeout(5):
        await upstream.aclose()
