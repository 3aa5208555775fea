"""Call providers through pyreqwest: Rust's reqwest, with TLS and HTTP parsing off the event loop.

What is not obvious about pyreqwest 0.15:

- `body_reader.read()` waits until its buffer is full; only `read_chunk()` relays tokens as they
  come, and only with a read buffer limit of 0 is a request answered before its body begins.
- Redirects, environment proxies and decompression are on unless switched off.
- Connect and pool timers belong to a client, so each pair of them gets a client of its own.
- Cancelling the wait for a response abandons the request but does not end it: until the head
  arrives the connection stays open and the provider keeps working. A request body that is still
  being sent can be broken off, and is. Once the head is there, closing is immediate.
- A cancellation that races with an arriving chunk can be lost; it is raised again here.
- Header values are text: non-ASCII ones of a response cannot be read and are left out.
- URLs are parsed as browsers do: `'` in a query is sent as `%27`.
- `Accept` and `User-Agent` are added where the request has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    DetailedPyreqwestError,
    PoolTimeoutError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from asgi_llmgate._version import __version__
from asgi_llmgate.errors import (
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
    SLICE_BYTES,
    cannot_be_sent,
    not_connected,
    read_ca_file,
    slices,
)
from asgi_llmgate.upstream.timer import (
    CONNECT,
    FIRST_BYTE,
    IDLE,
    POOL,
    TaskTimer,
    timed_out,
)

__all__ = ["PyreqwestUpstream"]

# Settings and routes make a handful of timer pairs; more come from somebody's arithmetic.
MAX_CLIENTS = 16


class PyreqwestUpstream:
    """An `Upstream` on pyreqwest. Usable in several event loops, one after another.

    Args:
        max_connections: Calls under way at once, for each pair of connect and pool timers; a
            further one waits for `pool_s`. None means no limit.
        http2: Offer HTTP/2 to providers. Off: many calls on one connection share its fate.
        ca_file: Certificates in PEM format to trust beside those of the system.
    """

    def __init__(
        self,
        *,
        max_connections: int | None = DEFAULT_MAX_CONNECTIONS,
        http2: bool = False,
        ca_file: Path | None = None,
    ) -> None:
        self.max_connections = max_connections
        self.http2 = http2
        self.ca_file = ca_file
        self._clients: dict[tuple[float | None, float | None], Client] = {}

    async def open(self, request: UpstreamRequest, /) -> PyreqwestResponse:
        timeouts = request.timeouts
        call, upload = prepare(self._client(timeouts), request)
        timer = TaskTimer(timeouts)
        if upload is not None:
            upload.body = timer.timed(upload.body)
        timer.begin(timeouts.first_byte_s, FIRST_BYTE)
        try:
            response = await call.__aenter__()
        except BaseException as error:
            timer.stop()
            if upload is not None:
                upload.abort()
            failure: BaseException | None = timer.end()
            if failure is None:
                if not isinstance(error, PyreqwestError):
                    raise  # cancelled, or from the iterator that is the request's body
                failure = failed_to_open(error, timeouts)
        else:
            failure = timer.end()
            if failure is None:
                if not timer.was_cancelled:
                    timer.is_sending = False
                    return PyreqwestResponse(call, response, timer, request.method == "HEAD")
                failure = asyncio.CancelledError()
            timer.stop()
            await call.__aexit__(None, None, None)
        raise failure

    async def aclose(self) -> None:
        clients = list(self._clients.values())
        self._clients.clear()
        for client in clients:
            await client.close()

    def _client(self, timeouts: Timeouts) -> Client:
        key = (timeouts.connect_s, timeouts.pool_s)
        client = self._clients.get(key)
        if client is None:
            if len(self._clients) >= MAX_CLIENTS:
                del self._clients[next(iter(self._clients))]  # its calls finish undisturbed
            client = self._clients[key] = self._build(*key)
        return client

    def _build(self, connect_s: float | None, pool_s: float | None) -> Client:
        builder = (
            ClientBuilder()
            .max_connections(self.max_connections)
            .http2(self.http2)
            .http2_adaptive_window(True)
            .follow_redirects(False)
            .referer(False)
            .no_proxy()
            .default_cookie_store(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .http1_lower_case_headers()
            .user_agent(f"asgi-llmgate/{__version__}")
        )
        if connect_s is not None:
            builder.connect_timeout(timedelta(seconds=connect_s))
        if pool_s is not None:
            builder.pool_timeout(timedelta(seconds=pool_s))
        if self.ca_file is not None:
            for certificate in read_ca_file(self.ca_file):
                builder.add_root_certificate_pem(certificate)
        return builder.build()


class PyreqwestResponse:
    __slots__ = ("_call", "_idle_s", "_left", "_read_chunk", "_timer", "headers", "status")

    def __init__(
        self, call: StreamRequest, response: Response, timer: TaskTimer, is_head: bool
    ) -> None:
        self.status = response.status
        self.headers = headers_of(response)
        self._call = call
        self._timer = timer
        self._idle_s = timer.timeouts.idle_s
        self._read_chunk = response.body_reader.read_chunk
        # Bytes to come; -1 if unknown. Spares the wait for an end that is known already.
        self._left = -1
        if is_head or self.status in (204, 304):
            self._left = 0
        elif "transfer-encoding" not in response.headers:
            self._left = int(response.get_header("content-length") or -1)
        if self._left == 0:
            timer.stop()

    async def read(self) -> bytes:
        left = self._left
        if left == 0:
            return b""
        timer = self._timer
        timer.begin(self._idle_s, IDLE)
        failure: BaseException | None
        try:
            chunk = await self._read_chunk()
        except asyncio.CancelledError:
            if (failure := timer.end()) is None:
                raise
        except PyreqwestError:
            failure = timer.end() or UpstreamBrokenError(BROKEN)
        else:
            failure = timer.end()
            if failure is None and timer.was_cancelled:
                failure = asyncio.CancelledError()
        if failure is not None:
            raise failure
        if chunk is None:
            self._left = 0
            timer.stop()
            return b""
        data = chunk.to_bytes()
        if left > 0:
            self._left = left = left - len(data)
            if left == 0:
                timer.stop()
        return data

    async def aclose(self) -> None:
        self._timer.stop()
        if self._left:
            self._left = 0
            await self._call.__aexit__(None, None, None)


class Upload:
    """A request body that is an iterator, and can be broken off."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self.body = body
        self._task: asyncio.Task[object] | None = None
        self._aborted = False

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        # pyreqwest asks for each chunk in a task of its own, as soon as it can write one.
        if self._aborted:
            raise UpstreamConnectError(NO_ANSWER)
        self._task = asyncio.current_task()
        try:
            return await anext(self.body)
        finally:
            self._task = None

    def abort(self) -> None:
        """Make the request fail, which closes its connection."""
        self._aborted = True
        if self._task is not None:
            self._task.cancel()


def prepare(client: Client, request: UpstreamRequest) -> tuple[StreamRequest, Upload | None]:
    """Return `request` as pyreqwest has it, and its body if that is written bit by bit.

    Raises:
        InvalidRequestError: it cannot be sent.
    """
    body = request.body
    upload: Upload | None = None
    try:
        builder = client.request(request.method, request.url)
        headers = [
            (name.decode(), value.decode())
            for name, value in request.headers
            if name not in OWN_HEADERS
        ]
        if isinstance(body, bytes):
            if 0 < len(body) <= SLICE_BYTES:
                builder.body_bytes(body)
            else:
                headers.append(("content-length", str(len(body))))
                upload = Upload(slices(body)) if body else None
        elif body is not None:
            headers += [
                ("content-length", value.decode())
                for name, value in request.headers
                if name == b"content-length"
            ]
            upload = Upload(body)
        if upload is not None:
            builder.body_stream(upload)
        builder.headers(headers).streamed_read_buffer_limit(0)
        return builder.build_streamed(), upload
    except ValueError:
        pass  # the library's exception may hold the header's value
    raise cannot_be_sent(request)


def headers_of(response: Response) -> RawHeaders:
    headers = response.headers
    try:
        return [(name.encode(), value.encode()) for name, value in headers.items()]
    except ValueError:
        readable: RawHeaders = []
        for name in dict.fromkeys(headers.keys()):
            try:
                values = headers.getall(name)
            except ValueError:
                continue
            readable += [(name.encode(), value.encode()) for value in values]
        return readable


def failed_to_open(error: PyreqwestError, timeouts: Timeouts) -> GatewayError:
    if isinstance(error, PoolTimeoutError):
        return timed_out(POOL, timeouts.pool_s)
    if isinstance(error, RequestTimeoutError):
        return timed_out(CONNECT, timeouts.connect_s)
    if isinstance(error, DetailedPyreqwestError):
        causes = [cause["message"] for cause in error.details["causes"] or ()]
        # pyreqwest's ConnectError is also what a connection that ended later makes.
        if "client error (Connect)" in causes:
            return not_connected(" ".join(causes))
    return UpstreamConnectError(NO_ANSWER)
