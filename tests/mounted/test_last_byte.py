"""Who got everything has not left, whatever the host says afterwards.

Behind `@app.middleware("http")`, Starlette reports `http.disconnect` as soon as it took the last
message, which on a busy loop is before the `send` of that message returns.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.types import Message

from asgi_llmgate import LLMGate
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.settings import load_settings
from tests import wire
from tests.asgi import http_scope
from tests.stub_upstream import JSON, SSE, Reply, StubUpstream


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_disconnect_with_the_last_message_is_no_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    watched, over = asyncio.Event(), asyncio.Event()
    if stream:
        *first, last = wire.chat_events("gpt-4o", usage=True)
        reply = Reply([*first, watched, last], headers=SSE)
    else:
        reply = Reply([watched, wire.chat_body("gpt-4o")], headers=JSON)
    log = MemoryLogSink()
    gate = LLMGate(load_settings(data_dir=tmp_path), log=log, upstream=StubUpstream(reply))
    options = {"stream_options": {"include_usage": True}} if stream else {}
    body = wire.dumps({"model": "gpt-4o", "messages": [], "stream": stream, **options})
    sent: list[bytes] = []
    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if requests:
            return requests.pop()
        watched.set()  # The gateway looks for leavers now, and the provider may go on.
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            over.set()
            for _ in range(10):
                await asyncio.sleep(0)

    headers = [
        (b"host", b"x"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"authorization", b"Bearer sk-mine"),
    ]
    async with asyncio.timeout(10):
        await gate(http_scope("/v1/chat/completions", headers), receive, send)
    [record] = log.records

    assert b"".join(sent) == b"".join(part for part in reply.chunks if isinstance(part, bytes))
    assert (record.complete, record.client_left) == (True, False)
    assert record.response_bytes == len(b"".join(sent))
