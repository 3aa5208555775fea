"""Call a gateway in the same process, without a socket, by any SDK on httpx or httpx2.

`httpx.ASGITransport` joins the answer before it returns. This one hands on each piece as the
gateway sends it, makes the gateway wait while nobody reads, and tells it when the reader leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from asgi_llmgate.context import ACTING
from asgi_llmgate.types import Principal

__all__ = ["in_process_client"]

PrincipalOf = Callable[[], Awaitable[Principal]]

# A key that the SDK insisted on is not the caller's; who calls is known already.
CREDENTIALS = frozenset(
    {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"llmgate-auth"}
    | {b"helicone-auth"}
)
# What a gateway needs at most to note that the reader left.
LEAVING_S = 5.0


def in_process_client(library: Any, app: ASGIApp, principal_of: PrincipalOf) -> Any:
    """Return an `AsyncClient` of `library`, which is httpx or httpx2.

    Every call is that of `principal_of()`. Scheme and host of URLs mean nothing, so an SDK may
    keep its own `base_url`. Keys in the SDK's headers are left out.
    """

    class Body(library.AsyncByteStream):  # type: ignore[misc]  # of one of two libraries
        def __init__(self, exchange: Exchange, read_s: float | None) -> None:
            self._exchange = exchange
            self._read_s = read_s

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                while (message := await self._exchange.next(self._read_s)) is not None:
                    if body := message.get("body", b""):
                        yield body
                    if not message.get("more_body", False):
                        return
                raise library.RemoteProtocolError("the gateway ended in the middle of its answer")
            except TimeoutError:
                raise library.ReadTimeout("nothing came from the gateway in time") from None

        async def aclose(self) -> None:
            await self._exchange.leave()

    class InProcessTransport(library.AsyncBaseTransport):  # type: ignore[misc]  # likewise
        async def handle_async_request(self, request: Any) -> Any:
            scope = _scope(request)
            scope[ACTING] = await principal_of()
            read_s = request.extensions.get("timeout", {}).get("read")
            exchange = Exchange(app, scope, aiter(request.stream))
            try:
                start = await exchange.next(read_s)
            except TimeoutError:
                await exchange.leave()
                raise library.ReadTimeout("the gateway did not answer in time") from None
            except BaseException:
                await exchange.leave()
                raise
            if start is None:
                raise library.RemoteProtocolError("the gateway did not answer")
            headers = list(start.get("headers", ()))
            return library.Response(start["status"], headers=headers, stream=Body(exchange, read_s))

    return library.AsyncClient(transport=InProcessTransport(), base_url="http://llmgate")


class Exchange:
    """One request to `app`, which runs in a task of its own until it is answered."""

    def __init__(self, app: ASGIApp, scope: Scope, body: AsyncIterator[bytes]) -> None:
        self._app = app
        self._scope = scope
        self._body = body
        self._is_sent = False
        # One message ahead of the reader: a slow one slows the gateway down.
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(1)
        self._left = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def next(self, timeout_s: float | None) -> Message | None:
        """Return the next message; None if the app has returned.

        Raises:
            TimeoutError: none came within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            return await self._messages.get()

    async def leave(self) -> None:
        """Tell the app that nobody reads on, and wait until it has noted that."""
        self._left.set()
        while not self._messages.empty():
            self._messages.get_nowait()
        done, _ = await asyncio.wait([self._task], timeout=LEAVING_S)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # was told to the reader, if there was one

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        finally:
            await self._put(None)

    async def _receive(self) -> Message:
        if not self._is_sent:
            try:
                chunk = await anext(self._body)
            except StopAsyncIteration:
                self._is_sent = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.request", "body": chunk, "more_body": True}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._put(message)

    async def _put(self, message: Message | None) -> None:
        if not self._left.is_set():
            await self._messages.put(message)


def _scope(request: Any) -> Scope:
    url = request.url
    raw_path: bytes = url.raw_path.partition(b"?")[0]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": url.path,
        "raw_path": raw_path,
        "root_path": "",
        "query_string": url.query,
        "headers": [
            (lower, value)
            for name, value in request.headers.raw
            if (lower := name.lower()) not in CREDENTIALS
        ],
        "client": None,
        "server": ("llmgate", 80),
    }
