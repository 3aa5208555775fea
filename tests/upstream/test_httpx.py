"""What is peculiar to the httpx transport: any transport of httpx's fits in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from pytest_httpx import HTTPXMock, IteratorStream

from asgi_llmgate.errors import (
    ConfigurationError,
    InvalidRequestError,
    UpstreamBrokenError,
    UpstreamConnectError,
    UpstreamTimeoutError,
)
from asgi_llmgate.upstream.httpx import HttpxUpstream
from tests.upstream.server import Server, serving
from tests.upstream.test_contract import OK, PATIENT, SECRET, assert_no_secret, call, get, post

URL = "https://api.provider.example/v1/chat/completions"


# pytest-httpx stands in for the network


async def test_a_mocked_answer_comes_back(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(
        method="POST",
        url=URL,
        match_content=b'{"model": "m"}',
        match_headers={"authorization": f"Bearer {SECRET.decode()}"},
        status_code=201,
        headers={"X-Request-Id": "r1"},
        json={"id": "1"},
    )
    response = await HttpxUpstream().open(post(URL, b'{"model": "m"}'))

    assert response.status == 201
    assert (b"x-request-id", b"r1") in response.headers
    assert await response.read() == b'{"id":"1"}'
    assert await response.read() == b""


async def test_a_mocked_stream_keeps_its_chunks(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(stream=IteratorStream([b"data: 1\n\n", b"", b"data: 2\n\n"]))
    response = await HttpxUpstream().open(post(URL))

    assert [await response.read() for _ in range(3)] == [b"data: 1\n\n", b"data: 2\n\n", b""]


async def test_an_upload_can_be_matched(httpx_mock: HTTPXMock) -> None:
    async def upload() -> AsyncIterator[bytes]:
        yield b"one, "
        yield b"two"

    httpx_mock.add_response(match_content=b"one, two")

    assert (await call(HttpxUpstream(), post(URL, upload())))[0] == 200


@pytest.mark.parametrize(
    ("raised", "becomes", "message"),
    [
        (httpx.ConnectTimeout("t"), UpstreamTimeoutError, "No connection to the provider within 5"),
        (httpx.PoolTimeout("t"), UpstreamTimeoutError, "No free connection to the provider"),
        (httpx.WriteTimeout("t"), UpstreamTimeoutError, "The provider accepted nothing"),
        (httpx.ReadTimeout("t"), UpstreamTimeoutError, "No response from the provider within 5"),
        (httpx.ConnectError("t"), UpstreamConnectError, "No connection to the provider could"),
        (httpx.UnsupportedProtocol("t"), UpstreamConnectError, "No connection to the provider"),
        (httpx.RemoteProtocolError("t"), UpstreamConnectError, "The provider closed"),
        (httpx.LocalProtocolError("t"), InvalidRequestError, "The request's method"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_errors_of_httpx_become_ours(
    httpx_mock: HTTPXMock, raised: Exception, becomes: type[Exception], message: str
) -> None:
    httpx_mock.add_exception(raised)
    with pytest.raises(becomes, match=f"^{message}") as caught:
        await HttpxUpstream().open(post(URL))

    assert_no_secret(caught.value)


class Stream(httpx.AsyncByteStream):
    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"part"
        raise self.error

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (httpx.ReadError("t"), UpstreamBrokenError),
        (httpx.ReadTimeout("t"), UpstreamTimeoutError),
    ],
)
async def test_errors_inside_the_body_become_ours(
    raised: httpx.RequestError, becomes: type[Exception]
) -> None:
    raised.request = httpx.Request("POST", URL, headers={"authorization": SECRET.decode()})
    stream = Stream(raised)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=stream))
    response = await HttpxUpstream(transport).open(post(URL))
    assert await response.read() == b"part"

    with pytest.raises(becomes) as caught:
        await response.read()
    assert_no_secret(caught.value)
    await response.aclose()
    assert stream.closed


async def test_an_error_that_holds_the_request_is_left_behind() -> None:
    class Failing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ReadError("failed", request=request)

    with pytest.raises(UpstreamConnectError) as caught:
        await HttpxUpstream(Failing()).open(post(URL))

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_transport_without_timers_of_its_own_is_timed() -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    with pytest.raises(UpstreamTimeoutError, match=r"No response from the provider within 0\.05 s"):
        await HttpxUpstream(Silent()).open(get(URL, replace(PATIENT, first_byte_s=0.05)))


async def test_a_response_that_outran_its_timer_is_closed() -> None:
    stream = Stream(AssertionError())

    class Stubborn(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                pass
            return httpx.Response(200, stream=stream)

    with pytest.raises(UpstreamTimeoutError):
        await HttpxUpstream(Stubborn()).open(get(URL, replace(PATIENT, first_byte_s=0.05)))
    assert stream.closed


async def test_a_given_transport_is_not_closed() -> None:
    class Mine(httpx.MockTransport):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    transport = Mine(lambda _: httpx.Response(200))
    upstream = HttpxUpstream(transport)
    await call(upstream, get(URL))
    await upstream.aclose()

    assert not transport.closed


# OpenTelemetry


async def test_a_call_makes_a_span_and_carries_its_context() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with serving() as server:
        server.always(OK)
        inner = httpx.AsyncHTTPTransport(trust_env=False)
        upstream = HttpxUpstream(AsyncOpenTelemetryTransport(inner, tracer_provider=provider))
        assert await call(upstream, post(server.url + "/v1/chat/completions")) == (200, b"ok")
        await inner.aclose()
        (span,) = exporter.get_finished_spans()
        (traceparent,) = server.requests[0].values(b"traceparent")

    assert span.kind is SpanKind.CLIENT
    assert span.context is not None
    assert f"{span.context.trace_id:032x}".encode() in traceparent
    assert SECRET.decode() not in span.to_json()


# The transport it makes itself


def test_connections_are_closed_with_their_loop() -> None:
    async def session(upstream: HttpxUpstream) -> Server:
        async with serving() as server:
            server.always(OK)
            await call(upstream, get(server.url))
            return server

    upstream = HttpxUpstream()
    for _ in range(3):
        # An open socket of a dead loop would warn when it is collected, and warnings are errors.
        asyncio.run(session(upstream))

    assert len(upstream._made) == 0


async def test_http2_without_its_package_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "h2", None)
    with pytest.raises(ConfigurationError, match="HINT: run"):
        await HttpxUpstream(http2=True).open(get(URL))
