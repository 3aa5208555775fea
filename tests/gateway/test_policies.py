"""Policies in the gateway: from code and settings, in front of everything that reads headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asgi_llmgate import ConfigurationError, LLMGate, Principal, PrincipalKind
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.cli import cli
from asgi_llmgate.core.policy import RoutePolicy
from asgi_llmgate.keyfile import admin_token
from asgi_llmgate.settings import load_settings
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import StubUpstream

KEY = "lg_policies_0123456789"
TOML = """
[[policies]]
path = "/v1/chat/completions"
methods = ["POST"]
default = { Session-Name = "support", Property-Feature = "chat" }
force = { Omit-Request = true, RateLimit-Policy = "900;w=60;s=user,50;u=concurrent" }
forbid = ["Target-URL"]
require = ["User-Id"]
models = ["gpt-4o*", "anthropic/claude-*"]
guarded = true

[[policies]]
path = "*"
providers = []
"""


@pytest.fixture
def gate(make_gate: MakeGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LLMGate:
    (tmp_path / "llmgate.toml").write_text(TOML)
    return make_gate(keys=f"shop:{KEY}", providers={"openai": {"api_key": "sk-pooled"}})


ADA = {"llmgate-auth": KEY, "helicone-user-id": "ada"}


async def test_a_policy_of_the_settings_sets_what_is_logged(
    gate: LLMGate, log: MemoryLogSink
) -> None:
    exchange = await call(gate, headers=ADA)

    [record] = log.records
    assert exchange.status == 200
    assert exchange.headers["llmgate-guarded"] == "true"
    assert (record.user_id, record.session_name) == ("ada", "support")
    assert record.properties == {"feature": "chat"}
    assert record.request_body is None


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (CHAT, {"llmgate-user-id": ""}, 400, "needs LLMGate-User-Id"),
        ({**CHAT, "model": "o3"}, {}, 403, "Allowed: gpt-4o*"),
        ({**CHAT, "model": "groq/gpt-4o"}, {}, 200, ""),
        ({**CHAT, "model": "groq/claude-x"}, {}, 403, "Allowed: gpt-4o*"),
        ({**CHAT, "model": "gpt-4o"}, {"llmgate-model-override": "o3"}, 200, ""),
        ({**CHAT, "model": "o3"}, {"llmgate-model-override": "gpt-4o"}, 403, "Allowed"),
        (CHAT, {"helicone-target-url": "https://api.openai.com"}, 403, "LLMGate-Target-URL may"),
    ],
)
async def test_refusals_are_logged_and_name_the_remedy(
    gate: LLMGate,
    log: MemoryLogSink,
    upstream: StubUpstream,
    body: dict[str, Any],
    headers: dict[str, str],
    status: int,
    says: str,
) -> None:
    exchange = await call(
        gate,
        body,
        headers={**ADA, **headers}
        if headers.get("llmgate-user-id") is None
        else {"llmgate-auth": KEY},
        key="gsk-own",
    )

    assert exchange.status == status
    assert log.records[0].status == status
    if status != 200:
        assert says in exchange.json()["error"]["message"]
        assert log.records[0].error_code == "policy_violation"
        assert upstream.requests == []


@pytest.mark.parametrize("path", ["/v1/embeddings", "/providers/openai/v1/chat/completions"])
async def test_a_policy_for_the_rest_closes_it(gate: LLMGate, path: str) -> None:
    exchange = await call(gate, path=path, headers=ADA)

    assert exchange.status == 403
    assert "nothing is allowed here" in exchange.json()["error"]["message"]


async def test_the_policy_holds_below_a_mount_point_and_without_the_version(
    gate: LLMGate,
) -> None:
    mounted = await call(
        gate, path="/llm/chat/completions", root_path="/llm", headers={"llmgate-auth": KEY}
    )

    assert mounted.status == 400


async def test_a_login_is_a_user_id_and_policies_of_code_add_to_those_of_settings(
    tmp_path: Path, upstream: StubUpstream, log: MemoryLogSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(data_dir=tmp_path / "data", policies=[{"path": "*", "providers": []}])
    gate = LLMGate(
        settings,
        authenticate=lambda _: Principal("shop", PrincipalKind.HOST, "7", user_id="ada"),
        policies=[RoutePolicy("/v1/chat/completions", require=["User-Id"], identity="default")],
        upstream=upstream,
        log=log,
    )
    chat = await call(gate, key="sk-own")
    other = await call(gate, path="/v1/embeddings", key="sk-own")

    assert (chat.status, other.status) == (200, 403)
    assert (log.records[0].user_id, log.records[0].user_trust) == ("ada", "verified")


async def test_what_is_refused_shows_in_the_metrics(gate: LLMGate) -> None:
    await call(gate, headers={"llmgate-auth": KEY})
    token = admin_token(None, gate.settings.data_dir)
    metrics = await call(gate, b"", path="/metrics", method="GET", key=token)
    await gate.aclose()

    assert (
        b'llmgate_policy_refusals_total{observed="false",policy="POST /v1/chat/completions",'
        b'reason="require"} 1'
    ) in metrics.body


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[[policies]]\npath = "/v1"\nrequire = ["User-Idd"]', "Did you mean LLMGate-User-Id?"),
        ('[[policies]]\npath = "/v1"\n[[policies]]\npath = "/V1/"', "are for the same calls"),
        ('[[policies]]\npath = "/v1"\nforbids = []', "policies.0.forbids"),
    ],
    ids=["name", "twice", "field"],
)
def test_a_mistake_in_the_file_stops_the_start(
    toml: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llmgate.toml").write_text(toml)

    with pytest.raises(ConfigurationError) as raised:
        load_settings()

    assert says in str(raised.value)
    assert "HINT: " in str(raised.value)


async def test_a_mistake_in_code_stops_the_start(make_gate: MakeGate) -> None:
    gate = make_gate()
    gate._policies = (RoutePolicy("*"), RoutePolicy("/*"))

    with pytest.raises(ConfigurationError, match="HINT: "):
        await gate.startup()


def explain(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["policy", "explain", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_explain_says_what_applies_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llmgate.toml").write_text(TOML)
    refused = explain("post", "/chat/completions", "-H", "Helicone-Session-Name: mine")
    fine = explain("POST", "/v1/chat/completions", "--user", "--model", "gpt-4o")
    other = explain("GET", "/v1/files", "--json")

    assert "policy POST /v1/chat/completions: applies; matches by the whole name" in refused
    assert "policy *: less specific, not used; matches by everything" in refused
    assert "refused: 400 (require) This route needs LLMGate-User-Id" in refused
    assert "default: LLMGate-Session-Name" not in refused
    assert "force: LLMGate-Omit-Request = True" in refused
    assert "force: LLMGate-RateLimit-Policy = 900;w=60;s=user, 50;u=concurrent" in refused
    assert "let through" in fine
    assert '"policy": "*"' in other


@pytest.mark.parametrize(
    ("model", "fallbacks"),
    [
        ("gpt-4o,o3", None),
        ("o3,gpt-4o", None),
        ("gpt-4o", '["openai/o3"]'),
        ("gpt-4o", '[{"provider": "groq", "model": "llama-3.3-70b"}]'),
        (
            "gpt-4o",
            '[{"target-url": "https://api.openai.com", "bodyKeyOverride": {"model": "o3"}}]',
        ),
        (
            "gpt-4o",
            '[{"target-url":"https://openrouter.ai/api/v1","bodyKeyOverride":{"models":["o3"]}}]',
        ),
    ],
    ids=[
        "second of a list",
        "first of a list",
        "fallback",
        "other provider",
        "Helicone's",
        "its list",
    ],
)
async def test_no_fallback_leads_around_a_policy(
    make_gate: MakeGate, upstream: StubUpstream, model: str, fallbacks: str | None
) -> None:
    policy = {"path": "*", "models": ["gpt-4o*"]}
    gate = make_gate(policies=[policy], providers={"openai": {"api_key": "sk-p"}}, keys=f"s:{KEY}")
    headers = {"llmgate-auth": KEY} | ({"llmgate-fallbacks": fallbacks} if fallbacks else {})
    exchange = await call(gate, {**CHAT, "model": model}, headers=headers)

    assert exchange.status == 403
    assert "Allowed: gpt-4o*." in exchange.json()["error"]["message"]
    assert upstream.requests == []


async def test_a_stored_answer_is_not_given_to_who_may_not_have_it(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    policies = [
        {"path": "/v1/chat/completions", "models": ["gpt-4o*"], "force": {"Cache-Enabled": True}}
    ]
    settings: dict[str, Any] = {
        "providers": {"openai": {"api_key": "sk-p"}},
        "keys": f"s:{KEY}",
        "secret_key": "0123456789abcdef" * 4,
    }
    open_gate = make_gate(**settings, cache={"enabled": True})
    closed_gate = make_gate(**settings, policies=policies)
    headers = {"llmgate-auth": KEY}
    stored = await call(open_gate, {**CHAT, "model": "o3"}, headers=headers)
    refused = await call(closed_gate, {**CHAT, "model": "o3"}, headers=headers)
    allowed = [await call(closed_gate, CHAT, headers=headers) for _ in range(2)]

    assert (stored.status, refused.status) == (200, 403)
    assert [each.headers["llmgate-cache"] for each in allowed] == ["MISS", "HIT"]
    await open_gate.aclose()
    await closed_gate.aclose()


async def test_the_record_of_a_refusal_does_not_believe_the_caller_either(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate(keys=f"shop:{KEY}", policies=[{"path": "*", "identity": "require"}])
    exchange = await call(gate, headers={"llmgate-auth": KEY, "llmgate-user-id": "ada"})

    assert exchange.status == 403
    assert (log.records[0].user_id, log.records[0].user_trust) == ("svc:shop", "synthetic")


async def test_two_keys_without_users_never_share_one(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate(keys={"one": "lg_one_0123456789", "two": "lg_two_0123456789"})
    for key, claimed in (("one", ""), ("two", ""), ("two", "svc:one")):
        headers = {"llmgate-auth": f"lg_{key}_0123456789", "llmgate-user-id": claimed}
        await call(gate, {**CHAT, "user": claimed}, headers=headers, key="sk-own")

    assert [record.user_id for record in log.records] == ["svc:one", "svc:two", "svc:two"]


async def test_a_policy_may_say_everything_at_once(make_gate: MakeGate) -> None:
    def login(request: Any) -> Principal | None:
        name = request.headers.get("x-user")
        return Principal("shop", PrincipalKind.HOST, name, user_id=name) if name else None

    policy = {
        "path": "/v1/chat/*",
        "methods": ["POST"],
        "default": {"Property-Feature": "chat"},
        "force": {"Omit-Request": True},
        "forbid": ["Target-URL"],
        "require": ["User-Id", "Session-Id"],
        "identity": "require",
        "models": ["gpt-4o*"],
        "providers": ["openai"],
        "guarded": True,
    }
    gate = make_gate(
        login,
        keys=f"shop:{KEY}",
        policies=[policy],
        providers={"openai": {"api_key": "sk-pooled"}},
    )
    session = {"llmgate-session-id": "s"}
    proven = await call(gate, CHAT, headers={"x-user": "ada", **session})
    without = await call(gate, CHAT, headers={"x-user": "ada"})
    word = await call(gate, CHAT, key=KEY, headers={"llmgate-user-id": "ada", **session})

    assert proven.status == 200
    assert (without.status, without.json()["error"]["param"]) == (400, "LLMGate-Session-Id")
    assert word.status == 403
    assert "LLMGate-User-Id is not enough" in word.json()["error"]["message"]
