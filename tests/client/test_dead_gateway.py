"""The gateway is killed under load; the official SDK notices nothing."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest

from asgi_llmgate.client import Direct, FailOpenTransport
from tests import wire
from tests.provider import Provider
from tests.servers import all_at, running_gateway, start_gateway

KEY = "lg_test_dead_0123456789abcdef"


def sdk(transport: FailOpenTransport) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=KEY, max_retries=0, http_client=httpx2.Client(transport=transport, timeout=20)
    )


def test_no_call_fails_when_the_gateway_is_killed_and_every_record_arrives_once(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = all_at(provider.url) | {
        "LLMGATE_KEYS": f"app:{KEY}",
        "LLMGATE_PROVIDERS__OPENAI__API_KEY": "sk-pooled",
    }
    data = tmp_path / "data"
    data.mkdir()
    gateway = start_gateway(data, env)
    transport = FailOpenTransport(
        gateways=[f"{gateway.url}/v1"],
        direct=Direct(f"{provider.url}/v1", api_key="sk-direct", provider="openai"),
        spool=tmp_path / "spool",
    )
    done, killed = Counter[str](), threading.Event()

    def one(number: int) -> None:
        if number == 60:
            gateway.kill()
            killed.set()
        answer = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": f"hi {number}"}]
        )
        done[answer.choices[0].message.content or ""] += 1

    try:
        with sdk(transport) as client, ThreadPoolExecutor(8) as pool:
            failures = [future.exception() for future in [pool.submit(one, n) for n in range(200)]]
    finally:
        gateway.kill()
    assert killed.is_set()
    assert [failure for failure in failures if failure is not None] == []
    assert done == {wire.TEXT: 200}

    spool = transport.spool
    assert spool is not None
    # An answer that arrived late may have made a batch of some of them already.
    lines = spool.waiting()
    spooled = len(lines)
    assert spooled >= 130
    direct = sum(asked.header("authorization") == "Bearer sk-direct" for asked in provider.asked)
    assert spooled == direct
    with running_gateway(data, env) as again:
        headers = {"authorization": f"Bearer {KEY}"}
        assert spool.deliver(f"{again.url}/v1", headers)
        assert spool.is_empty
        # The answer to the first delivery was lost, say: everything is sent once more.
        spool.path.write_bytes(b"\n".join(lines) + b"\n")
        assert spool.deliver(f"{again.url}/v1", headers)
        records = [
            record for record in again.records() if record["properties"].get("path") == "direct"
        ]
    assert len(records) == spooled
    assert len({record["id"] for record in records}) == spooled
    assert all(record["tenant"] == "app" and record["cost_nanousd"] for record in records)
    with capsys.disabled():
        print(f"\n  kill -9 under load: 200 calls, 0 failed, {spooled} spooled, all once")


def test_a_stream_goes_direct_and_is_metered(provider: Provider, tmp_path: Path) -> None:
    transport = FailOpenTransport(
        gateways=["http://127.0.0.1:9/v1"],
        direct=Direct(f"{provider.url}/v1", api_key="sk-direct"),
        spool=tmp_path,
    )
    with sdk(transport) as client:
        chunks = list(
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True
            )
        )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (tmp_path / "spool.jsonl").read_text().count('"is_stream":true') == 1
