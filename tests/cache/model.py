"""A model server as an ASGI application: it counts its calls and answers as the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from tests import wire

Parts = Sequence[bytes | asyncio.Event]


class Model:
    """Answer in the format that the path asks for, or what `script` holds next.

    `calls` are the decoded requests; `left` counts those whose callers were gone before the end.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.left = 0
        self.script: list[tuple[int, Parts, bytes]] = []
        self.on_call: Callable[[], None] | None = None
        self.text = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        request = json.loads(body)
        self.calls.append(request)
        if self.on_call is not None:
            self.on_call()
        if self.script:
            status, parts, content_type = self.script.pop(0)
        else:
            status, (parts, content_type) = 200, self.answer(scope["path"], request)
        headers = [(b"content-type", content_type)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts:
            if isinstance(part, asyncio.Event):
                if not await self._wait(part, receive):
                    self.left += 1
                    return
            else:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def answer(self, path: str, request: dict[str, Any]) -> tuple[Parts, bytes]:
        answer = wire.answer_to(path, request)
        if isinstance(answer, list):
            return [self._said(event) for event in answer], b"text/event-stream"
        return [self._said(answer)], b"application/json"

    def _said(self, part: bytes) -> bytes:
        return part.replace(b"two", self.text.encode()) if self.text else part

    @staticmethod
    async def _wait(event: asyncio.Event, receive: Receive) -> bool:
        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        leaving = asyncio.create_task(gone())
        opening = asyncio.create_task(event.wait())
        await asyncio.wait({leaving, opening}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        opening.cancel()
        return event.is_set()
