"""Tokens of a login: who may sign, how, and until when."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from asgi_llmgate.auth import jwt
from asgi_llmgate.errors import (
    AuthenticationError,
    ConfigurationError,
    GatewayError,
    OverloadedError,
)
from asgi_llmgate.protocols import Authenticate
from asgi_llmgate.types import Principal, PrincipalKind
from tests.provider import Answer, Provider

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_790_000_000.0
CLAIMS: dict[str, Any] = {"sub": "ada", "exp": NOW + 600}
ADA = Principal("app", PrincipalKind.HOST, "ada", user_id="ada")


def token(
    claims: dict[str, Any] = CLAIMS, key: Any = SECRET, alg: str = "HS256", **head: Any
) -> str:
    return pyjwt.encode(claims, key, alg, headers=head)


def request(value: str | None, header: str = "authorization") -> HTTPConnection:
    headers = [] if value is None else [(header.encode(), value.encode("latin-1"))]
    return HTTPConnection({"type": "http", "headers": headers})


async def ask(login: Authenticate, value: str | None) -> Principal | None:
    answer = login(request(value))
    assert not isinstance(answer, Principal)
    assert answer is not None
    return await answer


def login(**what: Any) -> Authenticate:
    if "jwks_url" not in what:
        what.setdefault("secret", SECRET)
    return jwt(**{"clock": lambda: NOW, **what})


async def test_a_signed_token_is_a_login() -> None:
    assert await ask(login(), f"Bearer {token()}") == ADA
    assert await ask(login(), f"bearer {token()}") == ADA


@pytest.mark.parametrize(
    "value", [None, "", "Bearer sk-a-key-of-a-provider", "Basic YTpi", "Bearer"]
)
async def test_what_is_no_token_is_none_of_its_business(value: str | None) -> None:
    assert await ask(login(), value) is None


def unsigned(claims: dict[str, Any]) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


@pytest.mark.parametrize(
    "bad",
    [
        unsigned(CLAIMS),
        token(key="x" * 32),
        token(key=SECRET * 2, alg="HS512"),
        token({"sub": "ada"}),
        token({"exp": NOW + 600}),
        token({**CLAIMS, "sub": ""}),
        token({**CLAIMS, "exp": NOW - 61}),
        token({**CLAIMS, "nbf": NOW + 61}),
        token({**CLAIMS, "aud": "another"}),
        token()[:-2],
        "eyJ.e30.x",
    ],
    ids=["none", "key", "alg", "exp", "sub", "empty", "old", "early", "aud", "cut", "junk"],
)
async def test_a_wrong_token_is_refused_and_not_quoted(bad: str) -> None:
    with pytest.raises(AuthenticationError) as raised:
        await ask(login(), f"Bearer {bad}")

    assert bad not in str(raised.value)


async def test_true_is_nobodys_name() -> None:
    with pytest.raises(AuthenticationError, match="names a user"):
        await ask(login(user_claim="member"), f"Bearer {token({**CLAIMS, 'member': True})}")


async def test_an_expired_login_says_so() -> None:
    with pytest.raises(AuthenticationError, match="Log in again") as raised:
        await ask(login(), f"Bearer {token({**CLAIMS, 'exp': NOW - 100})}")

    assert raised.value.code == "key_expired"


async def test_audience_issuer_tenant_and_claim_can_be_chosen() -> None:
    chosen = login(
        audience="shop",
        issuer="https://id",
        user_claim="email",
        tenant=lambda claims: claims["org"],
    )
    claims = {**CLAIMS, "aud": ["shop"], "iss": "https://id", "email": "a@b", "org": "acme"}

    principal = await ask(chosen, f"Bearer {token(claims)}")
    assert principal == Principal("acme", PrincipalKind.HOST, "a@b", user_id="a@b")
    assert await ask(chosen, f"Bearer {token({**claims, 'iss': 'https://other'})}") is None


async def test_a_remembered_token_ends_when_it_expires() -> None:
    now = [NOW]
    remembering = jwt(secret=SECRET, clock=lambda: now[0])
    short = token({**CLAIMS, "exp": NOW + 10})
    assert await ask(remembering, f"Bearer {short}") == ADA
    now[0] = NOW + 71

    with pytest.raises(AuthenticationError):
        await ask(remembering, f"Bearer {short}")


REMEMBERING = login()


@given(st.integers(0, 2**32), st.integers(0, 2**32))
async def test_tokens_that_begin_alike_are_never_one_principal(one: int, other: int) -> None:
    """CVE-2026-35030: an identity was remembered by the first 20 characters of its token."""
    padding = "x" * 200
    names = [str(one), str(other)]
    tokens = [token({"pad": padding, "exp": NOW + 600, "sub": name}) for name in names]
    found = [await ask(REMEMBERING, f"Bearer {each}") for each in tokens]
    forged = tokens[0][:-6] + tokens[1][-6:]

    assert tokens[0][:200] == tokens[1][:200]
    assert [principal and principal.id for principal in found] == names
    if forged != tokens[0]:
        with pytest.raises(AuthenticationError):
            await ask(REMEMBERING, f"Bearer {forged}")


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"secret": SECRET, "jwks_url": "https://id/keys"},
        {"secret": "short"},
        {"secret": SECRET, "algorithms": ["none"]},
        {"secret": SECRET, "algorithms": ["HS256", "RS256"]},
        {"jwks_url": "https://id/keys", "algorithms": ["HS256"]},
        {"jwks_url": "http://id.example.com/keys"},
    ],
    ids=["neither", "both", "short", "none", "mixed", "confusion", "http"],
)
def test_what_could_not_be_safe_stops_the_start(what: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="HINT: "):
        jwt(**what)


# Public keys, served by a real server.

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm: Any = (
        pyjwt.algorithms.RSAAlgorithm if key is not EC else pyjwt.algorithms.ECAlgorithm
    )
    return json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid, **more}  # type: ignore[no-any-return]


@pytest.fixture
def keys(provider: Provider) -> list[dict[str, Any]]:
    published = [public(RSA, "r1"), public(EC, "e1", alg="ES256")]
    provider.default = lambda _: Answer([json.dumps({"keys": published}).encode()])
    return published


async def test_public_keys_are_fetched_once(provider: Provider, keys: list[dict[str, Any]]) -> None:
    remote = login(jwks_url=f"{provider.url}/keys")
    for key, alg, kid in ((RSA, "RS256", "r1"), (EC, "ES256", "e1"), (RSA, "RS256", "r1")):
        assert await ask(remote, f"Bearer {token(key=key, alg=alg, kid=kid)}") == ADA

    assert len(provider.asked) == 1


async def test_a_public_key_is_no_secret_to_sign_with(
    provider: Provider, keys: list[dict[str, Any]]
) -> None:
    """The confusion of algorithms: HS256 with the text of the public key."""
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    import hashlib
    import hmac

    head, body, _ = token(key=SECRET, kid="r1").split(".")
    signature = hmac.digest(pem, f"{head}.{body}".encode(), hashlib.sha256)
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"

    with pytest.raises(AuthenticationError):
        await ask(login(jwks_url=f"{provider.url}/keys"), f"Bearer {forged}")


@pytest.mark.parametrize(
    ("key", "alg", "kid"), [(RSA, "RS256", "e1"), (EC, "ES256", "r1"), (RSA, "RS512", "r1")]
)
async def test_a_key_verifies_only_what_it_is_for(
    provider: Provider, keys: list[dict[str, Any]], key: Any, alg: str, kid: str
) -> None:
    with pytest.raises(AuthenticationError):
        await ask(login(jwks_url=f"{provider.url}/k"), f"Bearer {token(key=key, alg=alg, kid=kid)}")


async def test_a_new_key_is_fetched_and_invented_ones_cost_one_fetch(
    provider: Provider, keys: list[dict[str, Any]]
) -> None:
    now = [NOW]
    remote = jwt(jwks_url=f"{provider.url}/keys", clock=lambda: now[0])
    fresh = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert await ask(remote, f"Bearer {token(key=RSA, alg='RS256', kid='r1')}") == ADA
    keys.append(public(fresh, "r2"))
    for number in range(20):
        with pytest.raises(AuthenticationError):
            await ask(remote, f"Bearer {token(key=fresh, alg='RS256', kid=f'invented-{number}')}")
    now[0] += 31

    assert await ask(remote, f"Bearer {token(key=fresh, alg='RS256', kid='r2')}") == ADA
    assert len(provider.asked) == 2


async def test_old_keys_serve_while_new_ones_cannot_be_had(
    provider: Provider, keys: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    now = [NOW]
    remote = jwt(jwks_url=f"{provider.url}/keys", clock=lambda: now[0])
    assert await ask(remote, f"Bearer {token(key=RSA, alg='RS256', kid='r1')}") == ADA
    provider.default = lambda _: Answer([b"no"], status=500)
    now[0] += 4000
    later = token({**CLAIMS, "exp": NOW + 9000}, key=RSA, alg="RS256", kid="r1")
    with caplog.at_level(logging.ERROR):
        assert await ask(remote, f"Bearer {later}") == ADA

    assert "could not be fetched: status 500" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        Answer([b"x" * 300_000]),
        Answer([b"[]"]),
        Answer([b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "r1"}]}']),
        Answer([b""], status=302, headers={"Location": "https://elsewhere/"}),
    ],
    ids=["large", "no set", "symmetric", "redirect"],
)
async def test_what_is_no_key_set_closes_the_door(provider: Provider, answer: Answer) -> None:
    provider.default = lambda _: answer
    with pytest.raises(OverloadedError):
        await ask(
            login(jwks_url=f"{provider.url}/k"), f"Bearer {token(key=RSA, alg='RS256', kid='r1')}"
        )


def test_errors_are_for_the_caller() -> None:
    assert issubclass(AuthenticationError, GatewayError)
