"""Turn requests, responses, cancellations and errors into pyreqwest's, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Generator
from types import coroutine
from typing import Any, TypeVar

from pyreqwest.client import Client
from pyreqwest.exceptions import (
    DetailedPyreqwestError,
    PoolTimeoutError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from asgi_llmgate.errors import GatewayError, UpstreamConnectError
from asgi_llmgate.protocols import RawHeaders, Timeouts, UpstreamRequest
from asgi_llmgate.upstream.parts import (
    NO_ANSWER,
    OWN_HEADERS,
    SLICE_BYTES,
    cannot_be_sent,
    not_connected,
    slices,
)
from asgi_llmgate.upstream.timer import CONNECT, POOL, timed_out

__all__ = ["Upload", "close", "failed_to_open", "headers_of", "heeding", "prepare"]

T = TypeVar("T")


@coroutine
def heeding(awaitable: Awaitable[T]) -> Generator[Any, Any, T]:
    """Await `awaitable`; whatever it makes of a cancellation, that same cancellation comes out."""
    waiting = awaitable.__await__()
    while True:
        try:
            step = next(waiting)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # of type T, by `Awaitable`
        try:
            yield step
        except BaseException as error:
            try:
                waiting.throw(error)
            except BaseException:  # noqa: BLE001, S110 -- told; `error` is what counts
                pass
            raise


async def close(call: StreamRequest) -> None:
    """Close the connection of `call` unless its response is whole or never came."""
    try:
        await call.__aexit__(None, None, None)
    except RuntimeError:
        pass  # pyreqwest's way to say that there is no response


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
