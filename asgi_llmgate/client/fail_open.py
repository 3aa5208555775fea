"""Transports that go on when the gateway is gone, for SDKs on httpx or httpx2.

    OpenAI(http_client=httpx2.Client(transport=FailOpenTransport(
        gateways=["http://gateway-a:8790/v1", "http://gateway-b:8790/v1"],
        direct=Direct("https://api.openai.com/v1", api_key=…),
    )))

Gateways are asked in order; after them, if `direct` is given, the provider itself. A whole answer
is read before it is handed on, so that a gateway which dies in the middle of one is replaced, too.
Of a stream nothing can be taken back: it fails where it breaks.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from asgi_llmgate.client.direct_record import DirectRecord
from asgi_llmgate.client.endpoints import (
    CREDENTIALS,
    Direct,
    Endpoint,
    Endpoints,
    stripped_path,
)
from asgi_llmgate.client.spool import Spool
from asgi_llmgate.core.breaker import Ticket

__all__ = ["AsyncFailOpenTransport", "Direct", "FailOpenTransport"]


if TYPE_CHECKING:
    Transport: Any  # of httpx or of httpx2, which know nothing of one another
else:
    Transport = object


class _FailOpen(Transport):  # type: ignore[misc]  # on purpose: fits both
    """What both transports share.

    Args:
        gateways: Their base URLs, in order, with or without the version path.
        direct: The provider; None never goes past the gateways.
        guarded: Whether a path must not go direct: True for all, or a function of the path. What a
            gateway marks as guarded in an answer is remembered beside it.
        spool: A folder for the records of direct calls; they are handed in once a gateway answers.
            None keeps none.
        spool_bodies: Keep bodies in these records, too.
        ingest_key: With which records are handed in; defaults to the credential of the calls.
        transport: Makes the connections: a transport of the same library; made when None.
    """

    def __init__(
        self,
        *,
        gateways: Sequence[str],
        direct: Direct | None = None,
        guarded: bool | Callable[[str], bool] = False,
        spool: Path | str | None = None,
        spool_bodies: bool = False,
        ingest_key: str | None = None,
        transport: Any = None,
    ) -> None:
        self.endpoints = Endpoints(gateways, direct, guarded)
        self.spool = None if spool is None else Spool(spool)
        self._keeps_bodies = spool_bodies
        self._ingest_key = ingest_key
        self._transport = transport
        self._making = threading.Lock()

    def _record_of(self, endpoint: Endpoint, request: Any, relative: str) -> DirectRecord | None:
        if self.spool is None or endpoint.direct is None:
            return None
        headers = {name.lower(): value for name, value in request.headers.raw}
        return DirectRecord(
            endpoint.direct,
            request.method,
            relative,
            headers,
            request.content,
            keeps_bodies=self._keeps_bodies,
        )

    def _rewritten(self, library: ModuleType, request: Any, endpoint: Endpoint, path: str) -> Any:
        sent = self.endpoints.request_to(endpoint, path, request.headers.raw, request.content)
        return library.Request(
            request.method,
            sent.url,
            headers=sent.headers,
            content=sent.body,
            extensions=request.extensions,
        )

    def _answered(self, endpoint: Endpoint, ticket: Ticket, response: Any, path: str) -> bool:
        """Note an answer; True if it says that the gateway itself failed."""
        has_failed = endpoint.direct is None and self.endpoints.has_failed(
            response.status_code, response.headers
        )
        self.endpoints.record(endpoint, ticket, is_good=not has_failed)
        if endpoint.direct is None and response.headers.get("llmgate-guarded") == "true":
            self.endpoints.guarded_paths.add(path)
        return has_failed

    def _hand_in(self, endpoint: Endpoint, request: Any) -> None:
        """A gateway answers: let it have what waits."""
        if self.spool is None or endpoint.direct is not None or self.spool.is_empty:
            return
        if self._ingest_key is not None:
            headers = {"authorization": f"Bearer {self._ingest_key}"}
        else:
            names = ("llmgate-auth", "helicone-auth", *(name.decode() for name in CREDENTIALS))
            value = next((request.headers[name] for name in names if name in request.headers), "")
            headers = {"authorization": f"Bearer {value.removeprefix('Bearer ')}"}
        self.spool.deliver_soon(endpoint.base_url, headers)

    def _give_back(self, rest: Sequence[tuple[Endpoint, Ticket]]) -> None:
        """Return leave that was not used: a probe must not stay out."""
        for endpoint, ticket in rest:
            self.endpoints.record(endpoint, ticket, is_good=None)

    def _spool(self, record: DirectRecord | None, *, is_whole: bool) -> None:
        if record is not None and self.spool is not None:
            self.spool.write(record.finish(is_whole=is_whole))


class FailOpenTransport(_FailOpen):
    """For `httpx.Client` and `httpx2.Client`. See the module's docstring, and `_FailOpen`."""

    def handle_request(self, request: Any) -> Any:
        library = library_of(request)
        request.read()
        relative = self.endpoints.relative(str(request.url))
        path = stripped_path(relative)
        error: Exception | None = None
        failed: Any = None
        order = self.endpoints.order(path)
        for index, (endpoint, ticket) in enumerate(order):
            record = self._record_of(endpoint, request, relative)
            try:
                sent = self._rewritten(library, request, endpoint, relative)
                response = self._inner(library).handle_request(sent)
                response = self._whole(library, response)
            except library.TransportError as raised:
                error = raised
                self.endpoints.record(
                    endpoint, ticket, is_good=False, is_dead=is_dead(library, raised)
                )
                self._spool(record, is_whole=False)
                continue
            except BaseException:
                self._give_back(order[index:])
                raise
            if self._answered(endpoint, ticket, response, path) and len(order) > 1:
                failed = response  # read already, as all that is no stream
                continue
            self._give_back(order[index + 1 :])
            self._hand_in(endpoint, request)
            return self._watched(library, response, record)
        if failed is not None:
            return failed
        assert error is not None
        raise error

    def _whole(self, library: ModuleType, response: Any) -> Any:
        """Read an answer that is no stream, so that one that breaks can still be replaced."""
        if is_stream(response):
            return response
        try:
            content = b"".join(response.stream)
        finally:
            response.stream.close()
        return rebuilt(library, response, library.ByteStream(content))

    def _watched(self, library: ModuleType, response: Any, record: DirectRecord | None) -> Any:
        if record is None:
            return response
        record.begin(response.status_code, response.headers.get("content-type", ""))
        if not is_stream(response):
            for chunk in response.stream:
                record.feed(chunk)
            self._spool(record, is_whole=True)
            return response
        inner, spool, watching = response.stream, self._spool, record

        class Watched(library.SyncByteStream):  # type: ignore[name-defined,misc]  # of two
            is_done = False

            def __iter__(self) -> Iterator[bytes]:
                for chunk in inner:
                    watching.feed(chunk)
                    yield chunk
                self.done(is_whole=True)

            def close(self) -> None:
                inner.close()
                self.done(is_whole=False)

            def done(self, *, is_whole: bool) -> None:
                if not self.is_done:
                    self.is_done = True
                    spool(watching, is_whole=is_whole)

        return rebuilt(library, response, Watched())

    def _inner(self, library: ModuleType) -> Any:
        if self._transport is None:
            with self._making:  # SDK clients are used from many threads.
                if self._transport is None:
                    self._transport = library.HTTPTransport()
        return self._transport

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> FailOpenTransport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncFailOpenTransport(_FailOpen):
    """For `httpx.AsyncClient` and `httpx2.AsyncClient`. As `FailOpenTransport`."""

    async def handle_async_request(self, request: Any) -> Any:
        library = library_of(request)
        await request.aread()
        relative = self.endpoints.relative(str(request.url))
        path = stripped_path(relative)
        error: Exception | None = None
        failed: Any = None
        order = self.endpoints.order(path)
        for index, (endpoint, ticket) in enumerate(order):
            record = self._record_of(endpoint, request, relative)
            try:
                sent = self._rewritten(library, request, endpoint, relative)
                response = await self._inner(library).handle_async_request(sent)
                response = await self._whole(library, response)
            except library.TransportError as raised:
                error = raised
                self.endpoints.record(
                    endpoint, ticket, is_good=False, is_dead=is_dead(library, raised)
                )
                self._spool(record, is_whole=False)
                continue
            except BaseException:  # cancelled, most likely
                self._give_back(order[index:])
                raise
            if self._answered(endpoint, ticket, response, path) and len(order) > 1:
                failed = response  # read already, as all that is no stream
                continue
            self._give_back(order[index + 1 :])
            self._hand_in(endpoint, request)
            return await self._watched(library, response, record)
        if failed is not None:
            return failed
        assert error is not None
        raise error

    async def _whole(self, library: ModuleType, response: Any) -> Any:
        if is_stream(response):
            return response
        try:
            content = b"".join([chunk async for chunk in response.stream])
        finally:
            await response.stream.aclose()
        return rebuilt(library, response, library.ByteStream(content))

    async def _watched(
        self, library: ModuleType, response: Any, record: DirectRecord | None
    ) -> Any:
        if record is None:
            return response
        record.begin(response.status_code, response.headers.get("content-type", ""))
        if not is_stream(response):
            async for chunk in response.stream:
                record.feed(chunk)
            self._spool(record, is_whole=True)
            return response
        inner, spool, watching = response.stream, self._spool, record

        class Watched(library.AsyncByteStream):  # type: ignore[name-defined,misc]  # of two
            is_done = False

            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for chunk in inner:
                    watching.feed(chunk)
                    yield chunk
                self.done(is_whole=True)

            async def aclose(self) -> None:
                await inner.aclose()
                self.done(is_whole=False)

            def done(self, *, is_whole: bool) -> None:
                if not self.is_done:
                    self.is_done = True
                    spool(watching, is_whole=is_whole)

        return rebuilt(library, response, Watched())

    def _inner(self, library: ModuleType) -> Any:
        if self._transport is None:
            self._transport = library.AsyncHTTPTransport()
        return self._transport

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    async def __aenter__(self) -> AsyncFailOpenTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def library_of(request: Any) -> ModuleType:
    """Return httpx or httpx2, whichever `request` is of."""
    return sys.modules[type(request).__module__.partition(".")[0]]


def is_stream(response: Any) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith(("text/event-stream", "application/vnd.amazon.eventstream", "audio/"))


def is_dead(library: ModuleType, error: Exception) -> bool:
    """Tell whether nobody is there, rather than that an answer took long."""
    return not isinstance(error, library.ReadTimeout | library.PoolTimeout)


def rebuilt(library: ModuleType, response: Any, stream: Any) -> Any:
    return library.Response(
        response.status_code,
        headers=response.headers.raw,
        stream=stream,
        extensions=response.extensions,
    )
