"""A gateway key in the path: understood if the settings say so, and seen by nobody else."""

from __future__ import annotations

import json

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.core.record import json_line
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import StubUpstream

KEY = "lg_shop-0123456789"
SETTINGS = {
    "keys": f"shop:{KEY},other:lg_other",
    "providers": {"openai": {"api_key": "sk-pooled"}},
    "auth": {"key_in_path": True},
}


@pytest.mark.parametrize(
    ("path", "root_path"),
    [
        (f"/{KEY}/v1/chat/completions", ""),
        (f"/llm/{KEY}/v1/chat/completions", "/llm"),
        (f"/{KEY}/v1/chat/completions", "/cut/off/by/the/host"),
    ],
    ids=["alone", "mounted", "mounted by a host that cuts"],
)
async def test_a_key_in_the_path_is_a_gateway_key_and_goes_no_further(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink, path: str, root_path: str
) -> None:
    exchange = await call(make_gate(**SETTINGS), CHAT, path=path, root_path=root_path)

    assert exchange.status == 200
    assert upstream.last.url == "https://api.openai.com/v1/chat/completions"
    assert upstream.header("authorization") == "Bearer sk-pooled"
    [record] = log.records
    assert (record.tenant, record.route) == ("shop", "/v1/chat/completions")
    assert KEY.encode() not in json_line(record)
    assert KEY not in repr(upstream.last.headers)


async def test_a_path_below_the_key_is_sent_as_it_was_written(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    await call(
        make_gate(**SETTINGS),
        b"",
        method="GET",
        path=f"/{KEY}/v1/models/meta-llama/Llama-3",
        raw_path=f"/{KEY}/v1/models/meta-llama%2FLlama-3".encode(),
    )

    assert upstream.last.url == "https://api.openai.com/v1/models/meta-llama%2FLlama-3"


async def test_the_header_counts_instead_of_the_path(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    path, headers = f"/{KEY}/v1/chat/completions", {"LLMGate-Auth": "lg_other"}
    await call(make_gate(**SETTINGS), CHAT, path=path, headers=headers)

    assert log.records[0].tenant == "other"


async def test_an_unknown_key_in_the_path_is_refused(make_gate: MakeGate) -> None:
    exchange = await call(make_gate(**SETTINGS), CHAT, path="/lg_nobody/v1/chat/completions")

    assert (exchange.status, exchange.json()["error"]["code"]) == (401, "invalid_key")


async def test_helicones_key_in_the_path_is_one_in_its_header(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(auth={"key_in_path": True})
    path = "/sk-helicone-abcdefg-1234567/v1/chat/completions"
    exchange = await call(gate, CHAT, path=path, key="sk-mine")

    assert exchange.status == 200
    assert "Helicone-Auth" in exchange.headers["llmgate-warnings"]
    assert upstream.header("authorization") == "Bearer sk-mine"


async def test_it_is_off_by_default_and_the_refusal_shows_no_key(make_gate: MakeGate) -> None:
    gate = make_gate(keys=f"shop:{KEY}")
    exchange = await call(gate, CHAT, path=f"/{KEY}/v1/chat/completions")

    assert (exchange.status, exchange.json()["error"]["code"]) == (404, "unknown_route")
    assert KEY not in json.dumps(exchange.json())
    assert "LLMGate-Auth" in exchange.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "remedy"),
    [
        ("GET", "/v1/chat/completions", "Use POST."),
        ("POST", "/v1/v1/messages", "leave it out of the base URL"),
        ("POST", "/v1/chat/completions/", "Leave out the slash"),
    ],
)
async def test_a_wrong_path_is_told_what_to_do(
    make_gate: MakeGate, method: str, path: str, remedy: str
) -> None:
    exchange = await call(make_gate(), b"", method=method, path=path, key="sk-x")

    assert exchange.status == 404
    assert remedy in exchange.body.decode()
