from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.cli import cli
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.keyfile import admin_token
from asgi_llmgate.settings import load_settings
from tests.asgi import CHAT, call
from tests.cache.redis_server import RedisServer
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import Reply, StubUpstream


async def upstreams(gate: LLMGate) -> list[dict[str, Any]]:
    # What this process knows is written by a thread twice a second; here it is done now.
    await asyncio.to_thread(gate._shared_health.exchange)
    token = admin_token(None, gate.settings.data_dir)
    answer = await call(gate, b"", path="/llmgate/api/v1/upstreams", method="GET", key=token)
    assert answer.status == 200
    rows: list[dict[str, Any]] = answer.json()["upstreams"]
    return rows


async def test_keys_and_what_is_not_called_are_shown(
    make_gate: MakeGate, upstream: StubUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_keys": "sk-1,sk-2"}})
    upstream.script = [Reply([b"{}"], status=401), Reply()]
    await call(gate, CHAT, key="lg_app")
    bad = (
        "key-1"
        if dict(upstream.requests[0].headers)[b"authorization"] == b"Bearer sk-1"
        else "key-2"
    )
    upstream.script = [Reply([b"{}"], status=500)] * 5
    for _ in range(5):
        await call(gate, {**CHAT, "model": "gpt-4.1"}, key="lg_app")

    rows = {(row["key"], row["model"]): row for row in await upstreams(gate)}

    good = "key-2" if bad == "key-1" else "key-1"
    assert rows[bad, None]["state"] == "out"
    assert rows[bad, None]["reason"] == "status 401"
    assert rows[bad, None]["retry_in_s"] > 100
    assert rows[good, None]["state"] == "closed"
    assert rows[good, "gpt-4.1"]["state"] == "open"
    assert rows[good, "gpt-4.1"]["reason"] == "status 500"

    monkeypatch.setenv("LLMGATE_DATA_DIR", str(gate.settings.data_dir))
    monkeypatch.setenv("LLMGATE_PROVIDERS__OPENAI__API_KEYS", "sk-1,sk-2")
    shown = CliRunner().invoke(cli, ["upstreams", "--json"])
    assert {(row["key"], row["model"], row["state"]) for row in json.loads(shown.stdout)} == {
        (key, model, row["state"]) for (key, model), row in rows.items()
    }
    plain = CliRunner().invoke(cli, ["upstreams"]).stdout
    assert "status 500" in plain
    assert "sk-" not in plain
    await gate.aclose()


async def test_open_breakers_are_counted(make_gate: MakeGate, upstream: StubUpstream) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_key": "sk-1"}})
    upstream.script = [Reply([b"{}"], status=500)] * 5
    for _ in range(5):
        await call(gate, CHAT, key="lg_app")
    await asyncio.to_thread(gate._shared_health.exchange)
    token = admin_token(None, gate.settings.data_dir)

    text = (await call(gate, b"", path="/metrics", method="GET", key=token)).body.decode()

    assert "llmgate_breakers_open 1" in text
    assert 'llmgate_breaker_changes_total{provider="openai",state="open"} 1' in text
    assert 'llmgate_upstreams{provider="openai",model="gpt-4o",state="open"} 1' in text
    assert "default" not in text  # the key's id
    await gate.aclose()


async def test_two_machines_tell_each_other_through_redis(
    tmp_path: Path, log: MemoryLogSink
) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    server = RedisServer(tmp_path)
    gates, upstreams_of = [], []
    for name in ("a", "b"):
        settings = load_settings(
            data_dir=tmp_path / name,
            redis_url=server.url,
            secret_key=bytes(range(32)).hex(),
            keys="app:lg_app",
            providers={"openai": {"api_key": "sk-1"}, "groq": {"api_key": "sk-2"}},
        )
        upstreams_of.append(StubUpstream())
        gates.append(LLMGate(settings, log=log, upstream=upstreams_of[-1]))
    try:
        upstreams_of[0].script = [Reply([b"{}"], status=500)] * 5
        for _ in range(5):
            await call(gates[0], CHAT, key="lg_app")
        await call(gates[1], CHAT, key="lg_app")
        for gate in gates:
            await asyncio.to_thread(gate._shared_health.exchange)
        chain = {"llmgate-fallbacks": '["groq/llama-3.3-70b"]'}
        answer = await call(gates[1], CHAT, key="lg_app", headers=chain)

        assert answer.headers["llmgate-provider"] == "groq"
        assert log.records[-1].attempts[0].reason == "breaker_open"
        [row] = [row for row in await upstreams(gates[1]) if row["model"] is not None]
        assert (row["provider"], row["model"], row["state"]) == ("openai", CHAT["model"], "open")
    finally:
        for gate in gates:
            await gate.aclose()
        server.stop()


async def test_upstreams_need_the_admin_token(make_gate: MakeGate) -> None:
    gate = make_gate(keys="app:lg_app")

    answer = await call(gate, b"", path="/llmgate/api/v1/upstreams", method="GET", key="lg_app")

    assert answer.status == 403
