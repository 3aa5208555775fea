"""The cache of a route: on, and dependent on data, by its policy."""

from __future__ import annotations

import pytest

from asgi_llmgate import LLMGate
from asgi_llmgate.backends.memory import MemoryLogSink
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import StubUpstream

KEY = "lg_policies_0123456789"


def with_tags(make_gate: MakeGate, how: str) -> LLMGate:
    policy = {
        "path": "/v1/chat/completions",
        "default": {"Cache-Enabled": True},
        "force": {},
    }
    policy[how] = {"Cache-Enabled": True, "Cache-Tags": "kb:x"}
    return make_gate(
        keys=f"shop:{KEY}", providers={"openai": {"api_key": "sk-pooled"}}, policies=[policy]
    )


async def ask(gate: LLMGate, tags: str | None = None) -> str:
    headers = {"llmgate-auth": KEY} | ({} if tags is None else {"llmgate-cache-tags": tags})
    exchange = await call(gate, {**CHAT, "model": "gpt-4o"}, headers=headers)
    assert exchange.status == 200, exchange.body
    return exchange.headers["llmgate-cache"]


@pytest.mark.parametrize("how", ["default", "force"])
@pytest.mark.parametrize("named", [None, "kb:mine"])
async def test_answers_of_a_route_depend_on_its_tags_whatever_callers_name(
    make_gate: MakeGate, upstream: StubUpstream, how: str, named: str | None
) -> None:
    gate = with_tags(make_gate, how)
    told = [await ask(gate, named), await ask(gate, named)]
    await gate.cache.invalidate("kb:other")
    told.append(await ask(gate, named))
    await gate.cache.invalidate("kb:x")
    told += [await ask(gate, named), await ask(gate, named)]
    await gate.aclose()

    assert told == ["MISS", "HIT", "HIT", "MISS", "HIT"]
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("how", ["default", "force"])
async def test_a_routes_tags_take_none_of_the_callers_away(make_gate: MakeGate, how: str) -> None:
    gate = with_tags(make_gate, how)
    told = [await ask(gate, "kb:mine"), await ask(gate, "kb:mine")]
    await gate.cache.invalidate("kb:mine")
    told.append(await ask(gate, "kb:mine"))
    await gate.aclose()

    assert told == ["MISS", "HIT", "MISS"]


async def test_semantic_mode_without_that_tier_is_answered_by_the_exact_one_and_said(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate(
        keys=f"shop:{KEY}",
        providers={"openai": {"api_key": "sk-pooled"}},
        cache={"mode": "exact"},
    )
    headers = {
        "llmgate-auth": KEY,
        "helicone-cache-enabled": "true",
        "helicone-cache-mode": "semantic",
    }
    first = await call(gate, headers=headers)
    second = await call(gate, headers=headers)
    await gate.aclose()

    assert [record.cache for record in log.records] == ["MISS", "HIT"]
    for exchange in (first, second):
        assert "semantic cache is not installed here" in exchange.headers["llmgate-warnings"]
