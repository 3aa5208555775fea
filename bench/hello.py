"""A server that answers by itself: what uvicorn costs before anybody does any work.

uvicorn bench.hello:app
"""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from bench.payloads import ANSWER

__all__ = ["app"]

HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(ANSWER)).encode()),
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})
