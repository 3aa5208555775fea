"""An `Upstream` that plays a script and remembers what it was asked. No sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from asgi_llmgate.protocols import RawHeaders, UpstreamRequest
from tests import wire

JSON: RawHeaders = [(b"content-type", b"application/json")]
SSE: RawHeaders = [(b"content-type", b"text/event-stream; charset=utf-8")]


@dataclass
class Reply:
    """What to answer: chunks in order; an exception among them is raised in their place."""

    chunks: Sequence[bytes | Exception | asyncio.Event] = (wire.chat_body("gpt-4o"),)
    status: int = 200
    headers: RawHeaders = field(default_factory=lambda: list(JSON))
    closed: bool = False


class StubResponse:
    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.status = reply.status
        self.headers = reply.headers
        self._chunks = list(reply.chunks)

    async def read(self) -> bytes:
        while self._chunks:
            chunk = self._chunks.pop(0)
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, bytes):
                return chunk
            await chunk.wait()
        return b""

    async def aclose(self) -> None:
        self.reply.closed = True


class StubUpstream:
    """Answers each call with the next reply of `script`, then with plain ones."""

    def __init__(self, *script: Reply | Exception) -> None:
        self.script = list(script)
        self.requests: list[UpstreamRequest] = []
        self.bodies: list[bytes] = []
        self.is_closed = False

    async def open(self, request: UpstreamRequest, /) -> StubResponse:
        self.requests.append(request)
        if isinstance(request.body, bytes) or request.body is None:
            self.bodies.append(request.body or b"")
        else:
            self.bodies.append(b"".join([chunk async for chunk in request.body]))
        reply = self.script.pop(0) if self.script else Reply()
        if isinstance(reply, Exception):
            raise reply
        return StubResponse(reply)

    async def aclose(self) -> None:
        self.is_closed = True

    @property
    def last(self) -> UpstreamRequest:
        return self.requests[-1]

    def header(self, name: str) -> str | None:
        """Return a header of the last request."""
        found = [value for key, value in self.last.headers if key == name.encode()]
        return found[-1].decode("latin-1") if found else None
