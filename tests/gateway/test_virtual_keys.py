"""Virtual keys and stored provider keys, from the key's making to the provider's door."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from asgi_llmgate.api.models import ImportedKey, NewKey, NewProviderKey
from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.core.virtual_keys import mint
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.types import KeyScope
from tests.asgi import CHAT, Exchange, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import StubUpstream

OLD, NEW = "0f" * 8 + "a1b2c3d4e5f60718" * 3, "7e" * 8 + "192a3b4c5d6e7f80" * 3
HELICONE = "sk-helicone-4fj3k2l-9dk2j1x-a8s7d6f-p0o9i8u"
POOLED, STORED = "sk-pooled-0123456789", "sk-stored-9876543210"


@pytest.fixture
async def gate(make_gate: MakeGate) -> AsyncIterator[LLMGate]:
    gate = make_gate(secret_key=OLD, providers={"openai": {"api_key": POOLED}})
    yield gate
    await gate.aclose()


async def make(gate: LLMGate, **fields: Any) -> str:
    """Make a key; return its token."""
    _, token = await gate.control.keys.create(NewKey(**{"name": "laptop", **fields}))
    return token


async def store(gate: LLMGate, key: str = STORED, provider: str = "openai", **fields: Any) -> str:
    wish = NewProviderKey(provider=provider, key=SecretStr(key), **fields)
    return (await gate.control.provider_keys.add(wish)).id


def code(exchange: Exchange) -> str | None:
    return None if exchange.status == 200 else str(exchange.json()["error"]["code"])


def sent_keys(upstream: StubUpstream) -> list[str]:
    """Return the provider keys of the calls, oldest first."""
    headers = [dict(request.headers) for request in upstream.requests]
    return [found[b"authorization"].decode().removeprefix("Bearer ") for found in headers]


def forget(gate: LLMGate) -> None:
    """Make the next call ask the store, as time would."""
    ring = gate._auth.keyring
    assert ring is not None
    ring._asked_at = -1e9


# --- what it may use


async def test_a_key_has_rates_of_its_own_that_keys_below_it_use_up(gate: LLMGate) -> None:
    parent, top = await gate.control.keys.create(NewKey(name="team", rates="3;w=3600"))
    left = await make(gate, name="left", parent=parent.kid, rates="1;w=3600")
    right = await make(gate, name="right", parent=parent.kid)
    other = await make(gate, name="other", tenant="team")
    first, second = await call(gate, CHAT, key=left), await call(gate, CHAT, key=left)
    statuses = [(await call(gate, CHAT, key=key)).status for key in (right, top, right, top, other)]

    assert (first.status, second.status) == (200, 429)
    assert first.headers["llmgate-ratelimit-limit"] == "1"
    assert "1 request in 3600 s (for this key)" in second.json()["error"]["message"]
    # What the other below it used counts, what was refused does not.
    assert statuses == [200, 200, 429, 429, 200]


async def test_a_key_may_have_a_limit_for_each_of_its_users(gate: LLMGate) -> None:
    key = await make(gate, rates="1;w=3600;s=user")
    statuses = [
        (await call(gate, {**CHAT, "user": user}, key=key)).status for user in ("a", "a", "b")
    ]

    assert statuses == [200, 429, 200]


@pytest.mark.parametrize("rates", ["0;w=60", "5", "5;w=60;s=all", ",".join(["5;w=60"] * 17)])
def test_rates_that_say_nothing_are_no_keys_rates(rates: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        NewKey(name="laptop", rates=rates)


# --- whose call it is


async def test_a_virtual_key_calls_with_the_pooled_key(
    gate: LLMGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    token = await make(gate, tenant="acme", user_id="ann")
    exchange = await call(gate, key=token)
    (record,) = log.records

    assert exchange.status == 200
    assert (record.tenant, record.principal_kind) == ("acme", "key")
    assert record.principal_id == token.split("_")[1]
    assert (record.user_id, record.user_trust) == ("ann", "verified")
    assert sent_keys(upstream) == [POOLED]
    assert token not in str(upstream.requests)


@pytest.mark.parametrize("header", ["LLMGate-Auth", "Helicone-Auth"])
async def test_a_virtual_key_may_come_beside_a_provider_key(
    gate: LLMGate, upstream: StubUpstream, header: str
) -> None:
    token = await make(gate)
    exchange = await call(gate, key="sk-my-own", headers={header: f"Bearer {token}"})

    assert exchange.status == 200
    assert sent_keys(upstream) == ["sk-my-own"]


async def test_two_keys_without_a_user_never_share_one(gate: LLMGate, log: MemoryLogSink) -> None:
    for _ in range(2):
        assert (await call(gate, key=await make(gate, tenant="acme"))).status == 200
    users = [record.user_id for record in log.records]

    assert len({None, *users}) == 3
    assert users == [f"svc:{record.principal_id}" for record in log.records]


async def test_the_first_key_ends_pass_through(make_gate: MakeGate) -> None:
    gate = make_gate()
    before = await call(gate, key="sk-my-own")
    token = await make(gate)
    forget(gate)
    after = await call(gate, key="sk-my-own")
    known = await call(gate, key="sk-my-own", headers={"LLMGate-Auth": token})
    await gate.aclose()

    assert (before.status, after.status, known.status) == (200, 401, 200)


async def test_without_keys_no_store_is_made(make_gate: MakeGate) -> None:
    gate = make_gate()
    await gate.startup()
    await call(gate, key="sk-my-own")
    await call(gate, key="lg_junk")
    await gate.aclose()

    assert not list(gate.settings.data_dir.glob("control*"))


async def test_static_keys_go_on_working(make_gate: MakeGate) -> None:
    gate = make_gate(keys={"house": "house-key-0123456789"}, providers={"openai": {"api_key": "s"}})
    await make(gate)

    assert (await call(gate, key="house-key-0123456789")).status == 200
    await gate.aclose()


async def test_revoked_expired_and_unknown_are_told_apart_by_their_holder_only(
    gate: LLMGate,
) -> None:
    token = await make(gate)
    kid = token.split("_")[1]
    forged = token[:14] + token[14:57][::-1] + token[57:]
    await gate.control.keys.revoke(kid)

    assert code(await call(gate, key=token)) == "key_revoked"
    assert code(await call(gate, key=forged)) == "invalid_key"


async def test_a_rotated_key_stays_who_it_was(gate: LLMGate, log: MemoryLogSink) -> None:
    old = await make(gate)
    _, new = await gate.control.keys.rotate(old.split("_")[1], 3600)
    for token in (old, new):
        assert (await call(gate, key=token)).status == 200
    await gate.control.keys.rotate(old.split("_")[1], 0)
    forget(gate)

    assert len({record.principal_id for record in log.records}) == 1
    assert code(await call(gate, key=old)) == "invalid_key"
    assert code(await call(gate, key=new)) == "key_expired"


@pytest.mark.parametrize("header", ["Authorization", "Helicone-Auth", "LLMGate-Auth"])
async def test_an_imported_key_goes_on_working_and_is_sent_to_nobody(
    gate: LLMGate, upstream: StubUpstream, header: str
) -> None:
    wish = ImportedKey(name="moved", secret=SecretStr(HELICONE))
    await gate.control.keys.import_(wish)
    exchange = await call(gate, headers={header: f"Bearer {HELICONE}"})

    assert exchange.status == 200
    assert sent_keys(upstream) == [POOLED]
    assert HELICONE not in str([list(request.headers) for request in upstream.requests])


# --- what it may do


RESTRICTED = {"models": ["gpt-4o", "claude-*"]}


@pytest.mark.parametrize(
    ("fields", "path", "body", "allowed"),
    [
        (RESTRICTED, "/v1/chat/completions", CHAT, True),
        (RESTRICTED, "/v1/chat/completions", {**CHAT, "model": "openai/gpt-4o"}, True),
        (RESTRICTED, "/v1/chat/completions", {**CHAT, "model": "gpt-4o/openai"}, True),
        (RESTRICTED, "/v1/chat/completions", {**CHAT, "model": "gpt-4o-mini"}, False),
        (RESTRICTED, "/v1/chat/completions", {**CHAT, "models": ["o3"]}, False),
        (RESTRICTED, "/v1/chat/completions", b'{"model":"gpt-4o","Model":"o3"}', False),
        (RESTRICTED, "/v1/chat/completions", b'{"model":"gpt-4o","\\u006dodel":"o3"}', False),
        (RESTRICTED, "/providers/openai/v1/chat/completions", CHAT, True),
        (RESTRICTED, "/providers/openai/v1/chat/completions", {**CHAT, "model": "o3"}, False),
        (RESTRICTED, "/providers/openai/v1/unheard/of", CHAT, False),
        (RESTRICTED, "/v1/audio/transcriptions", b"--x", False),
        (RESTRICTED, "/v1beta/models/gemini-3:generateContent", {"model": "gpt-4o"}, False),
        ({"providers": ["openai"]}, "/v1/chat/completions", CHAT, True),
        ({"providers": ["anthropic"]}, "/v1/chat/completions", CHAT, False),
        ({"providers": ["openai"]}, "/v1/chat/completions", {"model": "groq/x"}, False),
        ({"routes": ["/v1/chat/*"]}, "/v1/chat/completions", CHAT, True),
        ({"routes": ["/v1/chat/*"]}, "/chat/completions", CHAT, True),
        ({"routes": ["/v1/chat/*"]}, "/v1/embeddings", CHAT, False),
        ({"routes": ["/v1/chat/*"]}, "/providers/openai/v1/chat/completions", CHAT, False),
        ({"scopes": ["read"]}, "/v1/chat/completions", CHAT, False),
        ({"scopes": ["ingest"]}, "/v1/chat/completions", CHAT, False),
    ],
)
async def test_a_key_does_what_it_may_and_no_more(
    gate: LLMGate,
    upstream: StubUpstream,
    fields: dict[str, Any],
    path: str,
    body: Any,
    *,
    allowed: bool,
) -> None:
    token = await make(gate, **fields)
    exchange = await call(gate, body, path=path, headers={"LLMGate-Auth": token})

    assert exchange.status == (200 if allowed else 403)
    assert len(upstream.requests) == allowed


async def test_lists_of_models_are_open_to_restricted_keys(gate: LLMGate) -> None:
    token = await make(gate, **RESTRICTED)

    assert (await call(gate, b"", path="/v1/models", method="GET", key=token)).status == 200


async def test_the_model_that_is_paid_for_cannot_hide_the_one_that_is_called(
    gate: LLMGate,
) -> None:
    token = await make(gate, **RESTRICTED)
    exchange = await call(
        gate, {**CHAT, "model": "o3"}, key=token, headers={"LLMGate-Model-Override": "gpt-4o"}
    )

    assert code(exchange) == "forbidden"


async def test_the_cache_answers_no_key_that_may_not_ask(make_gate: MakeGate) -> None:
    """Same tenant, same request; the one key was allowed it, the other is not."""
    gate = make_gate(
        cache={"enabled": True}, providers={"openai": {"api_key": POOLED}}, secret_key=OLD
    )
    gate._given_cache_store = MemoryCacheStore()
    wide = await make(gate, tenant="acme")
    narrow = await make(gate, tenant="acme", models=["o3"])
    first, second = [await call(gate, key=wide) for _ in range(2)]
    refused = await call(gate, key=narrow)
    await gate.aclose()

    assert (first.headers["llmgate-cache"], second.headers["llmgate-cache"]) == ("MISS", "HIT")
    assert code(refused) == "forbidden"


async def test_a_header_cannot_lead_a_restricted_key_elsewhere(gate: LLMGate) -> None:
    token = await make(gate, providers=["openai"])
    exchange = await call(gate, key=token, headers={"LLMGate-Provider": "groq"})

    assert code(exchange) == "forbidden"


async def test_a_child_loses_what_its_parent_loses(gate: LLMGate) -> None:
    """Issued within the rights of its parent; somebody narrows the parent afterwards."""
    parent = await make(gate, name="parent", models=["gpt-4o", "o3"])
    child = await make(gate, name="child", parent=parent.split("_")[1], models=["gpt-4o", "o3"])
    assert (await call(gate, {**CHAT, "model": "o3"}, key=child)).status == 200
    file = gate.settings.data_dir / "control.sqlite"
    with sqlite3.connect(file) as database:
        database.execute(
            "UPDATE llmgate_keys SET models = ?, version = 9 WHERE name = 'parent'",
            [json.dumps(["gpt-4o"])],
        )
        database.execute("UPDATE llmgate_control SET version = 9")
    database.close()
    forget(gate)

    assert code(await call(gate, {**CHAT, "model": "o3"}, key=child)) == "forbidden"
    assert (await call(gate, key=child)).status == 200


# --- provider keys at rest


async def test_a_stored_key_pays_for_known_callers_only(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(secret_key=OLD, auth={"mode": "passthrough"})
    await store(gate)
    token = await make(gate)
    known = await call(gate, key=token)
    unknown = await call(gate)
    own = await call(gate, key="sk-my-own")
    await gate.aclose()

    assert (known.status, code(unknown), own.status) == (200, "provider_key_missing", 200)
    assert sent_keys(upstream) == [STORED, "sk-my-own"]


async def test_a_tenants_own_provider_key_is_used_by_nobody_else(
    gate: LLMGate, upstream: StubUpstream
) -> None:
    await store(gate, tenant="acme")
    acme, other = await make(gate, tenant="acme"), await make(gate, tenant="other")
    for _ in range(5):
        for token in (acme, other):
            assert (await call(gate, key=token)).status == 200

    assert sent_keys(upstream) == [STORED, POOLED] * 5


async def test_files_of_a_pooled_key_are_closed_as_soon_as_there_are_virtual_keys(
    gate: LLMGate,
) -> None:
    token = await make(gate, tenant="acme")
    shared = await call(gate, b"", path="/v1/files", method="GET", key=token)
    await store(gate, tenant="acme")
    forget(gate)
    own = await call(gate, b"", path="/v1/files", method="GET", key=token)

    assert code(shared) == "forbidden"
    assert own.status == 200


SWAP = """
    UPDATE llmgate_provider_keys SET envelope =
        (SELECT envelope FROM llmgate_provider_keys WHERE provider = 'groq')
    WHERE provider = 'anthropic'
"""


@pytest.mark.parametrize(
    "edit",
    [
        SWAP,
        "UPDATE llmgate_provider_keys SET provider = 'mistral' WHERE provider = 'anthropic'",
        "UPDATE llmgate_provider_keys SET tenant = 'other' WHERE provider = 'anthropic'",
        "UPDATE llmgate_provider_keys SET version = 2 WHERE provider = 'anthropic'",
        "UPDATE llmgate_provider_keys SET id = 'pk_x' WHERE provider = 'anthropic'",
        "UPDATE llmgate_provider_keys SET envelope = x'00' WHERE provider = 'anthropic'",
    ],
    ids=["swapped", "provider", "tenant", "version", "id", "cut"],
)
async def test_an_envelope_that_was_moved_is_not_used(
    gate: LLMGate, upstream: StubUpstream, edit: str
) -> None:
    await store(gate, "sk-one-0123456789", "anthropic")
    await store(gate, "sk-two-0123456789", "groq")
    token = await make(gate, tenant="other")
    with sqlite3.connect(gate.settings.data_dir / "control.sqlite") as database:
        database.execute(edit)
    database.close()
    for model in ("anthropic/claude-sonnet-4-6", "mistral/x"):
        exchange = await call(
            gate, {**CHAT, "model": model}, key=token, headers={"LLMGate-Provider": model[:7]}
        )
        assert exchange.status != 200
    message = await call(
        gate, {"model": "claude-sonnet-4-6", "messages": []}, path="/v1/messages", key=token
    )
    rows = await gate.control.provider_keys.all()

    assert message.status == 401
    assert upstream.requests == []
    assert sorted(usable for _, usable in rows) == [False, True]


# --- another secret key


async def test_the_secret_key_is_replaced_while_calls_go_on(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    """Old gateways, then gateways that know both, then new ones: no call fails, none is lost."""
    first = make_gate(secret_key=OLD)
    used, unused = await make(first, name="a"), await make(first, name="b")
    await first.control.keys.import_(ImportedKey(name="moved", secret=SecretStr(HELICONE)))
    await store(first)
    gates = {
        "old": first,
        "old, new": make_gate(secret_key=f"{OLD},{NEW}"),
        "new, old": make_gate(secret_key=f"{NEW},{OLD}"),
        "old, new again": make_gate(secret_key=f"{OLD},{NEW}"),
        "new, old again": make_gate(secret_key=f"{NEW},{OLD}"),
    }
    for gate in gates.values():
        for token in (used, HELICONE):
            assert (await call(gate, key=token)).status == 200
    last = gates["new, old again"]
    assert await last.control.keys.on_other_secrets() == 1  # the one that was not used
    assert await last.control.provider_keys.reseal() == 1
    assert await last.control.provider_keys.reseal() == 0
    after = make_gate(secret_key=NEW)
    for token in (used, HELICONE):
        assert (await call(after, key=token)).status == 200

    assert code(await call(after, key=unused)) == "invalid_key"
    assert set(sent_keys(upstream)) == {STORED}
    for gate in (*gates.values(), after):
        await gate.aclose()


async def test_a_data_folder_can_be_moved_with_its_secret(
    make_gate: MakeGate, tmp_path: Path
) -> None:
    first = make_gate()
    token = await make(first)
    await first.aclose()
    shutil.copytree(first.settings.data_dir, tmp_path / "copy")
    shutil.rmtree(first.settings.data_dir)
    shutil.move(tmp_path / "copy", first.settings.data_dir)
    second = make_gate(providers={"openai": {"api_key": POOLED}})

    assert (await call(second, key=token)).status == 200
    await second.aclose()


async def test_a_gateway_starts_without_its_store_and_lets_in_whom_it_needs_no_store_for(
    make_gate: MakeGate, tmp_path: Path, upstream: StubUpstream
) -> None:
    gate = make_gate(
        database_url=f"postgresql://me@/x?host={tmp_path}",
        secret_key=OLD,
        keys={"house": "house-key-0123456789"},
        providers={"openai": {"api_key": POOLED}},
    )
    await gate.startup()
    alive = await call(gate, b"", path="/healthz", method="GET")
    static = await call(gate, key="house-key-0123456789")
    house = {"LLMGate-Auth": "house-key-0123456789"}
    refused = [
        await call(gate),
        await call(gate, key=mint("0000000000", bytes(32))),
        await call(gate, key=HELICONE),
        await call(gate, headers={"Helicone-Auth": HELICONE}),
        await call(gate, key=HELICONE, headers=house),  # may be imported, so sent to nobody
    ]
    await gate.aclose()

    assert (alive.status, static.status) == (200, 200)
    assert [exchange.status for exchange in refused] == [503] * 5
    assert sent_keys(upstream) == [POOLED]


async def test_scopes_of_keys_are_those_of_the_type() -> None:
    assert {scope.value for scope in KeyScope} == {"call", "ingest", "read"}
