"""Call providers through any httpx transport: slower than pyreqwest, and open to everything.

The transport is called directly. `httpx.AsyncClient` would double the cost of a call, and would
read proxies from the environment, keep cookies, follow redirects and decompress.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx

from asgi_llmgate.errors import (
    ConfigurationError,
    GatewayError,
    UpstreamBrokenError,
    UpstreamConnectError,
)
from asgi_llmgate.protocols import RawHeaders, Timeouts, UpstreamRequest
from asgi_llmgate.upstream.parts import (
    BROKEN,
    DEFAULT_MAX_CONNECTIONS,
    NO_ANSWER,
    OWN_HEADERS,
    cannot_be_sent,
    client_context,
    not_connected,
    slices,
)
from asgi_llmgate.upstream.per_loop import PerLoop
from asgi_llmgate.upstream.timer import (
    CONNECT,
    FIRST_BYTE,
    IDLE,
    POOL,
    WRITE,
    Clock,
    TaskTimer,
    clock_here,
    timed_out,
)

__all__ = ["HttpxUpstream"]


class HttpxUpstream:
    """An `Upstream` on an `httpx.AsyncBaseTransport`.

    Args:
        transport: Yours to close. It must not follow redirects, decompress or keep cookies, as
            none of httpx's own does. None makes an `httpx.AsyncHTTPTransport` for each event
            loop, closed with this object or with the loop; the other arguments are for it.
        max_connections: Connections open at once; a further call waits for `pool_s`.
        http2: Offer HTTP/2 to providers. Needs `pip install "httpx[http2]"`.
        ca_file: Certificates in PEM format to trust beside certifi's.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_connections: int | None = DEFAULT_MAX_CONNECTIONS,
        http2: bool = False,
        ca_file: Path | None = None,
    ) -> None:
        self.transport = transport
        self.max_connections = max_connections
        self.http2 = http2
        self.ca_file = ca_file
        self._clock: Clock | None = None
        self._context: ssl.SSLContext | None = None
        self._made = PerLoop(self._make)

    async def open(self, request: UpstreamRequest, /) -> HttpxResponse:
        transport = self.transport or self._made.here() or await self._made.make()
        clock = self._clock = clock_here(self._clock)
        timer = TaskTimer(clock, request.timeouts)
        failure: Exception | None = None
        try:
            sent = to_httpx(request, timer)
            timer.begin(request.timeouts.first_byte_s, FIRST_BYTE)
            response = await transport.handle_async_request(sent)
        except asyncio.CancelledError:
            timer.stop()
            if (late := timer.end()) is not None:
                raise late from None
            raise
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            failure = cannot_be_sent(request)
        except httpx.RequestError as error:
            failure = timer.end() or failed_to_open(error, request.timeouts)
        except BaseException:  # from the iterator that is the request's body
            timer.stop()
            raise
        if failure is not None:
            # Raised here, not above: httpx's exceptions hold the request and its headers.
            timer.stop()
            raise failure
        opened = HttpxResponse(response, timer)
        if (late := timer.end()) is not None:
            await opened.aclose()
            raise late
        timer.is_sending = False
        return opened

    async def aclose(self) -> None:
        await self._made.aclose()

    def _make(self) -> httpx.AsyncHTTPTransport:
        if self._context is None:
            self._context = client_context(self.ca_file)
        if self.http2 and find_spec("h2") is None:
            raise ConfigurationError(
                "HTTP/2 through httpx needs the package h2, which is not installed.\n"
                'HINT: run `pip install "httpx[http2]"`, or leave HTTP/2 off.'
            )
        return httpx.AsyncHTTPTransport(
            verify=self._context,
            trust_env=False,
            http2=self.http2,
            limits=httpx.Limits(max_connections=self.max_connections, keepalive_expiry=60),
        )


class HttpxResponse:
    __slots__ = ("_chunks", "_stream", "_timer", "headers", "status")

    def __init__(self, response: httpx.Response, timer: TaskTimer) -> None:
        self.status = response.status_code
        self.headers: RawHeaders = [(name.lower(), value) for name, value in response.headers.raw]
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        self._stream: httpx.AsyncByteStream | None = stream
        self._chunks: AsyncIterator[bytes] = aiter(stream)
        self._timer = timer

    async def read(self) -> bytes:
        if self._stream is None:
            return b""
        timer = self._timer
        timer.begin(timer.timeouts.idle_s, IDLE)
        failure: Exception | None = None
        chunk = b""
        try:
            while not chunk:
                chunk = await anext(self._chunks)
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError:
            if (late := timer.end()) is not None:
                raise late from None
            raise
        except httpx.TimeoutException:
            failure = timed_out(IDLE, timer.timeouts.idle_s)
        except httpx.RequestError:
            failure = UpstreamBrokenError(BROKEN)
        failure = timer.end() or failure
        if failure is not None:
            raise failure
        if not chunk:
            await self.aclose()  # hands the connection back
        return chunk

    async def aclose(self) -> None:
        self._timer.stop()
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()
        await stream.aclose()


class Upload(httpx.AsyncByteStream):
    def __init__(self, body: bytes | AsyncIterator[bytes], timer: TaskTimer) -> None:
        self._body = slices(body) if isinstance(body, bytes) else body
        self._timer = timer

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._timer.timed(self._body)


def to_httpx(request: UpstreamRequest, timer: TaskTimer) -> httpx.Request:
    url, body, timeouts = httpx.URL(request.url), request.body, request.timeouts
    headers = [(b"host", url.netloc)]
    headers += [header for header in request.headers if header[0] not in OWN_HEADERS]
    if isinstance(body, bytes):
        headers.append((b"content-length", b"%d" % len(body)))
    elif body is not None:
        length = [header for header in request.headers if header[0] == b"content-length"]
        headers += length or [(b"transfer-encoding", b"chunked")]
    limits = {
        "connect": timeouts.connect_s,
        "pool": timeouts.pool_s,
        "write": timeouts.write_s,
        "read": None,  # two timers here, the first byte's and the idle one, kept by `timer`
    }
    # `httpx.URL` writes some characters anew; this is the request line as it was given.
    _, _, rest = request.url.partition("://")
    target = rest[len(rest.partition("/")[0]) :].partition("#")[0] or "/"
    return httpx.Request(
        request.method,
        url,
        headers=headers,
        stream=Upload(b"" if body is None else body, timer),
        extensions={"timeout": limits, "target": target.encode()},
    )


def failed_to_open(error: httpx.RequestError, timeouts: Timeouts) -> GatewayError:
    match error:
        case httpx.ConnectTimeout():
            return timed_out(CONNECT, timeouts.connect_s)
        case httpx.PoolTimeout():
            return timed_out(POOL, timeouts.pool_s)
        case httpx.WriteTimeout():
            return timed_out(WRITE, timeouts.write_s)
        case httpx.TimeoutException():
            return timed_out(FIRST_BYTE, timeouts.first_byte_s)
        case httpx.ConnectError() | httpx.ProxyError() | httpx.UnsupportedProtocol():
            return not_connected(" ".join(texts(error)))
        case _:
            return UpstreamConnectError(NO_ANSWER)


def texts(error: BaseException) -> Iterator[str]:
    """Yield `error` and all that caused it as text: only the innermost says what happened."""
    yield repr(error)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from texts(one)
    if (cause := error.__cause__ or error.__context__) is not None:
        yield from texts(cause)
