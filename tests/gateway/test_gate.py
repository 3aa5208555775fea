from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from asgi_llmgate.backends import batching
from asgi_llmgate.backends.journal_reader import JournalReader
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.keyfile import admin_token
from asgi_llmgate.settings import load_settings
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import StubUpstream


async def test_liveness_and_readiness_need_nothing_and_tell_nothing(make_gate: MakeGate) -> None:
    gate = make_gate()

    alive = await call(gate, b"", path="/healthz", method="GET")
    ready = await call(gate, b"", path="/readyz", method="GET")

    assert alive.json() == {"status": "ok"}
    assert ready.json() == {"status": "ready"}


async def test_a_draining_gateway_is_not_ready(make_gate: MakeGate) -> None:
    gate = make_gate()
    gate.draining = True

    exchange = await call(gate, b"", path="/readyz", method="GET")

    assert exchange.status == 503


async def test_metrics_need_the_admin_token(make_gate: MakeGate) -> None:
    gate = make_gate()
    refused = await call(gate, b"", path="/metrics", method="GET")
    token = admin_token(None, gate.settings.data_dir)
    allowed = await call(gate, b"", path="/metrics", method="GET", key=token)

    assert refused.status == 401
    assert refused.json()["error"]["code"] == "invalid_key"
    assert "llmgate admin-token" in refused.json()["error"]["message"]
    assert allowed.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/healthz", 405), ("GET", "/metrics", 401), ("GET", "/llmgate/api/v1/keys", 401)],
)
async def test_errors_of_the_admin_plane_say_whose_they_are(
    make_gate: MakeGate, method: str, path: str, status: int
) -> None:
    exchange = await call(make_gate(), b"", path=path, method=method)

    assert exchange.status == status
    assert exchange.headers["llmgate-error"] == "gateway"
    assert exchange.headers["llmgate-id"]
    assert exchange.json()["error"]["code"]


async def test_an_unknown_path_is_a_404_in_the_callers_dialect(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    exchange = await call(make_gate(), CHAT, path="/v1/nothing", key="sk-x")

    assert exchange.status == 404
    assert exchange.json()["error"]["code"] == "unknown_route"
    assert not log.records


async def test_it_works_below_a_mount_point_without_lifespan(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    exchange = await call(
        make_gate(), CHAT, path="/llm/v1/chat/completions", root_path="/llm", key="sk-x"
    )

    assert exchange.status == 200
    assert upstream.last.url == "https://api.openai.com/v1/chat/completions"


async def test_websockets_close_with_a_reason(make_gate: MakeGate) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await make_gate()({"type": "websocket", "path": "/v1/realtime"}, receive, send)

    assert sent[-1]["type"] == "websocket.close"
    assert "HTTP only" in sent[-1]["reason"]


async def lifespan(gate: LLMGate, messages: list[Message]) -> list[Message]:
    sent: list[Message] = []
    incoming = list(messages)

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await gate({"type": "lifespan"}, receive, send)
    return sent


async def test_lifespan_starts_and_stops_and_leaves_what_was_given(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    sent = await lifespan(
        make_gate(), [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    )

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert not upstream.is_closed


async def test_it_goes_on_after_it_was_closed(make_gate: MakeGate) -> None:
    gate = make_gate()
    await call(gate, CHAT, key="sk-x")
    await gate.aclose()
    await gate.aclose()

    exchange = await call(gate, CHAT, key="sk-x")

    assert exchange.status == 200


async def test_building_one_does_no_io(make_gate: MakeGate, tmp_path: Any) -> None:
    make_gate()

    assert list(tmp_path.iterdir()) == []
    await asyncio.sleep(0)


async def test_other_sites_may_call_only_where_settings_name_them(make_gate: MakeGate) -> None:
    preflight = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    named = make_gate(cors_origins=["https://app.example"])
    path = "/v1/chat/completions"

    asked = await call(named, b"", path=path, method="OPTIONS", headers=preflight)
    answered = await call(named, CHAT, key="sk-x", headers={"origin": "https://app.example"})
    other = await call(named, CHAT, key="sk-x", headers={"origin": "https://evil.example"})
    unnamed = await call(make_gate(), CHAT, key="sk-x", headers={"origin": "https://app.example"})

    allowed = "access-control-allow-origin"
    assert (asked.status, asked.headers[allowed]) == (200, "https://app.example")
    assert answered.headers[allowed] == "https://app.example"
    assert allowed not in other.headers
    assert allowed not in unnamed.headers


async def test_a_mounted_gateway_writes_its_log_when_its_server_is_told_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells it anything else, and after the signal there may be no exit to wait for."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # As a server has one.
    monkeypatch.setattr(batching, "INTERVAL_S", 600)
    gate = LLMGate(load_settings(data_dir=tmp_path), upstream=StubUpstream())
    try:
        await call(gate, CHAT, key="sk-x")
        waiting = JournalReader(tmp_path).exists
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)  # The signal's own turn of the loop.
        await asyncio.sleep(0)
    finally:
        signal.signal(signal.SIGTERM, before)
    reader = JournalReader(tmp_path)
    records, _ = reader.tail(10)

    assert not waiting
    assert [record.status for record in records] == [200]
    reader.close()
    await gate.aclose()


async def test_what_hygiene_refuses_and_leaves_out_is_in_the_figures(make_gate: MakeGate) -> None:
    gate = make_gate()
    await call(gate, CHAT, path="/v1//chat/completions", key="sk-x")
    await call(gate, CHAT, key="sk-x", headers={"session_id": "codex", "other_name": "x"})
    token = admin_token(None, gate.settings.data_dir)
    await gate.aclose()  # Writes the counters out.

    figures = await call(gate, b"", path="/metrics", method="GET", key=token)

    text = figures.body.decode()
    assert 'llmgate_requests_refused_total{code="unknown_route"} 1' in text
    assert "llmgate_headers_dropped_total 2" in text
    await gate.aclose()
