"""The semantic tier in front of a model server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.labels_memory import MemoryLabelStore
from asgi_llmgate.backends.vectors_memory import MemoryVectorIndex
from asgi_llmgate.cache import Cache
from asgi_llmgate.core.cache_plan import CachePolicy
from asgi_llmgate.core.semantic.policy import SemanticPolicy
from asgi_llmgate.core.semantic.verdict import Verdict
from asgi_llmgate.middleware import _semantic_learn
from asgi_llmgate.middleware.auth import AuthMiddleware
from asgi_llmgate.middleware.cache import CacheMiddleware, by_tenant
from asgi_llmgate.middleware.semantic import Judge, SemanticTier
from asgi_llmgate.middleware.tagging import TaggingMiddleware
from asgi_llmgate.types import Principal, PrincipalKind
from tests.asgi import Exchange, call
from tests.semantic.world import TopicModel, WordEmbedder, askings, body, topic_of

Ask = Callable[..., Any]


class World:
    def __init__(self, rules: SemanticPolicy | None = None, **options: Any) -> None:
        self.model = TopicModel()
        self.store = MemoryCacheStore()
        self.index = MemoryVectorIndex()
        self.labels = MemoryLabelStore()
        self.embedder = WordEmbedder()
        self.counts: dict[str, float] = {}
        self.options = {"namespace": "shop"} | options
        self.rules = rules or SemanticPolicy()
        self.judge: Judge | None = None
        self.luck = 1.0
        """From 0, where every hit is checked, to 1, where none is."""
        self.app, self.tier = self.worker()

    def worker(self) -> tuple[CacheMiddleware, SemanticTier]:
        """Return another one that shares the stores."""
        tier = SemanticTier(
            embedder=self.embedder,
            index=self.index,
            labels=self.labels,
            policy=self.rules,
            judge=self.judge,
            count=self.count,
            roll=lambda: self.luck,
        )
        return CacheMiddleware(self.model, store=self.store, semantic=tier, **self.options), tier

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        key = f"{name}{sorted(labels.items())}" if labels else name
        self.counts[key] = self.counts.get(key, 0) + value

    async def ask(self, question: str, *, headers: Any = (), **more: Any) -> Exchange:
        exchange = await call(self.app, body(question, **more), headers=headers)
        await self.tier.settled()
        return exchange

    async def learn(self, count: int = 180) -> None:
        """Let so many people ask."""
        for question, _ in list(askings())[:count]:
            await self.ask(question)


def is_hit(exchange: Exchange) -> bool:
    return exchange.headers["llmgate-cache-hit"] == "true"


def is_right(exchange: Exchange, question: str) -> bool:
    return f"About {topic_of(question)}," in exchange.body.decode()


@pytest.fixture
def world() -> World:
    return World()


async def test_it_learns_to_answer_what_means_the_same(world: World) -> None:
    hits = wrong = late = 0
    for number, (question, _) in enumerate(askings()):
        exchange = await world.ask(question)
        if is_hit(exchange):
            hits += 1
            late += number >= 200
            wrong += not is_right(exchange, question)

    assert wrong == 0
    assert hits > 100
    assert late > 100
    assert len(world.model.calls) < 400


async def test_nothing_is_served_before_there_is_evidence(world: World) -> None:
    first = await world.ask("when does the store open")
    second = await world.ask("when does the store open please")

    assert not is_hit(first)
    assert "similarity" not in str(first.headers)
    assert not is_hit(second)
    assert 'detail="cold"' in second.headers["cache-status"]
    assert float(second.headers["llmgate-cache-similarity"]) > 0.8


async def test_a_hit_says_how_it_came_about(world: World) -> None:
    await world.learn()
    exchange = await world.ask("well, when does the store open please")

    assert is_hit(exchange)
    assert exchange.headers["cache-status"].startswith("llmgate; hit; ttl=")
    assert 'detail="semantic;sim=0.' in exchange.headers["cache-status"]
    assert ";p=" in exchange.headers["cache-status"]
    assert 0 < float(exchange.headers["llmgate-cache-similarity"]) < 1
    assert exchange.headers["llmgate-cache"] == "HIT"
    assert int(exchange.headers["age"]) >= 0


async def test_a_stored_answer_is_told_as_a_stream_too(world: World) -> None:
    await world.learn()
    exchange = await world.ask("well, when does the store open please", stream=True)

    assert is_hit(exchange)
    assert exchange.headers["content-type"].startswith("text/event-stream")
    assert "About opening" in exchange.body.decode()


QUESTION = "well, when does the store open please"


@pytest.mark.parametrize(
    "more",
    [
        {"model": "gpt-4o-mini"},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
        {"temperature": 1.5},
        {
            "messages": [
                {"role": "system", "content": "Be rude."},
                {"role": "user", "content": QUESTION},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hello"},
                {"role": "user", "content": QUESTION},
            ]
        },
    ],
    ids=["model", "tools", "schema", "temperature", "system", "history"],
)
async def test_the_same_last_turn_with_another_rest_is_a_miss(
    world: World, more: dict[str, Any]
) -> None:
    await world.learn()

    assert is_hit(await world.ask(QUESTION))
    assert not is_hit(await world.ask(QUESTION, **more))


@pytest.mark.parametrize(
    "headers",
    [
        {"llmgate-cache-mode": "exact"},
        {"llmgate-cache-enabled": "false"},
        {"cache-control": "no-cache"},
        {"cache-control": "no-store"},
        {"llmgate-cache-seed": "7"},
        {"llmgate-cache-max-error": "0"},
    ],
    ids=str,
)
async def test_who_does_not_want_it_does_not_get_it(world: World, headers: dict[str, str]) -> None:
    await world.learn()

    assert is_hit(await world.ask(QUESTION))
    assert not is_hit(await world.ask(QUESTION + " now", headers=headers))


async def test_an_observing_tier_says_what_it_would_have_done() -> None:
    world = World(SemanticPolicy(observes=True))
    await world.learn()
    exchange = await world.ask(QUESTION)

    assert not is_hit(exchange)
    assert 'detail="observed"' in exchange.headers["cache-status"]
    assert world.counts["llmgate_semantic_looks_total[('result', 'observed')]"] > 5


async def test_an_invalidated_tag_is_a_miss_for_every_phrasing_and_the_next_is_new() -> None:
    world = World(policy=CachePolicy(tags=("kb",)))
    await world.learn()
    assert is_hit(await world.ask(QUESTION))
    cache = Cache(lambda: world.store, lambda: b"")
    world.model.version = "2"
    await cache.invalidate("kb")

    first = await world.ask("hm, when does the store open please")
    second = await world.ask("oh, when does the store open please")

    assert not is_hit(first)
    assert is_hit(second)
    assert "edition 2" in second.body.decode()


async def test_a_failing_embedder_costs_hits_and_nothing_else(world: World) -> None:
    await world.learn()
    world.embedder.fails = True
    exchange = await world.ask(QUESTION)

    assert exchange.status == 200
    assert not is_hit(exchange)
    assert 'detail="unavailable"' in exchange.headers["cache-status"]


async def test_two_workers_share_what_they_learn(world: World) -> None:
    await world.learn()
    other, _ = world.worker()
    exchange = await call(other, body(QUESTION))

    assert is_hit(exchange)


async def test_threshold_mode_serves_what_is_near_at_once(world: World) -> None:
    headers = {"llmgate-cache-mode": "threshold", "llmgate-cache-threshold": "0.6"}
    await world.ask("when does the store open", headers=headers)

    assert is_hit(await world.ask("when does the store open please", headers=headers))
    assert not is_hit(await world.ask("are you hiring drivers", headers=headers))


@pytest.mark.parametrize(
    "headers",
    [{"llmgate-cache-mode": "threshold"}, {"llmgate-cache-threshold": "0.9"}],
    ids=["mode alone", "threshold alone"],
)
async def test_half_of_a_threshold_is_refused(world: World, headers: dict[str, str]) -> None:
    exchange = await world.ask("hi", headers=headers)

    assert exchange.status == 400
    assert "LLMGate-Cache-Threshold" in exchange.body.decode()
    assert world.model.calls == []


async def test_a_checked_hit_that_was_right_is_evidence(world: World) -> None:
    await world.learn()
    calls = len(world.model.calls)
    world.luck = 0.0
    exchange = await world.ask(QUESTION)

    assert is_hit(exchange)
    assert len(world.model.calls) == calls + 1
    assert (
        world.counts["llmgate_semantic_labels_total[('right', 'true'), ('source', 'shadow')]"] == 1
    )
    # From now on these very words have an answer of their own.
    again = await world.ask(QUESTION)
    assert "semantic" not in again.headers["cache-status"]
    assert is_hit(again)


async def test_a_checked_hit_that_was_wrong_is_not_served_again(world: World) -> None:
    await world.learn()
    world.luck = 0.0
    world.model.version = "2"
    first, second, third = [
        await world.ask(f"{begin} when does the store open please") for begin in ("oh", "so", "hm")
    ]

    assert is_hit(first)
    assert "edition 1" in first.body.decode()
    assert world.counts["llmgate_semantic_quarantined_total"] >= 1
    assert "edition 2" in third.body.decode()
    assert not is_hit(second) or "edition 2" in second.body.decode()


async def test_checks_keep_to_their_budget() -> None:
    world = World(SemanticPolicy(check_budget=0))
    world.luck = 0.0
    await world.learn()
    exchange = await world.ask(QUESTION)

    assert is_hit(exchange)
    assert world.counts["llmgate_semantic_checks_skipped_total"] >= 1
    assert "llmgate_semantic_check_usd_total" not in world.counts


async def test_a_bucket_fills_before_any_of_its_answers_is_given(world: World) -> None:
    await world.learn()
    headers = {"llmgate-cache-bucket-max-size": "3"}
    told = [await world.ask(f"{begin}{QUESTION}", headers=headers) for begin in "abcd"]

    # One answer is there already.
    assert [is_hit(exchange) for exchange in told] == [False, False, True, True]
    assert 'detail="filling"' in told[0].headers["cache-status"]
    assert told[2].headers["llmgate-cache-bucket-idx"] in ("0", "1", "2")


async def test_answers_that_call_tools_are_not_shared(world: World) -> None:
    call_ = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call_]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    answer = json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
    world.model.script = [(200, [answer], b"application/json")]
    await world.ask("when does the store open")

    assert (await world.index.size()).aliases == 0


@pytest.mark.parametrize("word", ["same", "different", "silent"])
async def test_a_judge_settles_what_the_texts_leave_open(
    world: World, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, ...]] = []

    async def judge(*told: str) -> bool | None:
        heard.append(told)
        return {"same": True, "different": False}.get(word)

    monkeypatch.setattr(_semantic_learn, "compare", lambda *_, **__: Verdict.UNSURE)
    world.judge = judge
    world.app, world.tier = world.worker()
    await world.ask("when does the store open")
    await world.ask("when does the store open please")
    listed = [alias for _, alias in await world.index.listed()]

    assert heard[0][0] == "when does the store open please"
    assert heard[0][2] == "when does the store open"
    # Who is said to differ is heard twice.
    assert len(heard) == (2 if word == "different" else 1)
    assert len({alias.answer for alias in listed}) == (1 if word == "same" else 2)
    labels = [name for name in world.counts if "labels_total" in name]
    assert len(labels) == (0 if word == "silent" else 1)


def as_user(name: str, kind: PrincipalKind = PrincipalKind.HOST) -> Callable[..., Any]:
    async def login(_: Any) -> Principal:
        return Principal("shop", kind, name, user_id=name)

    return login


@pytest.mark.parametrize("is_shared", [False, True])
async def test_users_share_only_where_that_is_configured_and_two_got_the_same(
    is_shared: bool,
) -> None:
    world = World(SemanticPolicy(is_shared=is_shared), namespace=by_tenant)

    async def ask(user: str, question: str) -> Exchange:
        app = AuthMiddleware(TaggingMiddleware(world.app), authenticate=as_user(user))
        exchange = await call(app, body(question))
        await world.tier.settled()
        return exchange

    for question, _ in list(askings())[:300]:
        await ask("ada", question)
    assert is_hit(await ask("ada", QUESTION))
    alone = await ask("bob", "oh, " + QUESTION)
    confirmed = await ask("eve", "hm, oh, " + QUESTION)

    assert not is_hit(alone)
    assert is_hit(confirmed) is is_shared
    # Who is served nothing does not learn what others ask.
    assert "llmgate-cache-similarity" not in alone.headers
    assert "detail" not in alone.headers["cache-status"]
