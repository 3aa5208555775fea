"""A bare relay: pyreqwest driven directly in the least ASGI app that does it right.

The yardstick of the budgets. It passes method, path, headers and body on and the answer back,
chunk by chunk as it comes. It decides nothing, records nothing and, unlike a gateway, does not
watch whether its caller is still there.

    BENCH_UPSTREAM=http://127.0.0.1:8080 uvicorn bench.relay:app
"""

from __future__ import annotations

import os
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from starlette.types import Receive, Scope, Send

__all__ = ["app"]

UPSTREAM = os.environ.get("BENCH_UPSTREAM", "http://127.0.0.1:8080")
# RFC 9110 §7.6.1, and what the client library writes itself.
NOT_FORWARDED = frozenset({b"connection", b"host", b"content-length", b"transfer-encoding", b"te"})
NOT_RETURNED = frozenset({"connection", "keep-alive", "transfer-encoding"})

_client: Client | None = None


def client() -> Client:
    """Return the client of this process, made on first use: a loop must be running."""
    global _client
    if _client is None:
        builder = ClientBuilder().no_proxy().follow_redirects(enable=False)
        builder = builder.gzip(enable=False).brotli(enable=False).zstd(enable=False)
        builder = builder.deflate(enable=False).referer(enable=False)
        builder = builder.connect_timeout(timedelta(seconds=5)).read_timeout(timedelta(seconds=120))
        _client = builder.build()
    return _client


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
        if name not in NOT_FORWARDED
    ]
    builder = client().request(scope["method"], UPSTREAM + scope["path"]).headers(headers)
    # With the default buffer a cancelled stream stays open; `read()` would wait to fill it.
    request = builder.body_bytes(body).streamed_read_buffer_limit(0).build_streamed()
    async with request as response:
        start = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers.items()
            if name not in NOT_RETURNED
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": start})
        reader = response.body_reader
        while (chunk := await reader.read_chunk()) is not None:
            await send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
