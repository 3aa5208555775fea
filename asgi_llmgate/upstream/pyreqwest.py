"""Call providers through pyreqwest: Rust's reqwest, with TLS and HTTP parsing off the event loop.

What is not obvious about pyreqwest 0.15:

- `body_reader.read()` waits until its buffer is full; only `read_chunk()` relays tokens as they
  come, and only with a read buffer limit of 0 is a request answered before its body begins.
- Redirects, environment proxies and decompression are on unless switched off.
- Connect and pool timers belong to a client, so each pair of them gets a client of its own.
- Cancelling the wait for a response abandons the request but does not end it: until the head
  arrives the connection stays open and the provider keeps working. A request body that is still
  being sent can be broken off, and is. Once the head is there, closing is immediate.
- Its coroutines answer a cancellation with one of their own, which anyio's cancel scopes do not
  know again, or with the chunk that arrived just then, so that it is lost: see `heeding`.
- It trusts the system's certificates, or those that SSL_CERT_FILE and SSL_CERT_DIR name.
- Header values are text: non-ASCII ones of a response cannot be read and are left out.
- URLs are parsed as browsers do: `'` in a query is sent as `%27`.
- `Accept` and `User-Agent` are added where the request has none.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from asgi_llmgate._version import __version__
from asgi_llmgate.errors import UpstreamBrokenError
from asgi_llmgate.protocols import Timeouts, UpstreamRequest
from asgi_llmgate.upstream.parts import BROKEN, DEFAULT_MAX_CONNECTIONS, read_ca_file
from asgi_llmgate.upstream.pyreqwest_parts import (
    Upload,
    close,
    failed_to_open,
    headers_of,
    heeding,
    prepare,
)
from asgi_llmgate.upstream.timer import FIRST_BYTE, IDLE, Clock, TaskTimer, clock_here

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
        self._clock: Clock | None = None
        self._clients: dict[tuple[float | None, float | None], Client] = {}

    async def open(self, request: UpstreamRequest, /) -> PyreqwestResponse:
        timeouts = request.timeouts
        call, upload = prepare(self._client(timeouts), request)
        clock = self._clock = clock_here(self._clock)
        timer = TaskTimer(clock, timeouts)
        if upload is not None:
            upload.body = timer.timed(upload.body)
        timer.begin(timeouts.first_byte_s, FIRST_BYTE)
        failure: Exception | None
        try:
            response = await heeding(call.__aenter__())
        except BaseException as error:
            timer.stop()
            if upload is not None:
                upload.abort()
            await close(call)
            failure = timer.end()
            if failure is None:
                if not isinstance(error, PyreqwestError):
                    raise  # cancelled, or from the iterator that is the request's body
                failure = failed_to_open(error, timeouts)
        else:
            failure = timer.end()
            if failure is None:
                timer.is_sending = False
                is_head = request.method == "HEAD"
                return PyreqwestResponse(call, response, timer, upload, is_head)
            timer.stop()
            await close(call)
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
    __slots__ = (
        "_call",
        "_idle_s",
        "_left",
        "_read_chunk",
        "_timer",
        "_upload",
        "headers",
        "status",
    )

    def __init__(
        self,
        call: StreamRequest,
        response: Response,
        timer: TaskTimer,
        upload: Upload | None,
        is_head: bool,
    ) -> None:
        self.status = response.status
        self.headers = headers_of(response)
        self._call = call
        self._timer = timer
        self._upload = upload
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
        failure: Exception | None
        try:
            chunk = await heeding(self._read_chunk())
        except asyncio.CancelledError:
            if (failure := timer.end()) is None:
                raise
        except PyreqwestError:
            failure = timer.end() or UpstreamBrokenError(BROKEN)
        else:
            failure = timer.end()
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
        if self._upload is not None:
            self._upload.abort()  # it may still be going on, if the answer came early
        if self._left:
            self._left = 0
            await close(self._call)
