"""Limits within the whole stack, the admin API, and the command."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asgi_llmgate.assemble import _server_workers
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.cli import cli
from asgi_llmgate.core.budgets import budget_from
from asgi_llmgate.core.limits import BadPolicyError
from asgi_llmgate.core.price import FlatPrice
from asgi_llmgate.errors import ConfigurationError, UpstreamConnectError
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.keyfile import admin_token
from asgi_llmgate.settings import load_settings
from asgi_llmgate.types import Principal, PrincipalKind, Usage
from tests import wire
from tests.asgi import CHAT, Exchange, call
from tests.gateway.conftest import MakeGate, log, make_gate, upstream
from tests.limits.test_webhook import receiving
from tests.stub_upstream import SSE, Reply, StubUpstream

__all__ = ["log", "make_gate", "upstream"]

CENT = 10_000_000


def price(provider: str, model: str, usage: Usage) -> int:
    """A call of `tests/wire.py` has 1,200 tokens and costs 12 cents."""
    return FlatPrice(1, input=CENT // 100, output=CENT // 100).cost_nanousd(usage)


async def admin(gate: LLMGate, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return await call(
        gate,
        b"" if body is None else body,
        path=f"/llmgate/api/v1{path}",
        method=method,
        key=admin_token(None, gate.settings.data_dir),
    )


async def small(gate: LLMGate, **headers: str) -> Exchange:
    return await call(gate, {**CHAT, "max_tokens": 1}, key="sk-x", headers=headers)


async def test_settings_limit_every_tenant_by_itself(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate(limits={"rates": [{"policy": "2;w=3600"}]})
    mine = [(await call(gate, CHAT, key="sk-x")).status for _ in range(3)]
    theirs = await call(gate, CHAT, key="sk-y")
    await gate.aclose()

    assert mine == [200, 200, 429]
    assert theirs.status == 200
    assert [record.error_code for record in log.records] == [None, None, "rate_limited", None]


async def test_limits_survive_the_process(make_gate: MakeGate) -> None:
    gate = make_gate(limits={"rates": "1;w=3600"})
    await call(gate, CHAT, key="sk-x")
    await gate.aclose()
    again = make_gate(limits={"rates": "1;w=3600"})
    refused = await call(again, CHAT, key="sk-x")
    await again.aclose()

    assert refused.status == 429


async def test_rates_of_a_route_of_models_or_of_keys_are_only_theirs(make_gate: MakeGate) -> None:
    gate = make_gate(limits={"rates": [{"policy": "1;w=3600", "models": ["gpt-4*"]}]})
    statuses = [
        (await call(gate, {**CHAT, "model": model}, key="sk-x")).status
        for model in ("gpt-4o", "gpt-4.1", "o3")
    ]
    await gate.aclose()

    assert statuses == [200, 429, 200]


async def test_a_stored_budget_stops_calls_and_is_listed_and_reset(make_gate: MakeGate) -> None:
    gate = make_gate(price=price)
    made = await admin(
        gate, "PUT", "/budgets/team", {"per": "team", "limit_usd": "0.20", "period": "day"}
    )
    team = {"LLMGate-Property-Team": "search"}
    first = await small(gate, **team)
    second = await small(gate, **team)
    third = await small(gate, **team)
    other = await small(gate, **{"LLMGate-Property-Team": "ads"})
    listed = (await admin(gate, "GET", "/budgets")).json()["budgets"]
    subject = max(listed[0]["spent"], key=lambda row: row["spent_nanousd"])["subject"]
    reset = await admin(gate, "POST", "/budgets/team/reset", {"subject": subject})
    time.sleep(0.06)  # a refusal stands for 50 ms
    after = await small(gate, **team)
    removed = await admin(gate, "DELETE", "/budgets/team")
    gone = await admin(gate, "DELETE", "/budgets/team")
    await gate.aclose()

    assert made.status == 200
    assert made.json()["limit_usd"] == "0.2"
    # 12 cents each: the second was let through with 8 left, because 1 token was expected.
    assert [first.status, second.status, third.status, other.status] == [200, 200, 429, 200]
    assert third.json()["error"]["code"] == "budget_exceeded"
    assert third.headers["x-should-retry"] == "false"
    assert sorted(row["spent_usd"] for row in listed[0]["spent"]) == ["0.12", "0.24"]
    assert subject.endswith("/search")
    assert (reset.status, after.status, removed.status, gone.status) == (200, 200, 200, 404)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"limit_usd": "0"}, "limit_usd"),
        ({"limit_usd": "1", "per": "planet"}, "per"),
        ({"limit_usd": "1", "period": "year"}, "period"),
        ({"limit_usd": "1", "soft": 1.5}, "soft"),
        ({"limit_usd": "1", "webhook": "http://10.0.0.1/"}, "webhook"),
        ({"limit_usd": "1", "other": 1}, "other"),
    ],
)
async def test_a_bad_budget_is_refused_by_the_part_that_is_wrong(
    make_gate: MakeGate, body: dict[str, Any], word: str
) -> None:
    gate = make_gate()
    answer = await admin(gate, "PUT", "/budgets/b", body)
    await gate.aclose()

    assert answer.status in (400, 422)
    assert word in str(answer.json())


async def test_budgets_need_the_admin_token(make_gate: MakeGate) -> None:
    gate = make_gate()
    refused = await call(gate, b"", path="/llmgate/api/v1/budgets", method="GET", key="sk-x")
    await gate.aclose()

    assert refused.status == 401


@pytest.mark.parametrize("usage", [True, False], ids=["with usage", "without usage"])
async def test_streams_spend_a_budget_whatever_the_provider_says(
    make_gate: MakeGate, upstream: StubUpstream, usage: bool
) -> None:
    events = wire.chat_events("gpt-4o", usage=usage)
    upstream.script = [Reply(events, headers=list(SSE)) for _ in range(2)]
    gate = make_gate(
        price=price, limits={"budgets": [{"name": "b", "limit_usd": "100", "period": "day"}]}
    )
    await call(gate, {**CHAT, "stream": True}, key="sk-x")
    await call(gate, {**CHAT, "stream": True}, key="sk-x", leave_after=2)
    listed = (await admin(gate, "GET", "/budgets")).json()["budgets"]
    await gate.aclose()

    assert listed[0]["spent"][0]["spent_nanousd"] > 0


async def test_an_answer_from_the_cache_spends_nothing(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate(
        price=price,
        keys={"app": "k" * 20},
        providers={"openai": {"api_key": "sk-pooled-0123456789"}},
        limits={"budgets": [{"name": "b", "limit_usd": "100"}], "rates": "5000;w=3600;u=token"},
    )
    headers = {"LLMGate-Cache-Enabled": "true"}
    answers = [
        await call(gate, {**CHAT, "max_tokens": 5}, key="k" * 20, headers=headers) for _ in range(3)
    ]
    listed = (await admin(gate, "GET", "/budgets")).json()["budgets"]
    await gate.aclose()

    assert [one.headers.get("llmgate-cache") for one in answers] == ["MISS", "HIT", "HIT"]
    assert listed[0]["spent"][0]["spent_usd"] == "0.12"
    assert int(answers[2].headers["x-ratelimit-remaining-tokens"]) > 3500


def run(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments), env={"LLMGATE_DATA_DIR": str(folder)})


def test_the_command_sets_lists_resets_and_removes(tmp_path: Path) -> None:
    set_ = run(tmp_path, "budgets", "set", "ada", "--limit", "5", "--per", "user", "--soft", "0.8")
    listed = run(tmp_path, "budgets", "list")
    as_json = run(tmp_path, "budgets", "list", "--json")
    reset = run(tmp_path, "budgets", "reset", "ada")
    unknown = run(tmp_path, "budgets", "reset", "nobody")
    removed = run(tmp_path, "budgets", "remove", "ada")
    again = run(tmp_path, "budgets", "remove", "ada")

    assert set_.exit_code == 0, set_.output
    assert "ada: $5 per month for each user, reported at $4" in listed.output
    assert json.loads(as_json.output)["soft_nanousd"] == 4_000_000_000
    assert [one.exit_code for one in (reset, unknown, removed, again)] == [0, 1, 0, 1]


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    bad = run(tmp_path, "budgets", "set", "ada", "--limit", "5", "--per", "planet")

    assert bad.exit_code == 1
    assert "per" in bad.output


async def test_a_budget_set_by_the_command_holds_in_a_running_gateway(
    make_gate: MakeGate, tmp_path: Path
) -> None:
    gate = make_gate(price=price)
    before = await small(gate)
    folder = gate.settings.data_dir
    done = await asyncio.to_thread(run, folder, "budgets", "set", "tiny", "--limit", "0.000001")
    deadline = time.monotonic() + 10
    while (after := await small(gate)).status == 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await gate.aclose()

    assert (before.status, done.exit_code) == (200, 0)
    assert after.json()["error"]["code"] == "budget_exceeded"


def test_doctor_tells_of_the_limits(tmp_path: Path) -> None:
    good = run(tmp_path, "doctor")
    bad = CliRunner().invoke(
        cli,
        ["doctor"],
        env={
            "LLMGATE_DATA_DIR": str(tmp_path),
            "LLMGATE_REDIS_URL": "redis://127.0.0.1:1/0",
            "LLMGATE_SECRET_KEY": "ab" * 32,
        },
    )

    assert "limits: SQLite in the data folder; 0 rates, 0 budgets" in good.output
    assert "fail  limits: Redis" in bad.output


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"rates": "0;w=60"}, "limits.rates"),
        ({"rates": [{"policy": "1;w=0"}]}, "limits.rates"),
        ({"budgets": [{"name": "b", "limit_usd": "1", "per": "x"}]}, "limits.budgets"),
    ],
)
def test_mistakes_in_the_settings_stop_the_start(limits: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load_settings(limits=limits)


async def test_a_soft_threshold_reaches_a_receiver_while_calls_go_on(make_gate: MakeGate) -> None:
    async with receiving() as receiver:
        budget = {"name": "b", "limit_usd": "0.5", "soft": 0.4, "hard": False}
        gate = make_gate(
            price=price,
            limits={"budgets": [budget], "webhook": receiver.url, "webhook_hosts": ["127.0.0.1"]},
        )
        statuses = [(await small(gate)).status for _ in range(4)]  # 12 cents each
        await admin(gate, "GET", "/budgets")  # what was spent is told
        await gate.aclose()

    [body] = receiver.bodies
    event = json.loads(body)
    assert statuses == [200] * 4
    assert event["type"] == "budget.soft_threshold"
    assert event["data"]["soft_usd"] == "0.2"
    assert event["data"]["spent_usd"] in ("0.24", "0.36", "0.48")


async def test_an_unknown_time_zone_stops_the_start(make_gate: MakeGate) -> None:
    with pytest.raises(ConfigurationError, match="HINT"):
        await make_gate(limits={"time_zone": "Mars/Olympus"}).startup()


async def test_a_callers_own_limit_is_no_other_tenants(make_gate: MakeGate) -> None:
    gate = make_gate()
    headers = {"LLMGate-RateLimit-Policy": "1;w=60;s=user", "LLMGate-User-Id": "ada"}
    statuses = [
        (await call(gate, CHAT, key=key, headers=headers)).status
        for key in ("sk-x", "sk-x", "sk-y")
    ]
    await gate.aclose()

    assert statuses == [200, 429, 200]


@pytest.mark.parametrize(
    ("environment", "arguments", "workers"),
    [
        ({}, ["uvicorn", "app"], 1),
        ({"WEB_CONCURRENCY": "3"}, ["uvicorn", "app"], 3),
        ({"WEB_CONCURRENCY": "3"}, ["uvicorn", "app", "--workers", "4"], 4),
        ({}, ["gunicorn", "-w", "4"], 4),
        ({}, ["granian", "--workers=4"], 4),
        ({"WEB_CONCURRENCY": "many"}, ["uvicorn", "--workers"], 1),
    ],
)
def test_the_number_of_workers_is_what_the_server_was_told(
    environment: dict[str, str], arguments: list[str], workers: int
) -> None:
    assert _server_workers(environment, arguments) == workers


async def test_a_limit_per_user_needs_a_user_whom_somebody_named(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate()
    ours = {"LLMGate-RateLimit-Policy": "1;w=60;s=user"}
    nobody = await call(gate, CHAT, key="sk-x", headers=ours)
    somebody = [
        (await call(gate, {**CHAT, "user": user}, key="sk-x", headers=ours)).status
        for user in ("ada", "ada", "grace")
    ]
    theirs = [
        await call(gate, CHAT, key="sk-x", headers={"Helicone-RateLimit-Policy": "1;w=60;s=user"})
        for _ in range(2)
    ]
    await gate.aclose()

    assert log.records[0].user_source == "synthetic"
    assert nobody.status == 400
    assert nobody.json()["error"]["code"] == "invalid_header"
    assert "LLMGate-User-Id" in nobody.json()["error"]["message"]
    assert somebody == [200, 429, 200]
    assert [one.status for one in theirs] == [200, 200]
    assert "Helicone-RateLimit-Policy was ignored" in theirs[0].headers["llmgate-warnings"]


async def test_a_session_that_is_missing_is_named_by_its_own_header(make_gate: MakeGate) -> None:
    gate = make_gate()
    headers = {"LLMGate-RateLimit-Policy": "1;w=60;s=session"}
    refused = await call(gate, CHAT, key="sk-x", headers=headers)
    await gate.aclose()

    assert refused.status == 400
    assert "Send LLMGate-Session-Id" in refused.json()["error"]["message"]


@pytest.mark.parametrize("how", ["default", "force"])
async def test_no_caller_takes_away_a_limit_of_his_route(make_gate: MakeGate, how: str) -> None:
    gate = make_gate(
        policies=[
            {"path": "/v1/chat/completions", how: {"RateLimit-Policy": "2;w=60;s=user"}},
            {"path": "/v1/responses", how: {"RateLimit-Policy": "2;w=60;s=user"}},
        ]
    )
    loose = {"LLMGate-RateLimit-Policy": "1000;w=60"}
    statuses = [(await call(gate, CHAT, key="sk-x", headers=loose)).status for _ in range(3)]
    other = await call(gate, {"model": "gpt-4o", "input": "hi"}, path="/v1/responses", key="sk-x")
    tight = {"LLMGate-RateLimit-Policy": "1;w=60"}
    tightened = [(await call(gate, CHAT, key="sk-y", headers=tight)).status for _ in range(2)]
    await gate.aclose()

    assert statuses == [200, 200, 429]
    assert other.status == 200  # Each route has its own.
    assert tightened == [200, 429]


def free_or_dear(provider: str, model: str, usage: Usage) -> int | None:
    """`gpt-4o` costs 12 cents a call, `cheap` a hundredth of it; others have no price."""
    each = {"gpt-4o": CENT // 100, "cheap": CENT // 10_000}.get(model)
    return None if each is None else FlatPrice(1, input=each, output=each).cost_nanousd(usage)


@pytest.mark.parametrize("override", ["cheap", "unknown"])
async def test_what_a_call_is_to_be_counted_as_is_no_way_around_a_budget(
    make_gate: MakeGate, log: MemoryLogSink, override: str
) -> None:
    budget = {"name": "all", "limit_usd": "0.20"}
    gate = make_gate(price=free_or_dear, limits={"budgets": [budget]})
    headers = {"LLMGate-Model-Override": override}
    statuses = [(await small(gate, **headers)).status for _ in range(3)]
    await gate.aclose()
    record = log.records[0]

    assert statuses == [200, 200, 429]
    assert record.model == override
    # For the log it counts as what it was said to be, where that has a price.
    assert record.cost_nanousd == 12 * CENT // (100 if override == "cheap" else 1)


async def test_a_model_without_a_price_may_be_counted_as_one_that_has(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([wire.chat_body("my-deployment")]) for _ in range(3)]
    budget = {"name": "all", "limit_usd": "0.20"}
    gate = make_gate(price=free_or_dear, limits={"budgets": [budget]})
    body = {**CHAT, "model": "my-deployment", "max_tokens": 1}
    headers = {"LLMGate-Model-Override": "gpt-4o"}
    statuses = [(await call(gate, body, key="sk-x", headers=headers)).status for _ in range(3)]
    await gate.aclose()

    assert statuses == [200, 200, 429]


FILTERED = wire.chat_body("gpt-4o").replace(b'"stop"', b'"content_filter"')
CHAIN = {"LLMGate-Fallbacks": json.dumps(["groq/gpt-4o"])}


@pytest.mark.parametrize(
    ("second", "status", "paid"),
    [
        (Reply(), 200, 2),
        (Reply([FILTERED]), 200, 2),
        (Reply([b'{"error":{"message":"no"}}'], status=503), 503, 1),
        (UpstreamConnectError("The provider cannot be reached."), 200, 1),
    ],
    ids=["answered", "filtered, too", "failed", "not reached"],
)
async def test_an_answer_that_was_passed_over_is_paid_for_all_the_same(
    make_gate: MakeGate,
    upstream: StubUpstream,
    log: MemoryLogSink,
    second: Reply | Exception,
    status: int,
    paid: int,
) -> None:
    assert b"content_filter" in FILTERED
    gate = make_gate(
        price=price,
        keys="app:lg_app",
        providers={"openai": {"api_key": "sk-1"}, "groq": {"api_key": "sk-2"}},
        fallback={"on": "content_filter,500-599"},
        limits={"budgets": [{"name": "all", "limit_usd": "1000"}]},
    )
    upstream.script = [Reply([FILTERED]), second]
    exchange = await call(gate, CHAT, key="lg_app", headers=CHAIN)
    [budget] = (await admin(gate, "GET", "/budgets")).json()["budgets"]
    await gate.aclose()
    [record] = log.records

    assert exchange.status == status
    assert len(record.attempts) == 2
    assert record.cost_nanousd == paid * 12 * CENT
    assert (record.input_tokens is not None) == (status == 200)
    assert record.complete
    assert budget["spent"][0]["spent_nanousd"] == paid * 12 * CENT


async def test_a_budget_of_a_tenants_user_is_not_spent_by_his_namesake(
    make_gate: MakeGate,
) -> None:
    budget = {"name": "ada", "limit_usd": "0.20", "per": "user", "subject": "ada"}
    gate = make_gate(
        price=price,
        keys="acme:lg_acme,other:lg_other",
        providers={"openai": {"api_key": "sk-1"}},
        limits={"budgets": [budget | {"tenant": "acme"}]},
    )
    body = {**CHAT, "max_tokens": 1, "user": "ada"}
    statuses = [
        (await call(gate, body, key=f"lg_{tenant}")).status
        for tenant in ("other", "other", "other", "acme", "acme", "acme")
    ]
    await gate.aclose()

    assert statuses == [200, 200, 200, 200, 200, 429]


async def test_users_of_two_tenants_who_share_a_name_share_no_budget_per_key(
    make_gate: MakeGate,
) -> None:
    def login(request: Any) -> Principal:
        return Principal(request.headers["x-tenant"], PrincipalKind.HOST, "1")

    gate = make_gate(
        login,
        price=price,
        providers={"openai": {"api_key": "sk-1"}},
        limits={"budgets": [{"name": "each", "limit_usd": "0.20", "per": "key"}]},
    )
    body = {**CHAT, "max_tokens": 1}
    statuses = [
        (await call(gate, body, headers={"x-tenant": tenant})).status
        for tenant in ("acme", "acme", "acme", "other")
    ]
    [shown] = (await admin(gate, "GET", "/budgets")).json()["budgets"]
    await gate.aclose()

    assert statuses == [200, 200, 429, 200]
    assert [row["subject"] for row in shown["spent"]] == ["acme/1", "other/1"]


@pytest.mark.parametrize("per", ["tag:Feature", "property:feature"])
def test_a_tag_is_a_property(per: str) -> None:
    budget = budget_from({"name": "x", "per": per, "limit_nanousd": 1})

    assert budget.segment == "property:feature"


@pytest.mark.parametrize("per", ["property:", "tag:", "planet", "property"])
def test_a_budget_is_per_something_that_calls_have(per: str) -> None:
    with pytest.raises(BadPolicyError, match="per"):
        budget_from({"name": "x", "per": per, "limit_nanousd": 1})


async def test_what_was_refused_is_recorded_with_the_model_it_was_for(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate(limits={"rates": "1;w=3600;s=model"})
    for _ in range(2):
        await call(gate, CHAT, key="sk-x")
    await gate.aclose()

    assert [(each.status, each.model_requested) for each in log.records] == [
        (200, "gpt-4o"),
        (429, "gpt-4o"),
    ]


async def test_what_is_reserved_is_what_the_largest_of_its_bodies_allows(
    make_gate: MakeGate,
) -> None:
    gate = make_gate()
    entry = {"target-url": "https://api.openai.com", "onCodes": [500]}
    large = entry | {"bodyKeyOverride": {"max_tokens": 900_000}}
    policy = {"LLMGate-RateLimit-Policy": "1000000;w=60;u=token"}
    plain = await small(gate, **policy)
    exchange = await small(gate, **policy, **{"LLMGate-Fallbacks": json.dumps([entry, large])})
    await gate.aclose()

    assert int(plain.headers["llmgate-ratelimit-remaining"]) > 900_000
    # 900,000 were held for this call until it was over.
    assert 0 < int(exchange.headers["llmgate-ratelimit-remaining"]) < 100_000
