"""Which answers are given to whom: never one that the request did not allow."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from asgi_llmgate import LLMGate
from asgi_llmgate.core.cache_plan import generation_name
from asgi_llmgate.protocols import CacheStore
from tests import wire
from tests.asgi import CHAT, Exchange, call
from tests.cache.model import Model
from tests.cache.test_cache_middleware import cached, status
from tests.gateway.conftest import MakeGate, log, make_gate, upstream
from tests.stub_upstream import StubUpstream

__all__ = ["log", "make_gate", "upstream"]

CLAUDE = {"provider": "anthropic", "model": "claude-sonnet-4-6"}
GPT = {"provider": "openai", "model": "gpt-4o"}
AT_ANTHROPIC = {"target-url": "https://api.anthropic.com", "bodyKeyOverride": {"model": "claude"}}


def gateway(make_gate: MakeGate) -> LLMGate:
    return make_gate(
        keys="app:lg_0123456789abcdef",
        providers={"openai": {"api_key": "sk-o"}, "anthropic": {"api_key": "sk-a"}},
    )


async def ask(gate: LLMGate, fallbacks: Any = None) -> Exchange:
    headers = {"llmgate-auth": "lg_0123456789abcdef", "llmgate-cache-enabled": "true"}
    if fallbacks is not None:
        headers["llmgate-fallbacks"] = json.dumps(fallbacks)
    return await call(gate, {**CHAT, "model": "gpt-4o"}, headers=headers)


@pytest.mark.parametrize("chain", [[CLAUDE, GPT], [AT_ANTHROPIC]], ids=["ours", "helicones"])
async def test_who_names_no_chain_gets_no_answer_of_one(
    make_gate: MakeGate, upstream: StubUpstream, chain: Any
) -> None:
    gate = gateway(make_gate)
    of_chain = [await ask(gate, chain), await ask(gate, chain)]
    plain = await ask(gate)
    await gate.aclose()

    assert [status(each) for each in of_chain] == ["MISS", "HIT"]
    assert of_chain[0].headers["llmgate-provider"] == "anthropic"
    assert status(plain) == "MISS"
    assert plain.headers["llmgate-provider"] == "openai"


async def test_an_answer_without_a_tag_is_none_for_who_names_the_tag(
    model: Model, store: CacheStore
) -> None:
    """It may be from before the last change of what the tag stands for."""
    app = cached(model, store)
    tagged = {"llmgate-cache-tags": "kb:pricing"}
    await call(app, CHAT)
    await store.bump([generation_name("tag", "kb:pricing"), "bumps"])

    assert status(await call(app, CHAT, headers=tagged)) == "MISS"
    assert status(await call(app, CHAT, headers=tagged)) == "HIT"
    assert status(await call(app, CHAT)) == "HIT"


async def test_who_names_a_tag_does_not_join_a_call_without_it(
    model: Model, store: CacheStore
) -> None:
    app = cached(model, store)
    gate, began = asyncio.Event(), asyncio.Event()
    model.script = [(200, [gate, wire.chat_body("old")], b"application/json")]
    model.on_call = began.set
    old = asyncio.create_task(call(app, CHAT))
    await began.wait()
    await store.bump([generation_name("tag", "t"), "bumps"])
    tagged = await call(app, CHAT, headers={"llmgate-cache-tags": "t"})
    gate.set()

    assert b"old" not in tagged.body
    assert b"old" in (await old).body
