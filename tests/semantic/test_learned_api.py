"""What people see of the semantic cache, and what they may say of its answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from asgi_llmgate.api.router import API_PREFIX
from asgi_llmgate.core.semantic.policy import SemanticPolicy
from asgi_llmgate.keyfile import admin_token
from asgi_llmgate.types import Principal, PrincipalKind
from tests.asgi import Exchange, call
from tests.semantic.gate import COST_NANOUSD, KEYS, SemanticGate, learned_world
from tests.semantic.world import askings

QUESTION = "well, when does the store open please"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SemanticGate]:
    world = await learned_world(tmp_path / "data")
    yield world
    await world.gate.aclose()


async def api(
    world: SemanticGate, method: str, path: str, sent: Any = None, *, key: str | None = None
) -> Exchange:
    path, _, query = path.partition("?")
    token = key or admin_token(None, world.gate.settings.data_dir)
    return await call(
        world.gate,
        b"" if sent is None else json.dumps(sent).encode(),
        path=f"{API_PREFIX}{path}",
        query=query,
        method=method,
        headers={"authorization": f"Bearer {token}"},
    )


async def get(world: SemanticGate, path: str) -> Any:
    await world.gate.log.flush()
    exchange = await api(world, "GET", path)
    assert exchange.status == 200, exchange.body
    return exchange.json()


async def judge(
    world: SemanticGate, call_id: str, *, wrong: bool = True, key: str | None = None, **more: Any
) -> Exchange:
    return await api(
        world, "POST", "/cache/feedback", {"id": call_id, "wrong": wrong, **more}, key=key
    )


def id_of(exchange: Exchange) -> str:
    return exchange.headers["llmgate-id"]


def is_semantic(exchange: Exchange) -> bool:
    return 'detail="semantic;' in exchange.headers["cache-status"]


# --- sums


async def test_stats_tell_hits_by_tier_and_the_money_they_saved(world: SemanticGate) -> None:
    before = await get(world, "/cache/stats")
    assert is_semantic(await world.ask(QUESTION))
    await world.ask(next(askings())[0])
    after = await get(world, "/cache/stats")

    assert after["hits"]["semantic"] == before["hits"]["semantic"] + 1
    assert after["hits"]["exact"] == before["hits"]["exact"] + 1
    assert after["hits"]["semantic"] + after["hits"]["exact"] + after["misses"] == 302
    hits = sum(after["hits"].values())
    assert after["saved_nanousd"] == hits * COST_NANOUSD
    assert float(after["saved_usd"]) == pytest.approx(hits * COST_NANOUSD / 1e9)
    assert after["semantic"]["saved_nanousd"] == after["hits"]["semantic"] * COST_NANOUSD
    assert after["semantic"]["labels"] > 100
    assert after["semantic"]["aliases"] == (await world.stores.index.size()).aliases
    assert after["entries"] > 0


async def test_stats_are_those_of_all_workers(tmp_path: Path) -> None:
    one = await learned_world(tmp_path / "data")
    other = SemanticGate(tmp_path / "data", one.stores)
    before = await get(one, "/cache/stats")
    assert is_semantic(await other.ask(QUESTION))
    await other.gate.log.flush()
    after = await get(one, "/cache/stats")
    await one.gate.aclose()
    await other.gate.aclose()

    assert after["hits"]["semantic"] == before["hits"]["semantic"] + 1
    assert after["saved_nanousd"] == before["saved_nanousd"] + COST_NANOUSD


async def test_a_check_is_paid_for_and_shown(world: SemanticGate) -> None:
    world.luck = 0.0
    assert is_semantic(await world.ask(QUESTION))
    stats = await get(world, "/cache/stats")

    assert stats["semantic"]["checks"] == 1
    assert stats["semantic"]["check_nanousd"] == COST_NANOUSD
    assert stats["net_saved_nanousd"] == stats["saved_nanousd"] - COST_NANOUSD
    assert stats["semantic"]["verdicts"]["shadow"] == {"right": 1, "wrong": 0}


async def test_a_tenants_stats_are_of_its_calls_only(world: SemanticGate) -> None:
    await world.ask("when does the store open", tenant="other")
    mine = await get(world, "/cache/stats?namespace=acme")
    others = await get(world, "/cache/stats?namespace=other")

    assert mine["hits"]["semantic"] > 100
    assert mine["saved_nanousd"] == sum(mine["hits"].values()) * COST_NANOUSD
    assert others["hits"] == {"exact": 0, "semantic": 0}
    assert others["misses"] == 1
    assert "aliases" not in others["semantic"]


async def test_what_an_observing_cache_would_have_saved_is_counted(tmp_path: Path) -> None:
    world = await learned_world(tmp_path / "data", rules=SemanticPolicy(observes=True))
    stats = await get(world, "/cache/stats")
    await world.gate.aclose()

    observed = stats["semantic"]["would_have_served"]
    assert observed > 50
    assert stats["hits"]["semantic"] == 0
    assert stats["semantic"]["would_have_saved_nanousd"] == observed * COST_NANOUSD


# --- what is kept


async def test_phrasings_are_listed_with_what_they_lead_to(world: SemanticGate) -> None:
    every = (await get(world, "/cache/aliases?limit=1000"))["aliases"]
    few = (await get(world, "/cache/aliases?limit=3"))["aliases"]
    none = (await get(world, "/cache/aliases?namespace=other"))["aliases"]

    assert len(every) == (await world.stores.index.size()).aliases
    assert len(few) == 3
    assert none == []
    opening = {row["answer"] for row in every if "store open" in row["question"]}
    assert len(opening) == 1
    assert all(row["expires_in_s"] > row["age_s"] >= 0 for row in every)


async def test_entries_are_answers_with_their_phrasings(world: SemanticGate) -> None:
    entries = (await get(world, "/cache/entries?namespace=acme"))["entries"]

    assert 8 <= len(entries) < 30
    assert sum(entry["aliases"] for entry in entries) == (await world.stores.index.size()).aliases
    assert all(entry["stored"] and entry["questions"] for entry in entries)
    assert all(entry["cost_usd"] == "0.002" for entry in entries)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "10001"])
async def test_a_limit_is_a_number(world: SemanticGate, limit: str) -> None:
    assert (await api(world, "GET", f"/cache/aliases?limit={limit}")).status == 400


async def test_the_report_shows_labels_by_similarity_and_bounds(world: SemanticGate) -> None:
    report = await get(world, "/cache/semantic?namespace=acme&max_error=0.1")
    [row] = report["partitions"]

    assert report["max_error"] == 0.02
    assert row["state"] == "serving"
    in_cells = sum(cell["right"] + cell["wrong"] for cell in row["histogram"])
    assert in_cells == row["labels"]["total"] == row["labels"]["right"] + row["labels"]["wrong"]
    assert [bound["max_error"] for bound in row["bounds"]] == [0.01, 0.02, 0.05, 0.1]
    for bound in row["bounds"]:
        if bound["threshold"] is None:
            continue
        assert bound["precision_low"] <= bound["precision"] <= bound["precision_high"]
        assert bound["precision_low"] >= 1 - bound["max_error"] - 1e-9
        assert bound["would_serve"] <= bound["candidates"]


async def test_a_cold_cache_says_what_it_lacks(tmp_path: Path) -> None:
    world = SemanticGate(tmp_path / "data")
    await world.ask("when does the store open")
    await world.ask("when does the store open please")
    [row] = (await get(world, "/cache/semantic"))["partitions"]
    await world.gate.aclose()

    assert row["state"].startswith("cold: 1 of 100 labels")
    assert all(bound["threshold"] is None for bound in row["bounds"])


# --- forgetting


async def test_what_was_learned_can_be_exported_and_forgotten(world: SemanticGate) -> None:
    [exported] = (await get(world, "/cache/learned?namespace=acme"))["partitions"]
    [summary] = (await get(world, "/cache/learned"))["partitions"]
    unnamed = await api(world, "DELETE", "/cache/learned")
    forgotten = await api(world, "DELETE", "/cache/learned?namespace=acme")
    after = await get(world, "/cache/learned")

    assert len(exported["verdicts"]) > 100
    assert {label["source"] for label in exported["verdicts"]} == {"miss"}
    assert "verdicts" not in summary
    assert summary["labels"]["total"] == len(exported["verdicts"])
    named = await get(world, f"/cache/aliases?namespace={summary['partition']}&limit=5")
    assert len(named["aliases"]) == 5
    assert set(exported["weights"]) >= {"bias", "similarity", "votes"}
    assert unnamed.status == 400
    assert forgotten.json() == {"reset": True, "partitions": 1}
    assert after["partitions"] == []


async def test_a_cache_that_forgot_serves_nothing_new(world: SemanticGate) -> None:
    assert is_semantic(await world.ask(QUESTION))
    await api(world, "DELETE", "/cache/learned?all=true")
    # A worker follows the store within a second or two; a new one begins there.
    fresh = SemanticGate(world.gate.settings.data_dir, world.stores)
    exchange = await fresh.ask("oh, " + QUESTION)
    await fresh.gate.aclose()

    assert 'detail="cold"' in exchange.headers["cache-status"]


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({"namespace": "acme"}, 1),
        ({"namespace": "nobody"}, 0),
        ({"everything": True}, 0),
        ({"older_than_s": 0}, 0),
        ({"older_than_s": 0, "namespace": "acme"}, 1),
        ({"older_than_s": 3600}, None),
        ({"tags": ["kb"]}, None),
    ],
    ids=str,
)
async def test_a_purge_takes_phrasings_with_it(
    world: SemanticGate, what: dict[str, Any], left: int | None
) -> None:
    await world.ask("when does the store open", tenant="other")
    before = (await world.stores.index.size()).aliases
    answer = await api(world, "POST", "/cache/purge", what)
    after = (await world.stores.index.size()).aliases

    assert answer.status == 200
    if what.get("namespace") == "nobody":
        assert after == before
    else:
        assert after == (before if left is None else left)


async def test_a_users_phrasings_go_with_the_user(tmp_path: Path) -> None:
    async def login(request: HTTPConnection) -> Principal:
        user = request.headers["x-user"]
        return Principal("app", PrincipalKind.HOST, "shop", user_id=user)

    world = SemanticGate(tmp_path / "data", authenticate=login)
    for user, question in (("ada", "do you wrap presents"), ("grace", "are you hiring drivers")):
        await world.ask(question, tenant=None, **{"x-user": user})
    both = (await get(world, "/cache/aliases"))["aliases"]
    purged = await api(world, "POST", "/cache/purge", {"user": "ada"})
    left = (await get(world, "/cache/aliases"))["aliases"]
    await world.gate.aclose()

    assert purged.status == 200
    assert len(both) == 2
    assert [row["question"] for row in left] == ["are you hiring drivers"]


async def test_an_entry_is_purged_with_all_its_phrasings(world: SemanticGate) -> None:
    exchange = await world.ask(QUESTION)
    key = exchange.headers["cache-status"].partition("key=")[2].strip('"').partition(";")[0]
    key = key.strip('"')
    answer = await api(world, "POST", "/cache/purge", {"entry": key})
    listed = [alias for _, alias in await world.stores.index.listed(limit=1000)]

    assert answer.json() == {"purged": True, "removed": 1}
    assert listed
    assert all(alias.answer != key for alias in listed)
    assert not is_semantic(await world.ask("oh, " + QUESTION))


# --- feedback


async def test_a_tenant_judges_its_own_call_once(world: SemanticGate) -> None:
    exchange = await world.ask(QUESTION)
    assert is_semantic(exchange)
    labels = (await get(world, "/cache/stats"))["semantic"]["labels"]
    first = await judge(world, id_of(exchange), wrong=False, key=KEYS["acme"])
    again = await judge(world, id_of(exchange), wrong=False, key=KEYS["acme"])
    turned = await judge(world, id_of(exchange), wrong=True)
    stats = await get(world, "/cache/stats")

    assert first.status == 200
    assert first.json() == {
        "id": id_of(exchange),
        "wrong": False,
        "counted": True,
        "quarantined": False,
    }
    assert again.json()["counted"] is turned.json()["counted"] is False
    assert stats["semantic"]["verdicts"]["feedback"] == {"right": 1, "wrong": 0}
    assert stats["semantic"]["labels"] == labels + 1


async def test_a_wrong_answer_takes_its_phrasing_and_then_itself_away(world: SemanticGate) -> None:
    hits = [await world.ask(f"{begin}, {QUESTION}") for begin in ("oh", "hm", "so", "er")]
    assert all(map(is_semantic, hits))
    answers = [await judge(world, id_of(exchange)) for exchange in hits]
    listed = [alias for _, alias in await world.stores.index.listed(limit=1000)]

    assert all(answer.json()["quarantined"] for answer in answers)
    # All four were led to the same answer, which is gone with every phrasing of it.
    assert not [alias for alias in listed if "store open" in alias.question]
    assert not is_semantic(await world.ask("ah, " + QUESTION))


async def test_nobody_judges_the_calls_of_others(world: SemanticGate) -> None:
    exchange = await world.ask(QUESTION)
    foreign = await judge(world, id_of(exchange), key=KEYS["other"])
    pretending = await judge(world, id_of(exchange), key=KEYS["other"], tenant="acme")
    unknown = await judge(world, "no-such-call", key=KEYS["other"])
    mine = await judge(world, id_of(exchange), key=KEYS["acme"])

    assert [foreign.status, pretending.status, unknown.status] == [404, 404, 404]
    assert foreign.json()["error"]["message"].replace(id_of(exchange), "") == (
        unknown.json()["error"]["message"].replace("no-such-call", "")
    )
    assert mine.json()["counted"] is True


async def test_ids_that_two_tenants_chose_are_told_apart(tmp_path: Path) -> None:
    world = await learned_world(tmp_path / "data")
    chosen = {"llmgate-request-id": "order-1"}
    mine = await world.ask(QUESTION, **chosen)
    await world.learn(tenant="other")
    theirs = await world.ask(QUESTION, tenant="other", **chosen)
    assert id_of(mine) == id_of(theirs) == "order-1"
    assert is_semantic(mine)
    assert is_semantic(theirs)
    unclear = await judge(world, "order-1")
    named = await judge(world, "order-1", tenant="other")
    own = await judge(world, "order-1", key=KEYS["acme"])
    await world.gate.aclose()

    assert unclear.status == 400
    assert "name the tenant" in unclear.json()["error"]["message"]
    assert named.json()["counted"] is own.json()["counted"] is True


@pytest.mark.parametrize("status", ["miss", "exact"])
async def test_only_semantic_hits_are_judged(world: SemanticGate, status: str) -> None:
    if status == "miss":
        exchange = await world.ask("xylophone tuning")
    else:
        await world.ask("xylophone tuning")
        exchange = await world.ask("xylophone tuning")
        assert exchange.headers["llmgate-cache"] == "HIT"

    assert (await judge(world, id_of(exchange))).status == 404


async def test_another_worker_finds_what_was_served(world: SemanticGate) -> None:
    exchange = await world.ask(QUESTION)
    other = SemanticGate(world.gate.settings.data_dir, world.stores)
    answer = await judge(other, id_of(exchange))
    await other.gate.aclose()

    assert answer.json()["quarantined"] is True


async def test_without_a_semantic_tier_the_api_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = SemanticGate(tmp_path / "data")
    world.gate._given_semantic = None
    monkeypatch.setattr("asgi_llmgate.gateway.semantic_tier_of", lambda *_, **__: None)
    answer = await api(world, "GET", "/cache/aliases")
    stats = await get(world, "/cache/stats")
    await world.gate.aclose()

    assert answer.status == 404
    assert "no semantic cache here" in answer.json()["error"]["message"]
    assert stats["hits"] == {"exact": 0, "semantic": 0}
    assert "aliases" not in stats["semantic"]
