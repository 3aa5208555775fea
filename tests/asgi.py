"""A raw ASGI client. `httpx.ASGITransport` joins the body, so it cannot see streaming."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Exchange:
    """One request and everything the app sent back, message by message."""

    scope: Scope
    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """Response headers, names in lower case, the last of repeated ones."""
        raw = self.messages[0]["headers"]
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}

    @property
    def chunks(self) -> list[bytes]:
        """The bodies that were not empty, as they were cut."""
        return [message["body"] for message in self.messages[1:] if message.get("body")]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)


def http_scope(
    path: str,
    headers: Sequence[tuple[bytes, bytes]],
    *,
    method: str = "POST",
    query: str = "",
    raw_path: bytes | None = None,
    root_path: str = "",
    spec_version: str = "2.3",
) -> Scope:
    """Return a scope as uvicorn makes it. `path` is decoded, without a query."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode() if raw_path is None else raw_path,
        "root_path": root_path,
        "query_string": query.encode(),
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
    }


async def call(
    app: ASGIApp,
    body: Mapping[str, Any] | bytes | Sequence[bytes] = CHAT,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] = (),
    key: str | None = None,
    query: str = "",
    raw_path: bytes | None = None,
    root_path: str = "",
    spec_version: str = "2.3",
    leave_after: int | None = None,
    on_message: Callable[[Message], None] | None = None,
    timeout_s: float = 10,
) -> Exchange:
    """Send one request to `app` and collect what it answers.

    Args:
        body: An object is sent as JSON, bytes as they are, a list of bytes as that many messages.
        headers: A mapping is added to host, content type and length; a sequence of pairs is
            sent exactly as it is, with nothing beside it.
        key: Sent as `Authorization: Bearer <key>`.
        spec_version: Defaults to what uvicorn announces.
        leave_after: Disconnect after that many messages; 0 leaves before the answer starts.
        on_message: Called with each message as the app sends it.

    As a real server does, `receive` blocks after the body until the client leaves, and `send`
    goes on accepting messages after it left.
    """
    pieces = [json.dumps(body).encode()] if isinstance(body, Mapping) else body
    pieces = [pieces] if isinstance(pieces, bytes) else list(pieces) or [b""]
    raw_headers = headers
    if isinstance(headers, Mapping) or not headers:
        length = sum(map(len, pieces))
        raw_headers = [
            (b"host", b"testserver"),
            (b"content-type", b"application/json"),
            (b"content-length", str(length).encode()),
        ]
        if key is not None:
            raw_headers.append((b"authorization", f"Bearer {key}".encode()))
        added = dict(headers) if isinstance(headers, Mapping) else {}
        for name, value in added.items():
            raw_headers = [pair for pair in raw_headers if pair[0] != name.lower().encode()]
            raw_headers.append((name.lower().encode(), value.encode("latin-1")))
    assert not isinstance(raw_headers, Mapping)
    exchange = Exchange(
        http_scope(
            path,
            raw_headers,
            method=method,
            query=query,
            raw_path=raw_path,
            root_path=root_path,
            spec_version=spec_version,
        )
    )
    left = asyncio.Event()
    if leave_after == 0:
        left.set()
    pending: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": index < len(pieces) - 1}
        for index, piece in enumerate(pieces)
    ]

    async def receive() -> Message:
        if pending:
            return pending.pop(0)
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        exchange.messages.append(message)
        if on_message is not None:
            on_message(message)
        if leave_after is not None and len(exchange.messages) >= leave_after:
            left.set()

    async with asyncio.timeout(timeout_s):
        await app(exchange.scope, receive, send)
    return exchange
