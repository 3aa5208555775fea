"""The promises of `protocols.Upstream`, held by every transport against a real server."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from asgi_llmgate.errors import (
    ClientDisconnectedError,
    InvalidRequestError,
    UpstreamBrokenError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeoutError,
)
from asgi_llmgate.protocols import Timeouts, Upstream, UpstreamRequest, UpstreamResponse
from asgi_llmgate.upstream.pyreqwest import PyreqwestUpstream
from tests.upstream.server import Connection, Server, deaf_port, serving

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SECRET = b"sk-canary-5d1f"
PATIENT = Timeouts(5, 5, 5, 5, 5, 20)
AT_ONCE_S = 0.05
"""How long the server may wait until it sees that a caller left."""


def post(
    url: str,
    body: bytes | AsyncIterator[bytes] | None = b"{}",
    *,
    method: str = "POST",
    headers: list[tuple[bytes, bytes]] | None = None,
    timeouts: Timeouts = PATIENT,
) -> UpstreamRequest:
    sent = [(b"authorization", b"Bearer " + SECRET), *(headers or [])]
    return UpstreamRequest(method, url, sent, body, timeouts)


def get(url: str, timeouts: Timeouts = PATIENT) -> UpstreamRequest:
    return post(url, None, method="GET", timeouts=timeouts)


async def opened(
    upstream: Upstream, server: Server, head: bytes, request: UpstreamRequest | None = None
) -> tuple[UpstreamResponse, Connection]:
    """Open a response whose head is `head`, and return it with the server's end."""
    opening = asyncio.ensure_future(upstream.open(request or get(server.url)))
    connection = await server.accept()
    await connection.request()
    await connection.send(head)
    return await opening, connection


async def body_of(response: UpstreamResponse) -> bytes:
    chunks = []
    while chunk := await response.read():
        chunks.append(chunk)
    return b"".join(chunks)


async def call(upstream: Upstream, request: UpstreamRequest) -> tuple[int, bytes]:
    response = await upstream.open(request)
    try:
        return response.status, await body_of(response)
    finally:
        await response.aclose()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# Requests as they go out


async def test_a_request_line_goes_out_byte_for_byte(upstream: Upstream, server: Server) -> None:
    server.always(OK)
    target = (
        "/v1/models/meta-llama%2FLlama-3:generate%3aContent/a+b~c!$&()*,;=@%20?x=%2F:&y=a+b%20&z"
    )
    await call(upstream, get(server.url + target))

    assert server.requests[0].target == target.encode()


async def test_headers_go_out_as_given_with_repeats(upstream: Upstream, server: Server) -> None:
    server.always(OK)
    beta = (b"anthropic-beta", b"one"), (b"anthropic-beta", b"two")
    await call(upstream, post(server.url, headers=[*beta, (b"accept-encoding", b"identity")]))
    request = server.requests[0]

    assert request.values(b"authorization") == [b"Bearer " + SECRET]
    assert request.values(b"anthropic-beta") == [b"one", b"two"]
    assert request.values(b"accept-encoding") == [b"identity"]


async def test_nothing_but_the_necessary_is_added(upstream: Upstream, server: Server) -> None:
    server.always(OK)
    given = [(b"accept", b"text/plain"), (b"user-agent", b"test")]
    await call(upstream, post(server.url, b"{}", headers=given))
    names = [name for name, _ in server.requests[0].headers]

    assert sorted(names) == [b"accept", b"authorization", b"content-length", b"host", b"user-agent"]


async def test_host_and_length_are_those_of_url_and_body(
    upstream: Upstream, server: Server
) -> None:
    server.always(OK)
    forged = [
        (b"host", b"evil.example"),
        (b"content-length", b"999"),
        (b"transfer-encoding", b"chunked"),
    ]
    await call(upstream, post(server.url, b"12345", headers=forged))
    request = server.requests[0]

    assert request.values(b"host") == [f"localhost:{server.port}".encode()]
    assert request.values(b"content-length") == [b"5"]
    assert request.values(b"transfer-encoding") == []
    assert request.body == b"12345"


async def test_no_body_sends_no_length(upstream: Upstream, server: Server) -> None:
    server.always(OK)
    await call(upstream, get(server.url))

    assert server.requests[0].values(b"content-length") == []
    assert server.requests[0].values(b"transfer-encoding") == []


async def test_an_empty_body_has_length_zero(upstream: Upstream, server: Server) -> None:
    server.always(OK)
    await call(upstream, post(server.url, b""))

    assert server.requests[0].values(b"content-length") == [b"0"]


@pytest.mark.parametrize("value", [b"key\r\nx-injected: 1", b"k\x00y"])
async def test_an_impossible_header_is_named_but_not_shown(
    upstream: Upstream, server: Server, value: bytes
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await upstream.open(post(server.url, headers=[(b"x-custom", SECRET + value)]))

    assert caught.value.param == "x-custom"
    assert_no_secret(caught.value)


async def test_an_upload_is_streamed_while_it_is_made(upstream: Upstream, server: Server) -> None:
    goes_on = asyncio.Event()

    async def upload() -> AsyncIterator[bytes]:
        yield b"first"
        await goes_on.wait()
        yield b"second"

    calling = asyncio.ensure_future(call(upstream, post(server.url, upload())))
    connection = await server.accept()
    request = await connection.head()
    first = await connection.chunk()
    goes_on.set()
    rest = [await connection.chunk(), await connection.chunk()]
    await connection.send(OK)

    assert request.values(b"transfer-encoding") == [b"chunked"]
    assert (first, rest) == (b"first", [b"second", b""])
    assert await calling == (200, b"ok")


async def test_an_upload_of_known_length_is_not_chunked(upstream: Upstream, server: Server) -> None:
    server.always(OK)

    async def upload() -> AsyncIterator[bytes]:
        yield b"123"
        yield b"45"

    await call(upstream, post(server.url, upload(), headers=[(b"content-length", b"5")]))
    request = server.requests[0]

    assert request.values(b"content-length") == [b"5"]
    assert request.values(b"transfer-encoding") == []
    assert request.body == b"12345"


async def test_an_error_of_the_upload_comes_back_and_ends_the_request(
    upstream: Upstream, server: Server
) -> None:
    async def upload() -> AsyncIterator[bytes]:
        yield b"first"
        raise ClientDisconnectedError

    opening = asyncio.ensure_future(upstream.open(post(server.url, upload())))
    connection = await server.accept()

    with pytest.raises(ClientDisconnectedError):
        await opening
    await assert_left_at_once(connection)


async def test_large_bodies_pass_whole_in_both_directions(
    upstream: Upstream, server: Server
) -> None:
    up, down = bytes(range(256)) * 80_000, bytes(range(255, -1, -1)) * 80_000  # 20 MB each
    server.always(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(down), down))
    status, received = await call(upstream, post(server.url, up))

    assert status == 200
    assert server.requests[0].body == up
    assert received == down


async def test_a_large_upload_is_streamed_whole(upstream: Upstream, server: Server) -> None:
    server.always(OK)
    part = bytes(range(256)) * 256

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(320):
            yield part

    await call(upstream, post(server.url, upload()))

    assert server.requests[0].body == part * 320


# Responses as they come in


async def test_the_head_arrives_before_the_body(upstream: Upstream, server: Server) -> None:
    response, connection = await opened(upstream, server, CHUNKED)
    await connection.send(b"0\r\n\r\n")

    assert response.status == 200
    assert await response.read() == b""


@pytest.mark.parametrize("size", [1, 200, 5000])
async def test_each_chunk_arrives_before_the_next_is_sent(
    upstream: Upstream, server: Server, size: int
) -> None:
    response, connection = await opened(upstream, server, CHUNKED)
    for number in range(10):
        token = bytes([65 + number]) * size
        await connection.send(chunk(token))
        received = b""
        while len(received) < size:
            received += await response.read()
        assert received == token
    await connection.send(b"0\r\n\r\n")

    assert [await response.read(), await response.read()] == [b"", b""]


async def test_a_slow_reader_holds_the_provider_back(upstream: Upstream, server: Server) -> None:
    size = 50_000_000
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    response, connection = await opened(upstream, server, head)
    sending = asyncio.ensure_future(connection.send(bytes(size)))
    done, _ = await asyncio.wait([sending], timeout=0.3)
    assert not done
    received = len(await body_of(response))
    await sending

    assert received == size


async def test_a_body_that_ends_with_the_connection_is_whole(
    upstream: Upstream, server: Server
) -> None:
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    response, connection = await opened(upstream, server, head)
    await connection.send(b"all of it")
    connection.close()

    assert await body_of(response) == b"all of it"


async def test_header_names_are_lowered_and_repeats_kept(
    upstream: Upstream, server: Server
) -> None:
    server.always(
        b"HTTP/1.1 200 OK\r\nX-Request-ID: One\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    response = await upstream.open(get(server.url))
    await response.aclose()

    assert (b"x-request-id", b"One") in response.headers
    cookies = [value for name, value in response.headers if name == b"set-cookie"]
    assert cookies == [b"a=1", b"b=2"]
    assert (b"content-length", b"0") in response.headers


async def test_a_header_that_is_not_ascii_harms_no_other(
    upstream: Upstream, server: Server
) -> None:
    server.always(
        b"HTTP/1.1 200 OK\r\nx-name: caf\xc3\xa9\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 2\r\n\r\nok"
    )
    response = await upstream.open(get(server.url))

    assert [value for name, value in response.headers if name == b"x-a"] == [b"1", b"2"]
    assert await body_of(response) == b"ok"


@pytest.mark.parametrize("status", [100, 102, 103])
async def test_informational_responses_are_passed_over(
    upstream: Upstream, server: Server, status: int
) -> None:
    server.always(b"HTTP/1.1 %d Wait\r\nlink: </a>\r\n\r\n" % status * 2 + OK)

    assert await call(upstream, get(server.url)) == (200, b"ok")


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ],
    ids=["HEAD", "204", "304", "empty"],
)
async def test_a_response_without_a_body_leaves_the_connection_usable(
    upstream: Upstream, server: Server, method: str, head: bytes
) -> None:
    server.always(head)
    for _ in range(2):
        _, body = await call(upstream, post(server.url, None, method=method))
        assert body == b""

    assert len(server.connections) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_returned_not_followed(
    upstream: Upstream, server: Server, status: int
) -> None:
    location = server.url.encode() + b"/elsewhere"
    server.always(
        b"HTTP/1.1 %d Moved\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % (status, location)
    )
    response = await upstream.open(post(server.url))
    await response.aclose()

    assert response.status == status
    assert (b"location", location) in response.headers
    assert len(server.requests) == 1


async def test_a_compressed_body_stays_compressed(upstream: Upstream, server: Server) -> None:
    packed = gzip.compress(b"plain text")
    server.always(
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
        % (len(packed), packed)
    )
    response = await upstream.open(get(server.url))

    assert await body_of(response) == packed
    assert (b"content-encoding", b"gzip") in response.headers


# The environment


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


async def test_proxies_of_the_environment_are_not_used(
    proxied: None, make: Callable[..., Upstream], server: Server
) -> None:
    server.always(OK)
    upstream = make()

    assert await call(upstream, get(server.url)) == (200, b"ok")
    await upstream.aclose()


async def test_cookies_are_not_kept(upstream: Upstream, server: Server) -> None:
    server.always(b"HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\ncontent-length: 0\r\n\r\n")
    for _ in range(2):
        await call(upstream, get(server.url))

    assert [request.values(b"cookie") for request in server.requests] == [[], []]


# Connections


async def test_a_connection_is_used_again(upstream: Upstream, server: Server) -> None:
    server.always(OK)
    for _ in range(5):
        await call(upstream, post(server.url))

    assert len(server.connections) == 1
    assert len(server.requests) == 5


async def test_a_connection_is_handed_back_at_the_end_of_the_body(
    upstream: Upstream, server: Server
) -> None:
    server.always(OK)
    first = await upstream.open(get(server.url))
    await body_of(first)
    await call(upstream, get(server.url))
    await first.aclose()

    assert len(server.connections) == 1


async def test_a_connection_that_the_server_closed_is_not_used_again(
    upstream: Upstream, server: Server
) -> None:
    for _ in range(3):
        calling = asyncio.ensure_future(call(upstream, post(server.url)))
        connection = await server.accept()
        await connection.request()
        await connection.send(OK)
        assert await calling == (200, b"ok")
        connection.close()
        await connection.writer.wait_closed()

    assert len(server.connections) == 3


async def test_an_announced_end_of_the_connection_is_respected(
    upstream: Upstream, server: Server
) -> None:
    server.always(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
    for _ in range(2):
        await call(upstream, get(server.url))

    assert len(server.connections) == 2


async def test_calls_run_side_by_side(upstream: Upstream, server: Server) -> None:
    calls = [asyncio.ensure_future(call(upstream, get(server.url))) for _ in range(20)]
    connections = [await server.accept() for _ in calls]
    for connection in connections:
        await connection.request()
        await connection.send(OK)

    assert await asyncio.gather(*calls) == [(200, b"ok")] * 20


async def test_a_call_beyond_the_limit_waits_for_its_turn(
    make: Callable[..., Upstream], server: Server
) -> None:
    upstream = make(max_connections=1)
    first, connection = await opened(upstream, server, CHUNKED)
    second = asyncio.ensure_future(call(upstream, get(server.url)))
    await connection.send(chunk(b"ok") + b"0\r\n\r\n")
    assert await body_of(first) == b"ok"
    await first.aclose()
    await connection.request()
    await connection.send(OK)

    assert await second == (200, b"ok")
    assert len(server.connections) == 1
    await upstream.aclose()


async def test_a_closed_response_makes_room_for_the_next_call(
    make: Callable[..., Upstream], server: Server
) -> None:
    upstream = make(max_connections=1)
    first, _ = await opened(upstream, server, CHUNKED)
    await first.aclose()
    second, _ = await opened(upstream, server, OK)

    assert await body_of(second) == b"ok"
    await upstream.aclose()


async def test_aclose_closes_idle_connections(
    make: Callable[..., Upstream], server: Server
) -> None:
    upstream = make()
    response, connection = await opened(upstream, server, OK)
    await body_of(response)
    await response.aclose()
    await upstream.aclose()

    await assert_left_at_once(connection)


async def test_closing_ends_calls_under_way(upstream: Upstream, server: Server) -> None:
    opening = asyncio.ensure_future(upstream.open(get(server.url)))
    connection = await server.accept()
    await connection.request()
    await upstream.aclose()

    with pytest.raises(UpstreamConnectError):
        await opening


def test_one_upstream_serves_several_event_loops(make: Callable[..., Upstream]) -> None:
    upstream = make()

    async def session() -> list[tuple[int, bytes]]:
        async with serving() as server:
            server.always(OK)
            answers = [await call(upstream, get(server.url)) for _ in range(2)]
            assert len(server.connections) == 1
            return answers

    for _ in range(3):
        assert asyncio.run(session()) == [(200, b"ok")] * 2


def test_constructing_opens_nothing(
    make: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("no socket may be made")

    monkeypatch.setattr(socket, "socket", refuse)

    make()  # outside of any event loop, too


# Leaving


async def assert_left_at_once(connection: Connection) -> None:
    started = time.perf_counter()
    await connection.left(patience_s=10 * AT_ONCE_S)
    assert time.perf_counter() - started < AT_ONCE_S


async def test_aclose_before_the_end_closes_the_connection_at_once(
    upstream: Upstream, server: Server
) -> None:
    response, connection = await opened(upstream, server, CHUNKED + chunk(b"hello"))
    assert await response.read() == b"hello"
    await response.aclose()

    await assert_left_at_once(connection)


async def test_aclose_before_the_first_read_closes_the_connection_at_once(
    upstream: Upstream, server: Server
) -> None:
    response, connection = await opened(upstream, server, CHUNKED)
    await response.aclose()
    await response.aclose()

    await assert_left_at_once(connection)
    assert await response.read() == b""


async def test_a_cancelled_read_and_aclose_close_the_connection_at_once(
    upstream: Upstream, server: Server
) -> None:
    response, connection = await opened(upstream, server, CHUNKED + chunk(b"hello"))
    assert await response.read() == b"hello"
    reading = asyncio.ensure_future(response.read())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await response.aclose()

    await assert_left_at_once(connection)


@pytest.fixture
def cancels(upstream: Upstream, request: pytest.FixtureRequest) -> None:
    """Mark the tests of the one promise that pyreqwest breaks."""
    if isinstance(upstream, PyreqwestUpstream):
        reason = "pyreqwest 0.15 abandons a cancelled request but leaves it running until its head"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


async def test_a_cancelled_open_closes_the_connection_at_once(
    cancels: None, upstream: Upstream, server: Server
) -> None:
    opening = asyncio.ensure_future(upstream.open(post(server.url)))
    connection = await server.accept()
    await connection.request()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    await assert_left_at_once(connection)


async def test_a_late_first_byte_closes_the_connection_at_once(
    cancels: None, upstream: Upstream, server: Server
) -> None:
    request = get(server.url, replace(PATIENT, first_byte_s=0.1))
    opening = asyncio.ensure_future(upstream.open(request))
    connection = await server.accept()
    await connection.request()
    with pytest.raises(UpstreamTimeoutError):
        await opening

    await assert_left_at_once(connection)


async def test_a_cancelled_upload_closes_the_connection_at_once(
    upstream: Upstream, server: Server
) -> None:
    async def upload() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.get_running_loop().create_future()

    opening = asyncio.ensure_future(upstream.open(post(server.url, upload())))
    connection = await server.accept()
    await connection.head()
    assert await connection.chunk() == b"first"
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    await assert_left_at_once(connection)


async def test_a_cancellation_that_races_with_a_chunk_is_not_lost(
    upstream: Upstream, server: Server
) -> None:
    for _ in range(20):
        response, connection = await opened(upstream, server, CHUNKED)
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        await connection.send(chunk(b"hello"))
        time.sleep(0.005)  # the chunk arrives, and its news wait for this loop
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await response.aclose()


async def test_a_cancel_scope_knows_its_own_cancellation_again(
    upstream: Upstream, server: Server
) -> None:
    for data in [b"", chunk(b"hello")] * 10:
        response, connection = await opened(upstream, server, CHUNKED)
        async with anyio.create_task_group() as group:
            group.start_soon(response.read)
            await asyncio.sleep(0)
            await connection.send(data)
            time.sleep(0.005)
            group.cancel_scope.cancel()
        await response.aclose()
    task = asyncio.current_task()

    assert task is not None
    assert task.cancelling() == 0


async def test_a_response_that_races_with_a_cancellation_is_closed(
    cancels: None, upstream: Upstream, server: Server
) -> None:
    for _ in range(20):
        opening = asyncio.ensure_future(upstream.open(get(server.url)))
        connection = await server.accept()
        await connection.request()
        await connection.send(CHUNKED)
        time.sleep(0.005)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await assert_left_at_once(connection)


# Timers


async def assert_timeout(
    wait: Callable[[], Any], limit_s: float, message: str
) -> UpstreamTimeoutError:
    started = time.perf_counter()
    with pytest.raises(UpstreamTimeoutError) as caught:
        await wait()
    elapsed_s = time.perf_counter() - started

    assert str(caught.value) == message
    # A loop that was busy counts from when it last looked at the clock.
    assert limit_s * 0.7 <= elapsed_s < limit_s + 1
    assert_no_secret(caught.value)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    return caught.value


def assert_no_secret(error: BaseException) -> None:
    """Neither the error nor anything that hangs on it shows the request's headers or host."""
    seen: BaseException | None = error
    while seen is not None:
        holds_request = getattr(seen, "_request", None)
        assert holds_request is None
        for text in (str(seen), repr(seen), *traceback.format_exception_only(seen)):
            assert SECRET.decode() not in text
            assert "localhost" not in text
            assert "127.0.0.1" not in text
        seen = seen.__cause__ or seen.__context__


async def test_a_refused_connection_is_a_connect_error(upstream: Upstream) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UpstreamConnectError) as caught:
            await upstream.open(get(f"http://localhost:{port}"))

    assert str(caught.value) == "No connection to the provider: it refuses connections."
    assert_no_secret(caught.value)


async def test_a_name_that_does_not_exist_is_a_connect_error(upstream: Upstream) -> None:
    with pytest.raises(UpstreamConnectError) as caught:
        await upstream.open(get("http://nowhere.invalid/"))

    assert str(caught.value) == "No connection to the provider: its name could not be resolved."


async def test_connecting_is_timed(upstream: Upstream) -> None:
    timeouts = replace(PATIENT, connect_s=0.1)
    with deaf_port() as port:
        await assert_timeout(
            lambda: upstream.open(get(f"http://localhost:{port}", timeouts)),
            0.1,
            "No connection to the provider within 0.1 s.",
        )


async def test_waiting_for_a_connection_is_timed(
    make: Callable[..., Upstream], server: Server
) -> None:
    upstream = make(max_connections=1)
    timeouts = replace(PATIENT, pool_s=0.1)
    holder, _ = await opened(upstream, server, CHUNKED, get(server.url, timeouts))
    await assert_timeout(
        lambda: upstream.open(get(server.url, timeouts)),
        0.1,
        "No free connection to the provider within 0.1 s.",
    )
    await holder.aclose()
    await upstream.aclose()


async def test_the_first_byte_is_timed(upstream: Upstream, server: Server) -> None:
    await assert_timeout(
        lambda: upstream.open(get(server.url, replace(PATIENT, first_byte_s=0.1))),
        0.1,
        "No response from the provider within 0.1 s.",
    )


async def test_half_a_head_is_no_first_byte(upstream: Upstream, server: Server) -> None:
    opening = assert_timeout(
        lambda: upstream.open(get(server.url, replace(PATIENT, first_byte_s=0.1))),
        0.1,
        "No response from the provider within 0.1 s.",
    )
    timing = asyncio.ensure_future(opening)
    connection = await server.accept()
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-len")

    await timing


async def test_the_first_byte_is_timed_from_the_end_of_an_upload(
    upstream: Upstream, server: Server
) -> None:
    goes_on = asyncio.Event()

    async def upload() -> AsyncIterator[bytes]:
        yield b"first"
        await goes_on.wait()
        yield b"second"

    timeouts = replace(PATIENT, first_byte_s=0.1)
    opening = asyncio.ensure_future(upstream.open(post(server.url, upload(), timeouts=timeouts)))
    connection = await server.accept()
    await connection.head()
    await connection.chunk()
    done, _ = await asyncio.wait([opening], timeout=0.2)
    assert not done
    goes_on.set()

    await assert_timeout(lambda: opening, 0.09, "No response from the provider within 0.1 s.")


async def test_writing_is_timed(upstream: Upstream, server: Server) -> None:
    timeouts = replace(PATIENT, write_s=0.2)
    calling = post(server.url, b"x" * 30_000_000, timeouts=timeouts)

    with pytest.raises(UpstreamTimeoutError) as caught:
        await upstream.open(calling)

    assert str(caught.value) == "The provider accepted nothing of the request body for 0.2 s."


async def test_a_response_that_stands_still_is_timed(upstream: Upstream, server: Server) -> None:
    request = get(server.url, replace(PATIENT, idle_s=0.1))
    response, connection = await opened(upstream, server, CHUNKED + chunk(b"a"), request)
    assert await response.read() == b"a"
    await assert_timeout(response.read, 0.1, "The provider's response stood still for 0.1 s.")
    await response.aclose()

    await assert_left_at_once(connection)


async def test_a_slow_reader_is_not_the_providers_standstill(
    upstream: Upstream, server: Server
) -> None:
    request = get(server.url, replace(PATIENT, idle_s=0.05))
    response, connection = await opened(upstream, server, CHUNKED + chunk(b"a"), request)
    assert await response.read() == b"a"
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.15)
    await connection.send(chunk(b"b") + b"0\r\n\r\n")

    assert await body_of(response) == b"b"


async def test_a_stream_that_moves_outlives_the_idle_timer(
    upstream: Upstream, server: Server
) -> None:
    request = get(server.url, replace(PATIENT, idle_s=0.2, first_byte_s=0.2))
    response, connection = await opened(upstream, server, CHUNKED, request)
    never = asyncio.get_running_loop().create_future()
    for _ in range(6):
        await asyncio.wait([never], timeout=0.05)
        await connection.send(chunk(b"a"))
        assert await response.read() == b"a"
    await response.aclose()


async def test_the_total_is_timed_while_waiting_for_the_head(
    upstream: Upstream, server: Server
) -> None:
    await assert_timeout(
        lambda: upstream.open(get(server.url, replace(PATIENT, total_s=0.1))),
        0.1,
        "The call took longer than 0.1 s.",
    )


async def test_the_total_is_timed_while_reading(upstream: Upstream, server: Server) -> None:
    request = get(server.url, replace(PATIENT, total_s=0.2))
    started = time.perf_counter()
    response, connection = await opened(upstream, server, CHUNKED, request)

    async def read_on() -> None:
        while True:
            await connection.send(chunk(b"a"))
            await response.read()

    await assert_timeout(
        read_on, 0.2 - (time.perf_counter() - started), "The call took longer than 0.2 s."
    )
    await response.aclose()
    await assert_left_at_once(connection)


async def test_the_total_counts_also_between_reads(upstream: Upstream, server: Server) -> None:
    request = get(server.url, replace(PATIENT, total_s=0.1))
    response, _ = await opened(upstream, server, CHUNKED + chunk(b"a"), request)
    assert await response.read() == b"a"
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.15)
    await assert_timeout(response.read, 0, "The call took longer than 0.1 s.")
    await response.aclose()


async def test_timers_that_are_off_time_nothing(upstream: Upstream, server: Server) -> None:
    off = Timeouts(None, None, None, None, None, None)
    response, connection = await opened(upstream, server, CHUNKED, get(server.url, off))
    await connection.send(chunk(b"a") + b"0\r\n\r\n")

    assert await body_of(response) == b"a"


# Breaking off


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"], ids=["nothing", "half"])
async def test_an_end_before_the_head_is_a_connect_error(
    upstream: Upstream, server: Server, how: str, sent: bytes
) -> None:
    opening = asyncio.ensure_future(upstream.open(post(server.url)))
    connection = await server.accept()
    await connection.request()
    await connection.send(sent)
    getattr(connection, how)()

    with pytest.raises(UpstreamConnectError) as caught:
        await opening
    assert str(caught.value) == "The provider closed the connection before it answered."
    assert_no_secret(caught.value)


async def test_what_is_not_http_is_an_upstream_error(upstream: Upstream, server: Server) -> None:
    opening = asyncio.ensure_future(upstream.open(post(server.url)))
    connection = await server.accept()
    await connection.request()
    await connection.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    with pytest.raises(UpstreamError) as caught:
        await opening
    assert caught.value.status == 502
    assert_no_secret(caught.value)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello",
        CHUNKED + chunk(b"hello"),
        CHUNKED + b"100\r\nhello",
    ],
    ids=["content-length", "between-chunks", "inside-a-chunk"],
)
async def test_an_end_inside_the_body_is_a_broken_response(
    upstream: Upstream, server: Server, head: bytes, how: str
) -> None:
    response, connection = await opened(upstream, server, head)
    assert await response.read() == b"hello"
    getattr(connection, how)()

    with pytest.raises(UpstreamBrokenError) as caught:
        await body_of(response)
    assert_no_secret(caught.value)
    await response.aclose()


async def test_a_broken_chunk_is_a_broken_response(upstream: Upstream, server: Server) -> None:
    response, connection = await opened(upstream, server, CHUNKED + chunk(b"hello"))
    assert await response.read() == b"hello"
    await connection.send(b"not a size\r\n")

    with pytest.raises(UpstreamBrokenError):
        await body_of(response)
    await response.aclose()
    await connection.left()


async def test_a_broken_call_does_not_harm_the_next(upstream: Upstream, server: Server) -> None:
    response, connection = await opened(upstream, server, CHUNKED + chunk(b"hello"))
    connection.reset()
    with pytest.raises(UpstreamBrokenError):
        await body_of(response)
    await response.aclose()
    again, _ = await opened(upstream, server, OK)

    assert await body_of(again) == b"ok"
