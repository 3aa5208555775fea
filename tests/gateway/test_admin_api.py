"""The admin API: who may do what, cell by cell from the table of routes, and what it answers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_llmgate.api.models import NewKey
from asgi_llmgate.api.router import API_PREFIX, MAX_BODY_BYTES, AdminApi, AdminCall, AdminRoute
from asgi_llmgate.core.permissions import Permission, permissions_of
from asgi_llmgate.core.virtual_keys import mint
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.keyfile import admin_token
from asgi_llmgate.types import KeyScope
from tests.asgi import Exchange, call
from tests.gateway.conftest import MakeGate

CANARY = "sk-canary-7Qw2xZ91kLmN84vBtYu3"
HELICONE = "sk-helicone-4fj3k2l-9dk2j1x-a8s7d6f-p0o9i8u"


@pytest.fixture
async def gate(make_gate: MakeGate) -> AsyncIterator[LLMGate]:
    gate = make_gate(keys={"house": "house-key-0123456789"})
    yield gate
    await gate.aclose()


def token_of(gate: LLMGate) -> str:
    return admin_token(None, gate.settings.data_dir)


async def ask(
    gate: LLMGate,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = "admin",
    query: str = "",
) -> Exchange:
    sent = b"" if body is None else json.dumps(body).encode()
    token = token_of(gate) if key == "admin" else key
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    path = path if path.startswith("/llmgate") else API_PREFIX + path
    return await call(gate, sent, path=path, method=method, query=query, headers=headers)


async def make(gate: LLMGate, **fields: Any) -> tuple[str, str]:
    """Make a key; return its id and token."""
    exchange = await ask(gate, "POST", "/keys", {"name": "laptop", **fields})
    assert exchange.status == 201, exchange.body
    answer = exchange.json()
    return answer["key"]["kid"], answer["token"]


# --- who may do what

ROLES: dict[str, frozenset[Permission]] = {
    "nobody": frozenset(),
    "junk": frozenset(),
    "stranger": frozenset(),
    "static key": frozenset({Permission.LOG_INGEST, Permission.CACHE_FEEDBACK}),
    "revoked": frozenset(),
    "expired": frozenset(),
    "call": permissions_of([KeyScope.CALL]),
    "ingest": permissions_of([KeyScope.INGEST]),
    "read": permissions_of([KeyScope.READ]),
    "all scopes": permissions_of(KeyScope),
    "admin": frozenset(Permission),
}
STRANGERS = ("nobody", "junk", "stranger", "revoked", "expired")


async def credentials(gate: LLMGate) -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "nobody": None,
        "junk": "lg_junk",
        "stranger": mint("0000000000", bytes(32)),
        "static key": "house-key-0123456789",
        "admin": token_of(gate),
    }
    for scope in KeyScope:
        found[scope.value] = (await make(gate, tenant="acme", scopes=[scope]))[1]
    found["all scopes"] = (await make(gate, tenant="acme", scopes=list(KeyScope)))[1]
    kid, found["revoked"] = await make(gate, tenant="acme", scopes=list(KeyScope))
    await ask(gate, "POST", f"/keys/{kid}/revoke")
    kid, token = await make(gate, tenant="acme", scopes=list(KeyScope))
    await ask(gate, "POST", f"/keys/{kid}/rotate", {"overlap_s": 0})
    found["expired"] = token  # its secret was replaced
    return found


def routes(gate: LLMGate) -> tuple[AdminRoute, ...]:
    return gate._api.routes


async def test_no_role_gets_what_it_has_no_permission_for(gate: LLMGate) -> None:
    """Every role on every route and method; 2xx only where the table says so."""
    tokens = await credentials(gate)
    paths = sorted({route.path for route in routes(gate)})
    table = {(route.method, route.path): route for route in routes(gate)}
    unexpected = []
    asked = 0
    for role, permissions in ROLES.items():
        for path in paths:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "get"):
                route = table.get((method, path))
                asked += 1
                concrete = re.sub(r"\{\w+\}", "0000000000", path)
                status = (await ask(gate, method, concrete, {}, key=tokens[role])).status
                if role in STRANGERS:
                    # Hygiene answers TRACE and the like before anybody asks who calls.
                    fine = status == 401 or (status in (400, 405) and route is None)
                elif route is None:
                    fine = status in (400, 404, 405)
                elif route.permission not in permissions:
                    fine = status == 403
                else:
                    fine = status in (200, 201, 400, 404, 422)
                if not fine:
                    unexpected.append((role, method, path, status))

    assert unexpected == []
    assert asked == len(ROLES) * len(paths) * 8


def test_only_the_admin_token_may_write() -> None:
    writes = {permission for permission in Permission if permission.endswith(":write")}

    assert permissions_of(KeyScope) & writes == frozenset()


@pytest.mark.parametrize(
    "path",
    [
        "/llmgate/api/v1",
        "/llmgate/api/v1/",
        "/llmgate/api/v1/nothing",
        "/llmgate/api/v1x/keys",
        "/llmgate/api/v1/keys/",
        "/llmgate/api/v1/keys/a/b/c",
        "/llmgate/api/v1/KEYS",
        "/llmgate/api/v1/openapixjson",
    ],
)
async def test_strangers_do_not_learn_which_paths_there_are(gate: LLMGate, path: str) -> None:
    assert (await ask(gate, "GET", path, key=None)).status == 401
    assert (await ask(gate, "GET", path)).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "//llmgate/api/v1/keys",
        "/LLMGATE/api/v1/keys",
        "/llmgate//api/v1/keys",
        "/llmgate/./api/v1/keys",
        "/v1/../llmgate/api/v1/keys",
        "/healthz/../llmgate/api/v1/keys",
        "/llmgate/api/v1/keys;x",
        "/llmgate/api/v1/keys\0",
        "/llmgate/api/v1\\keys",
        "@evil/llmgate/api/v1/keys",
        "http://x/llmgate/api/v1/keys",
        "/healthz?/llmgate/api/v1/keys",
    ],
)
@pytest.mark.parametrize("host", ["testserver", "a/?x=", "localhost/healthz?"])
async def test_no_odd_path_or_host_gets_past_the_token(gate: LLMGate, path: str, host: str) -> None:
    await gate.startup()
    for method in ("GET", "POST", "get", "TRACE"):
        headers = [(b"host", host.encode()), (b"content-length", b"2")]
        exchange = await call(gate, b"{}", path=path, method=method, headers=headers)

        assert exchange.status in (400, 401, 404, 405)


async def test_the_admin_token_calls_no_models(gate: LLMGate) -> None:
    exchange = await call(gate, key=token_of(gate))

    assert exchange.status == 401


def answer_nothing(_: AdminCall) -> Any:
    raise AssertionError


@pytest.mark.parametrize("permission", [None, "keys:read", ""])
def test_a_route_without_a_permission_stops_the_start(permission: Any) -> None:
    route = AdminRoute("GET", "/leak", permission, answer_nothing, "Leak.")

    with pytest.raises(ConfigurationError, match="GET /llmgate/api/v1/leak declares no permission"):
        AdminApi([route], token="t", keyring=None)


def test_a_route_is_there_once() -> None:
    route = AdminRoute("GET", "/x", Permission.SELF_READ, answer_nothing, "X.")

    with pytest.raises(ConfigurationError, match="twice"):
        AdminApi([route, route], token="t", keyring=None)


# --- keys


async def test_a_key_is_made_shown_listed_and_revoked(gate: LLMGate) -> None:
    fields = {
        "name": "laptop",
        "tenant": "acme",
        "user_id": "ann",
        "scopes": ["call", "read"],
        "models": ["gpt-4o*"],
        "providers": ["OpenAI"],
        "routes": ["/v1/chat/*"],
        "tags": {"Team": "a"},
        "expires_at": "2099-01-01T00:00:00+02:00",
    }
    made = (await ask(gate, "POST", "/keys", fields)).json()
    kid, key = made["key"]["kid"], made["key"]
    shown = (await ask(gate, "GET", f"/keys/{kid}")).json()
    listed = (await ask(gate, "GET", "/keys")).json()
    revoked = (await ask(gate, "POST", f"/keys/{kid}/revoke")).json()

    assert made["token"].startswith(f"lg_{kid}_")
    assert key["hint"] == made["token"][-11:-7]
    assert {name: key[name] for name in ("name", "tenant", "user_id", "models", "state")} == {
        "name": "laptop",
        "tenant": "acme",
        "user_id": "ann",
        "models": ["gpt-4o*"],
        "state": "active",
    }
    assert (key["providers"], key["tags"]) == (["openai"], {"team": "a"})
    assert key["expires_at"] == "2098-12-31T22:00:00Z"
    assert shown == key
    assert listed == {"keys": [key], "next": None}
    assert revoked["state"] == "revoked"


async def test_lists_come_in_pages(gate: LLMGate) -> None:
    made = sorted([(await make(gate, tenant="acme"))[0] for _ in range(5)])
    await make(gate, tenant="other")
    first = (await ask(gate, "GET", "/keys", query="tenant=acme&limit=3")).json()
    query = f"tenant=acme&limit=3&after={first['next']}"
    second = (await ask(gate, "GET", "/keys", query=query)).json()

    assert [key["kid"] for key in first["keys"] + second["keys"]] == made
    assert second["next"] is None


async def test_two_keys_share_a_tenant_only_if_it_is_named(gate: LLMGate) -> None:
    await make(gate, name="shop")

    assert (await ask(gate, "POST", "/keys", {"name": "shop"})).status == 409
    assert (await ask(gate, "POST", "/keys", {"name": "house"})).status == 409  # a static key's
    assert (await ask(gate, "POST", "/keys", {"name": "x", "tenant": "shop"})).status == 201


@pytest.mark.parametrize(
    ("child", "why"),
    [
        ({"scopes": ["call", "read"]}, "no scope read"),
        ({"models": ["o3"]}, "does not allow 'o3'"),
        ({}, "restricted to the models"),
        ({"models": ["gpt-4o"], "tenant": "other"}, "in the tenant"),
        ({"models": ["gpt-4o"], "user_id": "bob"}, "another user"),
        ({"models": ["gpt-4o"], "expires_at": "2099-01-01T00:00:00Z"}, "expires before"),
    ],
)
async def test_a_child_is_not_made_with_more_than_its_parent(
    gate: LLMGate, child: dict[str, Any], why: str
) -> None:
    parent, _ = await make(
        gate,
        tenant="acme",
        models=["gpt-4o*"],
        user_id="ann",
        expires_at="2098-01-01T00:00:00Z",
    )
    exchange = await ask(gate, "POST", "/keys", {"name": "child", "parent": parent, **child})

    assert exchange.status == 422
    assert why in exchange.json()["error"]["message"]


async def test_a_child_inherits_what_it_does_not_name(gate: LLMGate) -> None:
    parent, _ = await make(gate, tenant="acme", user_id="ann", expires_at="2098-01-01T00:00:00Z")
    exchange = await ask(gate, "POST", "/keys", {"name": "child", "parent": parent})
    key = exchange.json()["key"]

    assert (key["tenant"], key["user_id"]) == ("acme", "ann")
    assert key["expires_at"] == "2098-01-01T00:00:00Z"


async def test_a_revoked_parent_has_no_more_children_and_depth_has_an_end(gate: LLMGate) -> None:
    parent, _ = await make(gate)
    for _ in range(7):
        made = await ask(gate, "POST", "/keys", {"name": "child", "parent": parent})
        assert made.status == 201
        parent = made.json()["key"]["kid"]
    too_deep = await ask(gate, "POST", "/keys", {"name": "child", "parent": parent})
    await ask(gate, "POST", f"/keys/{parent}/revoke")
    refused = await ask(gate, "POST", "/keys", {"name": "child", "parent": parent})

    assert "deep" in too_deep.json()["error"]["message"]
    assert refused.status == 422


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/keys", {}, 422),
        ("/keys", {"name": ""}, 422),
        ("/keys", {"name": "a\nb"}, 422),
        ("/keys", {"name": "a" * 129}, 422),
        ("/keys", {"name": "x", "surprise": 1}, 422),
        ("/keys", {"name": "x", "scopes": ["admin"]}, 422),
        ("/keys", {"name": "x", "scopes": []}, 422),
        ("/keys", {"name": "x", "models": []}, 422),
        ("/keys", {"name": "x", "models": ["a*b"]}, 422),
        ("/keys", {"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, 422),
        ("/keys", {"name": "x", "expires_at": "2099-01-01T00:00:00"}, 422),
        ("/keys", {"name": "x", "tenant": "byok:1"}, 422),
        ("/keys", {"name": "x", "user_id": "svc:1"}, 422),
        ("/keys", {"name": "x", "tenant": "*"}, 422),
        ("/keys", {"name": "x", "parent": "0000000000"}, 404),
        ("/keys/0000000000/revoke", None, 404),
        ("/keys/0000000000/rotate", None, 404),
        ("/keys/import", {"name": "x", "secret": "sk-12345678"}, 422),
        ("/provider-keys", {"provider": "nobody", "key": "sk-12345678"}, 422),
        ("/provider-keys", {"provider": "openai", "key": "sk-with blank"}, 422),
        ("/provider-keys", {"provider": "openai", "key": "short"}, 422),
        ("/provider-keys", {"provider": "openai", "key": "sk-12345678", "weight": 0}, 422),
    ],
)
async def test_what_cannot_be_is_refused_with_a_reason(
    gate: LLMGate, path: str, body: Any, status: int
) -> None:
    exchange = await ask(gate, "POST", path, body)

    assert exchange.status == status, exchange.body
    assert exchange.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"\xff", b"{" * 100])
async def test_a_body_that_is_no_object_is_a_400(gate: LLMGate, body: bytes) -> None:
    exchange = await call(gate, body, path=f"{API_PREFIX}/keys", key=token_of(gate))

    assert exchange.status == 400


async def test_bodies_are_bounded(gate: LLMGate) -> None:
    body = {"name": "x" * MAX_BODY_BYTES}

    assert (await ask(gate, "POST", "/keys", body)).status == 413


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=-1", "limit=x", "surprise=1"])
async def test_a_query_that_means_nothing_is_a_400(gate: LLMGate, query: str) -> None:
    assert (await ask(gate, "GET", "/keys", query=query)).status == 400


async def test_a_wrong_method_names_the_right_ones(gate: LLMGate) -> None:
    exchange = await ask(gate, "DELETE", "/keys")

    assert exchange.status == 405
    assert exchange.headers["allow"] == "GET, POST"


async def test_an_unauthorised_answer_says_how_to_authenticate(gate: LLMGate) -> None:
    exchange = await ask(gate, "GET", "/keys", key=None)

    assert exchange.headers["www-authenticate"] == "Bearer"
    assert "admin token" in exchange.json()["error"]["message"]


async def test_a_key_can_ask_who_it_is(gate: LLMGate) -> None:
    kid, token = await make(gate, tenant="acme", scopes=["read"], user_id="ann")
    mine = (await ask(gate, "GET", "/whoami", key=token)).json()
    admins = (await ask(gate, "GET", "/whoami")).json()

    assert (mine["kind"], mine["kid"], mine["tenant"]) == ("key", kid, "acme")
    assert mine["permissions"] == ["docs:read", "self:read"]
    assert (admins["kind"], admins["kid"]) == ("admin", None)


# --- provider keys


async def test_a_provider_key_is_stored_replaced_and_removed(gate: LLMGate) -> None:
    body = {"provider": "open_ai", "key": CANARY}
    made = (await ask(gate, "POST", "/provider-keys", body | {"provider": "openai"})).json()
    twice = await ask(gate, "POST", "/provider-keys", {"provider": "openai", "key": CANARY})
    listed = (await ask(gate, "GET", "/provider-keys")).json()["provider_keys"]
    replaced = await ask(
        gate, "PUT", f"/provider-keys/{made['id']}", {"key": CANARY + "x", "weight": 3}
    )
    removed = await ask(gate, "DELETE", f"/provider-keys/{made['id']}")
    gone = await ask(gate, "DELETE", f"/provider-keys/{made['id']}")

    assert twice.status == 409
    assert listed == [made]
    assert (made["provider"], made["usable"], made["tenant"]) == ("openai", True, "*")
    assert replaced.json()["weight"] == 3
    assert (removed.status, gone.status) == (200, 404)


async def test_no_answer_and_no_log_line_shows_a_secret(
    gate: LLMGate, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        _, token = await make(gate)
        kid, _ = await make(gate, tenant="acme")
        answers = [
            await ask(gate, "POST", "/keys/import", {"name": "h", "secret": HELICONE}),
            await ask(gate, "POST", "/keys/import", {"name": "i", "secret": HELICONE}),
            await ask(gate, "POST", "/keys/import", {"name": "h", "secret": [CANARY]}),
            await ask(gate, "POST", "/keys/import", {"name": CANARY + "\n", "secret": CANARY}),
            await ask(gate, "POST", "/provider-keys", {"provider": "openai", "key": CANARY}),
            await ask(gate, "POST", "/provider-keys", {"provider": "openai", "key": CANARY}),
            await ask(gate, "POST", "/provider-keys", {"provider": [CANARY], "key": {"a": CANARY}}),
            await ask(gate, "POST", "/provider-keys", {"provider": "openai", CANARY[:8]: CANARY}),
            await ask(gate, "GET", "/keys", key=CANARY),
            await ask(gate, "GET", f"/keys/{kid}"),
            await ask(gate, "GET", "/keys"),
            await ask(gate, "GET", "/provider-keys"),
        ]
    text = b"".join(answer.body for answer in answers).decode() + caplog.text
    text += repr(NewKey(name="x")) + repr(await gate.control.find(kid)) + repr(gate.control)

    for secret in (CANARY, HELICONE, token, token_of(gate)):
        assert secret not in text
        assert secret[12:-8] not in text


# --- the document


async def test_the_document_describes_exactly_the_routes_there_are(gate: LLMGate) -> None:
    document = (await ask(gate, "GET", "/openapi.json")).json()
    described = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    table = {(route.method, API_PREFIX + route.path): route for route in routes(gate)}

    assert described.keys() == table.keys()
    for name, operation in described.items():
        assert operation["x-permission"] == table[name].permission
        assert ("requestBody" in operation) == (table[name].request is not None)
    ids = [operation["operationId"] for operation in described.values()]
    assert len(set(ids)) == len(ids)


async def test_the_document_refers_to_nothing_that_is_not_in_it(gate: LLMGate) -> None:
    document = (await ask(gate, "GET", "/openapi.json")).json()
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))

    assert references
    assert references <= document["components"]["schemas"].keys()
    assert document["openapi"].startswith("3.1")
