"""The cache in front of a model server, over every store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from asgi_llmgate._asgi.dependencies import depends_on
from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.core.cache_plan import CachePolicy, generation_name
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.protocols import CacheRead, CacheStore
from asgi_llmgate.types import Principal, PrincipalKind
from tests import wire
from tests.asgi import CHAT, Exchange, call
from tests.cache.model import Model

STREAM = {**CHAT, "stream": True}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "responses": ("/v1/responses", {"model": "gpt-4o", "input": "hi"}),
    "anthropic": ("/v1/messages", {**CHAT, "max_tokens": 5}),
    "embeddings": ("/v1/embeddings", {"model": "e", "input": "hi"}),
}


class Clock:
    def __init__(self) -> None:
        self.us = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.us


def cached(model: Any, store: CacheStore, **options: Any) -> CacheMiddleware:
    return CacheMiddleware(model, store=store, **({"namespace": "app"} | options))


def status(exchange: Exchange) -> str | None:
    return exchange.headers.get("llmgate-cache")


@pytest.mark.parametrize("name", PATHS)
async def test_the_second_question_is_answered_from_the_cache(
    model: Model, store: CacheStore, name: str
) -> None:
    path, body = PATHS[name]
    app = cached(model, store)

    first = await call(app, body, path=path)
    second = await call(app, body, path=path)

    assert (status(first), status(second)) == ("MISS", "HIT")
    assert first.body == second.body
    assert len(model.calls) == 1
    assert second.headers["age"] == "0"
    assert second.headers["cache-status"].startswith("llmgate; hit; ttl=")
    assert first.headers["cache-status"].startswith("llmgate; fwd=miss")


@pytest.mark.parametrize("name", ["chat", "responses", "anthropic"])
@pytest.mark.parametrize("first", [False, True], ids=["json first", "stream first"])
async def test_an_answer_is_told_in_the_other_form(
    model: Model, store: CacheStore, name: str, first: bool
) -> None:
    path, body = PATHS[name]
    app = cached(model, store)
    await call(app, {**body, "stream": first, "stream_options": {"include_usage": True}}, path=path)
    exchange = await call(app, {**body, "stream": not first}, path=path)

    assert status(exchange) == "HIT"
    is_stream = exchange.headers["content-type"].startswith("text/event-stream")
    assert is_stream is not first
    assert wire.TEXT.split()[-1] in exchange.body.decode()
    assert len(model.calls) == 1


async def test_a_stream_goes_through_while_it_comes(model: Model, store: CacheStore) -> None:
    gate = asyncio.Event()
    events = wire.chat_events("gpt-4o")
    model.script = [(200, [*events[:2], gate, *events[2:]], b"text/event-stream")]
    seen: list[bytes] = []

    def note(message: Any) -> None:
        if message.get("body"):
            seen.append(message["body"])
            if len(seen) == 2:
                gate.set()  # Only what has arrived lets it go on.

    exchange = await call(cached(model, store), STREAM, on_message=note)

    assert exchange.chunks == events


async def test_a_stream_without_usage_is_no_answer_for_who_wants_usage(
    model: Model, store: CacheStore
) -> None:
    app = cached(model, store)
    await call(app, STREAM)

    assert status(await call(app, STREAM)) == "HIT"
    assert status(await call(app, CHAT)) == "MISS"
    assert status(await call(app, STREAM)) == "HIT"
    assert status(await call(app, CHAT)) == "HIT"


def chat_with(finish: str) -> bytes:
    return wire.chat_body("gpt-4o").replace(b'"stop"', json.dumps(finish).encode())


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (500, [b'{"error":{}}']),
        (429, [b'{"error":{}}']),
        (200, [chat_with("length")]),
        (200, [chat_with("content_filter")]),
        (200, [b'{"choices":[]}']),
        (200, [b"not json"]),
        (200, [b'{"error":{"message":"no"}}']),
    ],
    ids=["500", "429", "truncated", "filtered", "empty", "garbage", "error"],
)
async def test_what_is_not_whole_and_clean_is_not_stored(
    model: Model, store: CacheStore, code: int, parts: list[bytes]
) -> None:
    app = cached(model, store)
    model.script = [(code, parts, b"application/json")]
    first = await call(app, CHAT)

    assert first.status == code
    assert first.body == parts[0]
    assert status(await call(app, CHAT)) == "MISS"


async def test_a_stream_that_stops_early_is_not_stored(model: Model, store: CacheStore) -> None:
    app = cached(model, store)
    model.script = [(200, wire.chat_events("gpt-4o")[:3], b"text/event-stream")]
    await call(app, STREAM)

    assert status(await call(app, STREAM)) == "MISS"


async def test_tenants_share_nothing(model: Model, store: CacheStore) -> None:
    for number in range(50):
        app = cached(model, store, namespace=f"tenant-{number}")
        assert status(await call(app, CHAT)) == "MISS"
    assert len(model.calls) == 50


async def test_nobody_shares_nothing(model: Model, store: CacheStore) -> None:
    app = CacheMiddleware(model, store=store)
    await call(app, CHAT)
    exchange = await call(app, CHAT)

    assert status(exchange) == "BYPASS"
    assert 'detail="no-namespace"' in exchange.headers["cache-status"]
    assert len(model.calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"temperature": 0.1},
        {"seed": 1},
        {"never_heard_of": True},
        {"messages": [{"role": "user", "content": "hi "}]},
    ],
    ids=str,
)
async def test_another_question_is_another_question(
    model: Model, store: CacheStore, change: dict[str, Any]
) -> None:
    app = cached(model, store)
    await call(app, CHAT)

    assert status(await call(app, CHAT | change)) == "MISS"


async def test_directives_are_kept(model: Model, store: CacheStore) -> None:
    app = cached(model, store)

    async def ask(control: str, **headers: str) -> str | None:
        return status(await call(app, CHAT, headers={"cache-control": control, **headers}))

    assert (await call(app, CHAT, headers={"cache-control": "only-if-cached"})).status == 504
    assert await ask("no-store") == "BYPASS"
    assert await ask("") == "MISS"
    assert await ask("only-if-cached") == "HIT"
    assert await ask("no-cache") == "MISS"
    assert await ask("", **{"llmgate-cache-enabled": "false"}) == "BYPASS"
    assert await ask("", **{"llmgate-cache-read": "false"}) == "MISS"
    assert await ask("", **{"llmgate-cache-seed": "x"}) == "MISS"
    assert await ask("", **{"llmgate-cache-seed": "x"}) == "HIT"


async def test_a_hit_never_prolongs_a_life(model: Model, store: CacheStore) -> None:
    clock = Clock()
    app = cached(model, store, clock_us=clock, policy=CachePolicy(ttl_s=100, keep_stale_s=50))
    await call(app, CHAT)
    for _ in range(8):
        clock.us += 10_000_000
        assert status(await call(app, CHAT)) == "HIT"
    clock.us += 21_000_000

    assert status(await call(app, CHAT)) == "MISS"


async def test_max_age_is_kept(model: Model, store: CacheStore) -> None:
    clock = Clock()
    app = cached(model, store, clock_us=clock)
    await call(app, CHAT)
    clock.us += 60_000_000
    young = await call(app, CHAT, headers={"cache-control": "max-age=61"})
    old = await call(app, CHAT, headers={"cache-control": "max-age=59"})

    assert young.headers["age"] == "60"
    assert (status(young), status(old)) == ("HIT", "MISS")


async def test_behind_its_soft_end_an_answer_is_stale_and_is_refreshed(
    model: Model, store: CacheStore
) -> None:
    clock = Clock()
    app = cached(model, store, clock_us=clock, policy=CachePolicy(soft_ttl_s=10))
    await call(app, CHAT)
    model.text = "new"
    clock.us += 11_000_000
    stale = await call(app, CHAT)
    fresh = await call(app, CHAT)

    assert (status(stale), status(fresh)) == ("STALE", "HIT")
    assert b"new" not in stale.body
    assert b"new" in fresh.body
    assert len(model.calls) == 2


@pytest.mark.parametrize("code", [500, 503])
async def test_a_stale_answer_stands_in_for_an_error_only_if_asked_for(
    model: Model, store: CacheStore, code: int
) -> None:
    clock = Clock()
    app = cached(model, store, clock_us=clock, policy=CachePolicy(ttl_s=10))
    await call(app, CHAT)
    clock.us += 20_000_000
    failure = (code, [b"{}"], b"application/json")
    model.script = [failure, failure, failure]
    plain = await call(app, CHAT)
    saved = await call(app, CHAT, headers={"cache-control": "stale-if-error=60"})
    late = await call(app, CHAT, headers={"cache-control": "stale-if-error=5"})

    assert (plain.status, saved.status, late.status) == (code, 200, code)
    assert status(saved) == "STALE"


async def test_an_invalidated_tag_is_a_miss_for_everybody(model: Model, store: CacheStore) -> None:
    app = cached(model, store)
    tagged = {"llmgate-cache-tags": "kb:pricing, kb:other"}
    await call(app, CHAT, headers=tagged)
    assert status(await call(app, CHAT)) == "HIT"
    await store.bump([generation_name("tag", "kb:other"), "bumps"])

    assert status(await call(app, CHAT)) == "MISS"
    assert status(await call(app, CHAT)) == "HIT"


async def test_what_was_invalidated_meanwhile_is_not_served(
    model: Model, store: CacheStore
) -> None:
    app = cached(model, store)
    gate = asyncio.Event()
    model.script = [(200, [gate, wire.chat_body("old")], b"application/json")]
    began = asyncio.Event()
    model.on_call = began.set
    headers = {"llmgate-cache-tags": "t"}
    old = asyncio.create_task(call(app, CHAT, headers=headers))
    await began.wait()
    await store.bump([generation_name("tag", "t"), "bumps"])
    meanwhile = await call(app, CHAT, headers=headers)
    gate.set()
    await old

    assert b"old" not in meanwhile.body
    after = await call(app, CHAT, headers=headers)
    assert b"old" not in after.body


@pytest.mark.parametrize("moved", [False, True], ids=["still true", "moved"])
async def test_an_application_says_what_its_answer_depends_on(
    model: Model, store: CacheStore, moved: bool
) -> None:
    def read_data() -> None:
        depends_on("kb:pricing")
        if moved:
            store.bump_blocking([generation_name("tag", "kb:pricing"), "bumps"])

    model.on_call = read_data
    app = cached(model, store)
    await call(app, CHAT)
    model.on_call = None

    assert status(await call(app, CHAT)) == ("MISS" if moved else "HIT")
    await store.bump([generation_name("tag", "kb:pricing"), "bumps"])
    if not moved:
        assert status(await call(app, CHAT)) == "MISS"


async def test_a_bucket_misses_until_it_is_full(model: Model, store: CacheStore) -> None:
    app = cached(model, store)
    headers = {"helicone-cache-bucket-max-size": "3"}
    seen: dict[str, str] = {}
    statuses: list[str | None] = []
    for number in range(40):
        model.text = f"answer-{number}"
        exchange = await call(app, CHAT, headers=headers)
        statuses.append(status(exchange))
        if status(exchange) == "HIT":
            seen[exchange.headers["llmgate-cache-bucket-idx"]] = exchange.body.decode()
            assert exchange.headers["helicone-cache-bucket-idx"] in "012"
            assert exchange.headers["helicone-cache"] == "HIT"

    assert statuses == ["MISS"] * 3 + ["HIT"] * 37
    assert set(seen) == {"0", "1", "2"}
    assert len(set(seen.values())) == 3


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, None),
        ({"llmgate-cache-bucket-max-size": "1"}, "0"),
        ({"helicone-cache-enabled": "true"}, "0"),
    ],
    ids=["nobody asked", "asked for one", "helicone"],
)
async def test_who_wants_to_know_is_told_which_answer_of_a_bucket_it_is(
    model: Model, store: CacheStore, headers: dict[str, str], told: str | None
) -> None:
    app = cached(model, store)
    first = await call(app, CHAT, headers=headers)
    second = await call(app, CHAT, headers=headers)

    assert (status(first), status(second)) == ("MISS", "HIT")
    assert "llmgate-cache-bucket-idx" not in first.headers
    assert second.headers.get("llmgate-cache-bucket-idx") == told
    helicones = told if "helicone-cache-enabled" in headers else None
    assert second.headers.get("helicone-cache-bucket-idx") == helicones


@pytest.mark.parametrize("name", ["llmgate", "helicone"])
async def test_a_bucket_of_more_than_twenty_is_refused(
    model: Model, store: CacheStore, name: str
) -> None:
    headers = {f"{name}-cache-bucket-max-size": "21"}
    exchange = await call(cached(model, store), CHAT, headers=headers)

    assert exchange.status == 400


async def test_a_hundred_who_ask_at_once_cost_one_call(model: Model, store: CacheStore) -> None:
    app = cached(model, store)
    gate = asyncio.Event()
    events = wire.chat_events("gpt-4o")
    model.script = [(200, [events[0], gate, *events[1:]], b"text/event-stream")]
    started = 0

    def note(message: Any) -> None:
        nonlocal started
        if message.get("body") == events[0]:
            started += 1
            if started == 100:
                gate.set()  # All have the first event before there is a second.

    exchanges = await asyncio.gather(*(call(app, STREAM, on_message=note) for _ in range(100)))

    assert len(model.calls) == 1
    assert all(exchange.body == b"".join(events) for exchange in exchanges)
    collapsed = [e for e in exchanges if "collapsed" in e.headers["cache-status"]]
    assert len(collapsed) == 99


def telling(event: asyncio.Event) -> Callable[[Any], None]:
    return lambda _: event.set()


async def test_when_the_first_is_killed_all_others_finish(model: Model, store: CacheStore) -> None:
    app = cached(model, store)
    gate, began = asyncio.Event(), asyncio.Event()
    events = wire.chat_events("gpt-4o")
    model.script = [(200, [events[0], gate, *events[1:]], b"text/event-stream")]
    first = asyncio.create_task(call(app, STREAM, on_message=lambda _: began.set()))
    await began.wait()
    got = [asyncio.Event() for _ in range(20)]
    others = [asyncio.create_task(call(app, STREAM, on_message=telling(event))) for event in got]
    for event in got:
        await event.wait()
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    exchanges = await asyncio.gather(*others)

    assert len(model.calls) == 1
    assert all(exchange.body == b"".join(events) for exchange in exchanges)
    assert status(await call(app, STREAM)) == "HIT"


async def test_the_provider_is_told_when_the_last_has_left(model: Model, store: CacheStore) -> None:
    app = cached(model, store)
    events = wire.chat_events("gpt-4o")
    model.script = [(200, [events[0], asyncio.Event()], b"text/event-stream")]

    await asyncio.gather(*(call(app, STREAM, leave_after=2) for _ in range(5)))

    assert len(model.calls) == 1
    assert model.left == 1


async def test_who_asks_for_the_other_form_meanwhile_gets_it(
    model: Model, store: CacheStore
) -> None:
    app = cached(model, store)
    gate, began = asyncio.Event(), asyncio.Event()
    model.script = [(200, [gate, wire.chat_body("gpt-4o")], b"application/json")]
    model.on_call = began.set
    plain = asyncio.create_task(call(app, CHAT))
    await began.wait()
    stream = asyncio.create_task(call(app, STREAM))
    await asyncio.sleep(0)
    gate.set()

    assert (await stream).body.endswith(b"data: [DONE]\n\n")
    await plain
    assert len(model.calls) == 1


class Broken(MemoryCacheStore):
    """A store that has failed."""

    async def read(self, key: Any, *, slots: int, names: Sequence[str]) -> CacheRead:
        from asgi_llmgate.errors import BackendError

        raise BackendError("down")


async def test_a_broken_store_costs_a_miss(model: Model) -> None:
    app = cached(model, Broken())
    exchange = await call(app, CHAT)

    assert exchange.status == 200
    assert 'detail="store"' in exchange.headers["cache-status"]


async def test_garbage_in_the_store_costs_a_miss(model: Model, store: CacheStore) -> None:
    app = cached(model, store)
    exchange = await call(app, CHAT)
    key: Any = exchange.headers["cache-status"].partition('key="')[2][:64]
    good = (await store.read(key, slots=1, names=())).values[0]
    assert good
    garbage = [b"", b"LGC1", b"\x80\x05.", good[:-1], good[:40] + b"!" + good[41:], good + b"x"]
    for value in garbage:
        await store.write(key, 0, value, partition="p", ttl_s=100)
        answer = await call(app, CHAT)
        assert (answer.status, status(answer)) == (200, "MISS")


async def test_an_entry_copied_to_another_key_is_none(model: Model, store: CacheStore) -> None:
    mine, theirs = cached(model, store), cached(model, store, namespace="other")
    model.text = "secret"
    exchange = await call(theirs, CHAT)
    model.text = ""
    key: Any = exchange.headers["cache-status"].partition('key="')[2][:64]
    [value] = (await store.read(key, slots=1, names=())).values
    assert value
    first = await call(mine, CHAT, headers={"cache-control": "no-store"})
    probe = await call(mine, CHAT)
    my_key: Any = probe.headers["cache-status"].partition('key="')[2][:64]
    await store.write(my_key, 0, value, partition="p", ttl_s=100)

    assert b"secret" not in (await call(mine, CHAT)).body
    assert b"secret" not in first.body


def as_byok(app: Any) -> Any:
    """Stand for AuthMiddleware."""
    from asgi_llmgate.middleware.auth import AuthMiddleware

    return AuthMiddleware(app, secret=b"s" * 32)


async def test_a_key_of_ones_own_reads_only_after_it_proved_good(
    model: Model, store: CacheStore
) -> None:
    first = as_byok(CacheMiddleware(model, store=store))
    second = as_byok(CacheMiddleware(model, store=store))
    await call(first, CHAT, key="sk-a")

    assert status(await call(first, CHAT, key="sk-a")) == "HIT"
    unproven = await call(second, CHAT, key="sk-a")  # another process, or much later
    assert status(unproven) == "MISS"
    assert 'detail="unproven-key"' in unproven.headers["cache-status"]
    assert status(await call(second, CHAT, key="sk-a")) == "HIT"
    assert status(await call(first, CHAT, key="sk-b")) == "MISS"


async def test_a_tenant_named_like_a_byok_caller_is_not_him() -> None:
    from asgi_llmgate.middleware.cache import by_tenant

    class Known:
        def __init__(self, kind: PrincipalKind) -> None:
            self.principal = Principal("byok:0123", kind, "x")

    own: Any = Known(PrincipalKind.KEY)
    byok: Any = Known(PrincipalKind.BYOK)
    assert by_tenant(own, {}) != by_tenant(byok, {})


@pytest.mark.parametrize("allowed", [False, True], ids=["refused", "allowed"])
async def test_an_answer_of_a_fallback_model_is_given_by_policy_only(
    model: Model, store: CacheStore, allowed: bool
) -> None:
    async def fell_back(scope: Any, receive: Any, send: Any) -> None:
        scope["llmgate"].fallback_index = 1
        await model(scope, receive, send)

    policy = CachePolicy(serves_fallbacks=allowed)
    app = cached(fell_back, store, policy=policy)
    await call(app, CHAT)

    assert status(await call(app, CHAT)) == ("HIT" if allowed else "MISS")
    strict = cached(model, store)
    assert status(await call(strict, CHAT)) == "MISS"
