from __future__ import annotations

from typing import Any

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.keyfile import admin_token
from tests.asgi import Exchange, call
from tests.gateway.conftest import MakeGate

RECORD: dict[str, Any] = {
    "id": "call-1",
    "path": "direct",
    "started_at_us": 1_800_000_000_000_000,
    "duration_ms": 120.5,
    "provider": "openai",
    "model": "gpt-4o",
    "status": 200,
    "complete": True,
    "input_tokens": 10,
    "output_tokens": 5,
    "properties": {"feature": "search"},
}


async def hand_in(gate: Any, *records: dict[str, Any], key: str | None = "lg_a") -> Exchange:
    return await call(gate, {"records": list(records)}, path="/llmgate/api/v1/log", key=key)


async def test_a_record_is_taken_once_per_tenant(make_gate: MakeGate, log: MemoryLogSink) -> None:
    gate = make_gate(keys="a:lg_a,b:lg_b", price=lambda *_: 7)

    first = await hand_in(gate, RECORD, {**RECORD, "id": "call-2"}, RECORD)
    again = await hand_in(gate, RECORD, {**RECORD, "id": "call-3"})
    other = await hand_in(gate, RECORD, key="lg_b")

    assert first.json() == {"taken": 2, "known": 1}
    assert again.json() == {"taken": 1, "known": 1}
    assert other.json() == {"taken": 1, "known": 0}
    assert [(record.tenant, record.id) for record in log.records] == [
        ("a", "call-1"),
        ("a", "call-2"),
        ("a", "call-3"),
        ("b", "call-1"),
    ]
    assert log.records[0].properties == {"feature": "search", "path": "direct"}
    assert log.records[0].cost_nanousd == 7


@pytest.mark.parametrize(
    "wrong",
    [{"tenant": "b"}, {"id": "no spaces"}, {"path": "gateway"}, {"input_tokens": -1}],
    ids=["tenant", "id", "path", "tokens"],
)
async def test_what_is_not_a_record_is_refused(
    make_gate: MakeGate, log: MemoryLogSink, wrong: dict[str, Any]
) -> None:
    answer = await hand_in(make_gate(keys="a:lg_a"), {**RECORD, **wrong})

    assert answer.status == 422
    assert not log.records


async def test_strangers_hand_in_nothing(make_gate: MakeGate, log: MemoryLogSink) -> None:
    gate = make_gate(keys="a:lg_a")
    token = admin_token(None, gate.settings.data_dir)

    assert (await hand_in(gate, RECORD, key="sk-mine")).status == 401
    assert (await hand_in(gate, RECORD, key=None)).status == 401
    assert (await hand_in(gate, RECORD, key=token)).status == 403
    assert not log.records


async def test_a_key_of_the_settings_reads_nothing(make_gate: MakeGate) -> None:
    gate = make_gate(keys="a:lg_a")

    answer = await call(gate, b"", path="/llmgate/api/v1/keys", method="GET", key="lg_a")

    assert answer.status == 403
