"""Call an ASGI app in this process, without a server: what is left is the app's own time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate.types import CallRecord
from bench.payloads import CHAT_PATH

__all__ = ["Call", "NoLog", "call", "null_app"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be made any number of times."""

    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    path: str = CHAT_PATH

    def scope(self) -> Scope:
        """Return a scope such as uvicorn makes for a call by the official OpenAI SDK."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 50000),
            "scheme": "http",
            "method": "POST",
            "root_path": "",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "headers": [
                (b"host", b"127.0.0.1:8000"),
                (b"accept", b"application/json"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(self.body)).encode()),
                *self.headers,
            ],
            "state": {},
        }


async def call(app: ASGIApp, request: Call) -> tuple[int, int, int]:
    """Make the call; return status, number of body messages and number of body bytes.

    As under uvicorn, `receive` gives the body once and then waits until the answer is complete.
    """
    status = messages = size = 0
    body_pending = True
    answered: asyncio.Future[None] | None = None
    complete = False

    async def receive() -> Message:
        nonlocal body_pending, answered
        if body_pending:
            body_pending = False
            return {"type": "http.request", "body": request.body, "more_body": False}
        if not complete:
            answered = asyncio.get_running_loop().create_future()
            await answered
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, messages, size, complete
        if message["type"] == "http.response.start":
            status = message["status"]
            return
        messages += 1
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            complete = True
            if answered is not None and not answered.done():
                answered.set_result(None)

    await app(request.scope(), receive, send)
    return status, messages, size


_NULL_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
_NULL_BODY: Message = {"type": "http.response.body", "body": b"{}", "more_body": False}


async def null_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, reading nothing."""
    await send(_NULL_START)
    await send(_NULL_BODY)


class NoLog:
    """A sink that keeps nothing."""

    dropped = 0

    def write(self, record: CallRecord, /) -> None:
        pass

    async def flush(self) -> None:
        pass

    async def aclose(self) -> None:
        pass
