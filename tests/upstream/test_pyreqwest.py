"""What is peculiar to the pyreqwest transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from asgi_llmgate.errors import InvalidRequestError
from asgi_llmgate.upstream.pyreqwest import MAX_CLIENTS, PyreqwestUpstream
from tests.upstream.server import Server
from tests.upstream.test_contract import (
    CHUNKED,
    OK,
    PATIENT,
    SECRET,
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
async def upstream() -> AsyncIterator[PyreqwestUpstream]:
    upstream = PyreqwestUpstream()
    yield upstream
    await upstream.aclose()


async def test_a_header_that_is_no_text_is_refused(upstream: PyreqwestUpstream) -> None:
    with pytest.raises(InvalidRequestError, match="`x-custom`") as caught:
        await upstream.open(post("http://localhost:1", headers=[(b"x-custom", SECRET + b"\xff")]))

    assert_no_secret(caught.value)


@pytest.mark.parametrize(
    ("method", "url"),
    [("GET", "no url"), ("GET", "http://[half"), ("G T", "http://localhost:1")],
    ids=["no-url", "half-an-address", "method"],
)
async def test_a_request_that_makes_no_sense_is_refused(
    upstream: PyreqwestUpstream, method: str, url: str
) -> None:
    with pytest.raises(InvalidRequestError):
        await upstream.open(post(url, None, method=method))


async def test_clients_are_shared_by_calls_with_the_same_timers(
    upstream: PyreqwestUpstream, server: Server
) -> None:
    server.always(OK)
    for total_s in range(10, 20):
        await call(upstream, get(server.url, replace(PATIENT, total_s=total_s, idle_s=total_s)))

    assert len(upstream._clients) == 1
    assert len(server.connections) == 1


async def test_a_call_outlives_the_client_that_made_it(
    upstream: PyreqwestUpstream, server: Server
) -> None:
    response, connection = await opened(upstream, server, CHUNKED)
    server.always(OK)
    for number in range(MAX_CLIENTS):
        await call(upstream, get(server.url, replace(PATIENT, connect_s=10.0 + number)))
    await connection.send(chunk(b"still here") + b"0\r\n\r\n")

    assert len(upstream._clients) == MAX_CLIENTS
    assert await body_of(response) == b"still here"


async def test_an_early_answer_to_an_upload_is_returned_at_once(
    upstream: PyreqwestUpstream, server: Server
) -> None:
    async def upload() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    opening = asyncio.ensure_future(upstream.open(post(server.url, upload())))
    connection = await server.accept()
    await connection.head()
    await connection.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    leaving = asyncio.ensure_future(connection.left())
    response = await opening
    await response.aclose()
    await leaving

    assert response.status == 413


async def test_what_a_cancelled_call_leaves_behind_ends_with_its_head(
    upstream: PyreqwestUpstream, server: Server
) -> None:
    """The extent of what `test_contract` marks as broken."""
    opening = asyncio.ensure_future(upstream.open(get(server.url)))
    connection = await server.accept()
    await connection.request()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await connection.send(CHUNKED + chunk(b"first token"))

    await assert_left_at_once(connection)
