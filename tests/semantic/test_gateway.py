"""The semantic tier as a gateway builds it: the model of the package, files, money."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.backends.vectors_redis import RedisVectorIndex
from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex
from asgi_llmgate.core.semantic.asking import Context
from asgi_llmgate.core.semantic.verdict import Verdict
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.middleware import _semantic_learn
from asgi_llmgate.protocols import UpstreamRequest
from asgi_llmgate.semantic_cache import semantic_policy_of, vector_index_of
from asgi_llmgate.semantic_index import ChosenIndex
from asgi_llmgate.settings import load_settings
from asgi_llmgate.types import CallRecord
from tests import wire
from tests.asgi import Exchange, call
from tests.cache.redis_server import RedisServer
from tests.gateway.conftest import MakeGate
from tests.semantic.world import WordEmbedder, askings, body, topic_of
from tests.stub_upstream import Reply, StubResponse, StubUpstream

KEY = "lg_semantic_0123456789"
PRICE = 1_000


class TopicUpstream(StubUpstream):
    """Answers alike what means the same; as a judge it knows the topics."""

    async def open(self, request: UpstreamRequest, /) -> StubResponse:
        assert isinstance(request.body, bytes)
        asked = json.loads(request.body)
        if "input" in asked:
            text = asked["input"] if isinstance(asked["input"], str) else asked["input"][0]
            vector = (await WordEmbedder().embed(text)).tolist()
            data = [{"object": "embedding", "index": 0, "embedding": vector}]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            told = {"object": "list", "data": data, "model": asked["model"], "usage": usage}
            self.script.append(Reply([json.dumps(told).encode()]))
            return await super().open(request)
        question = asked["messages"][-1]["content"]
        if question.startswith("First question:"):
            said = "DIFFERENT"
        else:
            said = f"About {topic_of(question)}, edition 1."
        whole = wire.chat_body("gpt-4o").replace(wire.TEXT.encode(), said.encode())
        self.script.append(Reply([whole]))
        return await super().open(request)


@pytest.fixture
def upstream() -> StubUpstream:
    return TopicUpstream()


def gate_of(make_gate: MakeGate, **semantic: Any) -> LLMGate:
    return make_gate(
        keys=f"shop:{KEY}",
        providers={"openai": {"api_key": "sk-pooled"}},
        price=lambda *_: PRICE,
        cache={"enabled": True, "semantic": semantic},
    )


async def ask(gate: LLMGate, question: str, **headers: str) -> Exchange:
    exchange = await call(gate, body(question), headers={"llmgate-auth": KEY} | headers)
    assert exchange.status == 200, exchange.body
    if gate._semantic is not None:
        await gate._semantic.settled()
    return exchange


async def test_a_gateway_learns_with_the_model_of_the_package(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    gate = gate_of(make_gate)
    assert gate._semantic is not None
    gate._semantic._roll = lambda: 1.0
    wrong = 0
    for question, topic in list(askings())[:260]:
        exchange = await ask(gate, question)
        wrong += f"About {topic}," not in exchange.body.decode()
    gate._semantic._roll = lambda: 0.0
    checked = await ask(gate, "right then, when does the store open please")
    await gate.aclose()

    hits = [record for record in log.records if record.cache == "HIT"]
    alike = [record for record in hits if (record.cache_reason or "").startswith("semantic;")]
    assert wrong == 0
    assert len(alike) > 50
    assert {record.cost_nanousd for record in alike[:-1]} == {0}
    assert {record.saved_nanousd for record in alike} == {PRICE}
    # What a check cost is on the record of the hit that was checked.
    assert checked.headers["llmgate-cache"] == "HIT"
    assert paid(alike[-1]) == (PRICE, PRICE)
    assert sum(record.cost_nanousd or 0 for record in log.records) == PRICE * len(upstream.requests)


def paid(record: CallRecord) -> tuple[int | None, int | None]:
    return record.cost_nanousd, record.saved_nanousd


async def test_what_it_learned_outlives_the_process(make_gate: MakeGate) -> None:
    first = gate_of(make_gate)
    for question, _ in list(askings())[:260]:
        await ask(first, question)
    await first.aclose()
    second = gate_of(make_gate)
    exchange = await ask(second, "right then, when does the store open please")
    await second.aclose()

    assert exchange.headers["llmgate-cache"] == "HIT"
    assert "semantic;sim=" in exchange.headers["cache-status"]


async def test_a_judge_is_a_call_of_the_gateways_own(
    make_gate: MakeGate, log: MemoryLogSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_semantic_learn, "compare", lambda *_, **__: Verdict.UNSURE)
    gate = gate_of(make_gate, judge="openai/gpt-4o-mini")
    await ask(gate, "when does the store open")
    await ask(gate, "when does the store open please")
    await gate.aclose()
    judged = [record for record in log.records if record.tenant == "llmgate"]

    assert [record.model_requested for record in judged] == ["openai/gpt-4o-mini"] * 2
    assert {record.cost_nanousd for record in judged} == {PRICE}
    assert judged[0].properties == {"purpose": "semantic-cache"}


async def test_a_provider_can_embed_and_is_paid_for_it(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = gate_of(make_gate, embedder="openai/text-embedding-3-small")
    await ask(gate, "when does the store open")
    exchange = await ask(gate, "when does the store open please")
    await gate.aclose()
    embedded = [record for record in log.records if record.format == "openai-embeddings"]

    assert float(exchange.headers["llmgate-cache-similarity"]) > 0.8
    assert {record.tenant for record in embedded} == {"llmgate"}
    assert {record.cost_nanousd for record in embedded} == {PRICE}


async def test_without_the_extra_the_exact_tier_goes_on(
    make_gate: MakeGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "onnxruntime" else find(name, *more),
    )
    gate = gate_of(make_gate)
    told = [await ask(gate, "hi", **{"llmgate-cache-mode": "semantic"}) for _ in range(2)]
    await gate.aclose()

    assert [exchange.headers["llmgate-cache"] for exchange in told] == ["MISS", "HIT"]
    assert "semantic cache is not installed here" in told[0].headers["llmgate-warnings"]

    wanted = make_gate(cache={"mode": "semantic"})
    with pytest.raises(ConfigurationError, match=r"onnxruntime(.|\n)*asgi-llmgate\[semantic\]"):
        await wanted.startup()


async def test_where_redis_cannot_search_the_embedded_index_does(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings(data_dir=tmp_path, redis_url=redis_server.url, secret_key="s" * 64)
    index = vector_index_of(settings)
    assert isinstance(index, ChosenIndex)
    chosen = [await index.chosen(), await index.chosen()]
    await index.aclose()

    assert isinstance(chosen[0], SqliteVectorIndex)
    assert chosen[0] is chosen[1]
    assert [record.message for record in caplog.records if "search module" in record.message]


@pytest.mark.parametrize(
    ("semantic", "kind"),
    [({"index": "embedded"}, SqliteVectorIndex), ({"index": "redisvl"}, RedisVectorIndex)],
    ids=["embedded", "redisvl"],
)
async def test_an_index_can_be_named(tmp_path: Path, semantic: dict[str, Any], kind: type) -> None:
    settings = load_settings(
        data_dir=tmp_path,
        redis_url="redis://127.0.0.1:1",
        secret_key="s" * 64,
        cache={"semantic": semantic},
    )
    index = vector_index_of(settings)
    await index.aclose()

    assert isinstance(index, kind)


def test_redisvl_without_redis_is_a_mistake(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, cache={"semantic": {"index": "redisvl"}})

    with pytest.raises(ConfigurationError, match="LLMGATE_REDIS_URL"):
        vector_index_of(settings)


def test_settings_become_a_policy(tmp_path: Path) -> None:
    semantic = {"max_error": 0.01, "scope": "tenant", "context": "window:2", "observe": True}
    policy = semantic_policy_of(load_settings(data_dir=tmp_path, cache={"semantic": semantic}))

    assert (policy.max_error, policy.is_shared, policy.observes) == (0.01, True, True)
    assert policy.context == Context(2)
