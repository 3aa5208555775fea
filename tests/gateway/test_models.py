"""`/v1/models` and its siblings: aliases and the models of configured providers, per dialect."""

from __future__ import annotations

import json
from typing import Any

import anthropic.types
import openai.types
import pytest
from google.genai import types as google_types
from google.genai.models import _Model_from_mldev

from asgi_llmgate.errors import UpstreamConnectError
from tests import wire
from tests.asgi import Exchange, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import Reply, StubUpstream

KEY = "lg_the-gateway-key"
ALIASES: dict[str, Any] = {"fast": {"targets": [{"target": "groq/llama"}]}}
POOLED: dict[str, Any] = {"openai": {"api_key": "sk-1"}, "anthropic": {"api_key": "sk-2"}}

OPENAI = {"object": "list", "data": [{"id": "gpt-4o", "object": "model", "created": 1_700_000_000}]}
CLAUDE = {
    "data": [
        {
            "type": "model",
            "id": "claude-sonnet-4-6",
            "display_name": "Claude Sonnet 4.6",
            "created_at": "2026-02-01T00:00:00Z",
        }
    ],
    "has_more": False,
}
GEMINI = {"models": [{"name": "models/gemini-2.5-flash", "displayName": "Gemini 2.5 Flash"}]}


async def ask(gate: Any, path: str = "/v1/models", **headers: str) -> Exchange:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("authorization", f"Bearer {KEY}")
    return await call(gate, b"", path=path, method="GET", headers=named)


def ids(exchange: Exchange) -> list[str]:
    answer = exchange.json()
    return [row.get("id") or row["name"] for row in answer.get("data") or answer["models"]]


def from_google(row: dict[str, Any]) -> google_types.Model:
    """Read a model as the SDK does, which knows some fields by other names."""
    return google_types.Model._from_response(response=_Model_from_mldev(row), kwargs={})


def lists(upstream: StubUpstream, *answers: Any) -> None:
    upstream.script = [
        answer if isinstance(answer, Exception | Reply) else Reply([wire.dumps(answer)])
        for answer in answers
    ]


async def test_aliases_and_the_models_of_configured_providers_are_listed(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(models=ALIASES, providers=POOLED, keys={"app": KEY})
    by_url = {"api.openai.com": OPENAI, "api.anthropic.com": CLAUDE}
    order = [url for url in gate._registry.providers if url in ("openai", "anthropic")]
    lists(upstream, *(by_url[f"api.{name}.com"] for name in order))
    exchange = await ask(gate)

    assert sorted(ids(exchange)) == ["anthropic/claude-sonnet-4-6", "fast", "gpt-4o"]
    sent = {request.url: dict(request.headers) for request in upstream.requests}
    assert sent["https://api.openai.com/v1/models"][b"authorization"] == b"Bearer sk-1"
    claude = sent["https://api.anthropic.com/v1/models?limit=1000"]
    assert claude[b"x-api-key"] == b"sk-2"
    assert claude[b"anthropic-version"] == b"2023-06-01"


@pytest.mark.parametrize(
    ("path", "headers", "parse", "expected"),
    [
        (
            "/v1/models",
            {},
            openai.types.Model.model_validate,
            ["fast", "google/gemini-2.5-flash"],
        ),
        (
            "/v1/models",
            {"anthropic_version": "2023-06-01"},
            anthropic.types.ModelInfo.model_validate,
            ["fast", "google/gemini-2.5-flash"],
        ),
        (
            "/v1beta/models",
            {},
            from_google,
            ["models/fast", "models/gemini-2.5-flash"],
        ),
    ],
    ids=["openai", "anthropic", "gemini"],
)
async def test_the_list_is_one_of_the_askers_dialect(
    make_gate: MakeGate,
    upstream: StubUpstream,
    path: str,
    headers: dict[str, str],
    parse: Any,
    expected: list[str],
) -> None:
    lists(upstream, GEMINI)
    providers = {"google": {"api_key": "AIza"}}
    exchange = await ask(
        make_gate(models=ALIASES, providers=providers, keys={"app": KEY}), path, **headers
    )
    answer = exchange.json()

    assert ids(exchange) == expected
    for row in answer.get("data") or answer["models"]:
        parse(row)


async def test_a_list_is_kept_and_asked_for_once(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(providers={"openai": {"api_key": "sk-1"}}, keys={"app": KEY})
    lists(upstream, OPENAI)
    first, second = await ask(gate), await ask(gate)

    assert ids(first) == ids(second) == ["gpt-4o"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "failure",
    [UpstreamConnectError("no"), Reply([b"{}"], status=401), Reply([b"<html>"]), Reply([b"[3]"])],
    ids=["connect", "refused", "no JSON", "odd JSON"],
)
async def test_a_provider_that_does_not_answer_is_left_out(
    make_gate: MakeGate, upstream: StubUpstream, failure: Any
) -> None:
    lists(upstream, failure)
    gate = make_gate(models=ALIASES, providers={"openai": {"api_key": "sk-1"}}, keys={"app": KEY})

    assert ids(await ask(gate)) == ["fast"]


async def test_a_caller_with_a_key_of_his_own_sees_his_providers_list(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    body = wire.dumps(OPENAI)
    upstream.script = [Reply([body]), Reply([body])]
    plain = await ask(make_gate(), authorization="Bearer sk-mine")
    aliased = await ask(make_gate(models=ALIASES), authorization="Bearer sk-mine")

    assert plain.body == body
    assert ids(aliased) == ["fast", "gpt-4o"]
    assert upstream.header("authorization") == "Bearer sk-mine"


async def test_a_refusal_of_a_callers_own_key_is_the_providers(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    refusal = {"error": {"message": "bad key"}}
    upstream.script = [Reply([wire.dumps(refusal)], status=401)] * 2
    exchange = await ask(make_gate(models=ALIASES), authorization="Bearer sk-wrong")

    assert exchange.status == 401
    assert exchange.json() == refusal


async def test_strangers_see_nothing(make_gate: MakeGate, upstream: StubUpstream) -> None:
    exchange = await ask(make_gate(models=ALIASES, keys={"app": KEY}), authorization="Bearer x")

    assert exchange.status == 401
    assert not upstream.requests


async def test_what_a_route_may_not_use_is_not_listed(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    lists(upstream, {"data": [{"id": "gpt-4o"}, {"id": "o3"}]})
    gate = make_gate(
        models=ALIASES,
        providers={"openai": {"api_key": "sk-1"}},
        keys={"app": KEY},
        policies=[{"path": "*", "models": ["gpt-*"]}],
    )

    assert ids(await ask(gate)) == ["gpt-4o"]


async def test_an_alias_is_a_model(make_gate: MakeGate, upstream: StubUpstream) -> None:
    exchange = await ask(make_gate(models=ALIASES, keys={"app": KEY}), "/v1/models/fast")

    assert exchange.json()["id"] == "fast"
    assert not upstream.requests


async def test_any_other_model_is_the_providers(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    body = wire.dumps({"id": "gpt-4o"})
    upstream.script = [Reply([body])]
    gate = make_gate(models=ALIASES, providers={"openai": {"api_key": "sk-1"}}, keys={"app": KEY})
    exchange = await ask(gate, "/v1/models/gpt-4o")

    assert json.loads(exchange.body) == {"id": "gpt-4o"}
    assert upstream.last.url == "https://api.openai.com/v1/models/gpt-4o"


async def test_a_named_provider_is_relayed(make_gate: MakeGate, upstream: StubUpstream) -> None:
    body = b'{"object": "list",   "data": []}'
    upstream.script = [Reply([body])]
    exchange = await ask(
        make_gate(models=ALIASES), authorization="Bearer gsk", llmgate_provider="groq"
    )

    assert exchange.body == body
    assert upstream.last.url == "https://api.groq.com/openai/v1/models"
