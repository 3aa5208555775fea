"""Logins of Starlette and Django, and users that a server of one's own signs."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection

from asgi_llmgate.auth import sign_user_header, signed_header, starlette_user
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.errors import AuthenticationError, ConfigurationError
from asgi_llmgate.gateway import LLMGate
from tests.asgi import call
from tests.gateway.conftest import MakeGate

KEY = "0123456789abcdef0123456789abcdef"


class Header(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.headers.get("x-user")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


@pytest.fixture
def gate(make_gate: MakeGate) -> LLMGate:
    return make_gate(
        authenticate=[starlette_user(tenant="shop"), signed_header(KEY, tenant="shop")],
        providers={"openai": {"api_key": "sk-pooled"}},
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-user": "ada"}, (200, "ada")),
        ({"x-user": "ada", "cookie": "a=b"}, (403, None)),
        ({"x-user": "ada", "cookie": "a=b", "sec-fetch-site": "same-origin"}, (200, "ada")),
        ({}, (401, None)),
        (sign_user_header("grace", KEY), (200, "grace")),
        (sign_user_header("grace", "x" * 32), (401, None)),
        ({"llmgate-user": "grace"}, (400, None)),
    ],
    ids=["user", "cookie", "same site", "nobody", "signed", "wrong key", "unsigned"],
)
async def test_who_is_logged_in_is_who_calls(
    gate: LLMGate,
    log: MemoryLogSink,
    headers: dict[str, str],
    expected: tuple[int, str | None],
) -> None:
    exchange = await call(AuthenticationMiddleware(gate, backend=Header()), headers=headers)

    assert (exchange.status, log.records[0].user_id) == expected
    if expected[1] is not None:
        assert (log.records[0].tenant, log.records[0].user_trust) == ("shop", "verified")


def test_an_old_signature_is_none() -> None:
    signed = sign_user_header("ada", KEY)["LLMGate-User"]
    login: Any = signed_header(KEY, clock=lambda: time.time() + 400)
    request = HTTPConnection({"type": "http", "headers": [(b"llmgate-user", signed.encode())]})

    with pytest.raises(AuthenticationError, match="not of now"):
        login(request)


async def test_a_signature_with_a_nonce_is_good_for_one_request(gate: LLMGate) -> None:
    headers = sign_user_header("ada", KEY, nonce="once-only")
    first, again = [await call(gate, headers=headers) for _ in range(2)]

    assert (first.status, again.status) == (200, 401)
    assert "used before" in again.json()["error"]["message"]


def test_within_one_request_it_may_be_asked_again() -> None:
    login: Any = signed_header(KEY)
    headers = [
        (name.lower().encode(), value.encode())
        for name, value in sign_user_header("ada", KEY, nonce="once-only").items()
    ]
    scope = {"type": "http", "headers": headers}
    answers = [login(HTTPConnection(scope)) for _ in range(2)]

    assert [answer.user_id for answer in answers] == ["ada", "ada"]
    with pytest.raises(AuthenticationError, match="used before"):
        login(HTTPConnection({"type": "http", "headers": headers}))


def test_a_short_key_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="HINT: "):
        signed_header("short")


async def test_nobody_passes_for_a_key_without_a_user_by_his_name(make_gate: MakeGate) -> None:
    gate = make_gate(
        authenticate=starlette_user(tenant="shop"),
        keys="app:lg_app_0123456789",
        auth={"signing_key": KEY},
        providers={"openai": {"api_key": "sk-pooled"}},
    )
    host = AuthenticationMiddleware(gate, backend=Header())
    login = await call(host, headers={"x-user": "svc:app"})
    signed = await call(host, key="lg_app_0123456789", headers=sign_user_header("svc:app", KEY))

    assert (login.status, signed.status) == (403, 400)
    for refused in (login, signed):
        assert "svc: are reserved" in refused.json()["error"]["message"]
