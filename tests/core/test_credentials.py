from __future__ import annotations

import json
import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.credentials import (
    Credentials,
    StaticKeys,
    admin_token_digest,
    byok_tenant,
    check_admin_token,
    find_credentials,
    has_gateway_prefix,
    home_of,
    looks_like_jwt,
    without_credentials,
)
from asgi_llmgate.errors import AuthenticationError, InvalidRequestError
from asgi_llmgate.types import Dialect, Principal, PrincipalKind, Route, Secret

SECRET = b"s" * 32
CANARY = "sk-canary-5up3r53cr37"


def found(
    headers: dict[bytes, bytes], dialect: Dialect = Dialect.OPENAI, query: bytes = b""
) -> Credentials:
    return find_credentials(headers, query, dialect)


def shown(credentials: Credentials) -> tuple[dict[str, str], dict[str, str]]:
    """Return the keys of the dialect's headers, and those of other dialects' headers."""
    own, others = (
        {key.header.decode(): key.key.reveal() for key in keys}
        for keys in (credentials.own, credentials.others)
    )
    return own, others


@pytest.mark.parametrize("name", [b"llmgate-auth", b"helicone-auth"])
@pytest.mark.parametrize("value", [b"Bearer k", b"k", b"bearer  k ", b"BEARER\tk"])
def test_a_gateway_key_comes_with_or_without_bearer(name: bytes, value: bytes) -> None:
    credentials = found({name: value})

    assert credentials.explicit == Secret("k")
    assert credentials.is_helicone is (name == b"helicone-auth")


def test_llmgate_auth_comes_before_helicone_auth() -> None:
    credentials = found({b"helicone-auth": b"Bearer h", b"llmgate-auth": b"g"})

    assert credentials.explicit == Secret("g")
    assert not credentials.is_helicone


@pytest.mark.parametrize("value", [b"", b"Bearer", b"Bearer "])
def test_an_empty_gateway_header_is_not_the_same_as_none(value: bytes) -> None:
    assert found({b"llmgate-auth": value}).explicit == Secret("")
    assert found({}).explicit is None


ALL = {b"authorization": b"Bearer a", b"x-api-key": b"x", b"api-key": b"z", b"x-goog-api-key": b"g"}


@pytest.mark.parametrize(
    ("dialect", "own"),
    [
        (Dialect.OPENAI, {"authorization": "a"}),
        (Dialect.ANTHROPIC, {"x-api-key": "x", "authorization": "a"}),
        (Dialect.GEMINI, {"x-goog-api-key": "g", "key": "q", "authorization": "a"}),
        (Dialect.AZURE, {"api-key": "z", "authorization": "a"}),
        (Dialect.BEDROCK, {"authorization": "a"}),
    ],
)
def test_each_dialect_has_its_own_headers_first(dialect: Dialect, own: dict[str, str]) -> None:
    found_own, others = shown(found(ALL, dialect, b"alt=sse&key=q"))

    assert found_own == own
    assert list(found_own) == list(own)
    assert others.keys() == {name.decode() for name in ALL} - own.keys()


@pytest.mark.parametrize(
    "value",
    [b"Basic dXNlcjpwYXNz", b"Token k", b"", b"Bearer", b" "],
)
def test_other_schemes_of_authorization_are_no_key(value: bytes) -> None:
    assert shown(found({b"authorization": value})) == ({}, {})


def test_an_aws_signature_is_refused_with_the_remedy() -> None:
    headers = {b"authorization": b"AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=y"}
    with pytest.raises(AuthenticationError, match="AWS_BEARER_TOKEN_BEDROCK") as caught:
        found(headers)

    assert "AKIA" not in str(caught.value)
    # Who says otherwise who he is may sign as he likes; it goes no further.
    assert shown(found({**headers, b"llmgate-auth": b"k"})) == ({}, {})


def test_a_bare_authorization_is_a_key() -> None:
    assert shown(found({b"authorization": b"k"})) == ({"authorization": "k"}, {})


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer a, Bearer b"},
        {b"authorization": b"Bearer a b"},
        {b"authorization": b"Bearer caf\xe9"},
        {b"x-api-key": b"a,b"},
        {b"x-goog-api-key": b"a\x7f"},
    ],
    ids=str,
)
def test_what_cannot_be_one_key_is_refused_without_being_shown(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidRequestError, match="one key") as caught:
        found(headers)

    name, value = next(iter(headers.items()))
    assert caught.value.param == name.decode().title()
    assert value.decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (b"key=k", "k"),
        (b"alt=sse&key=k", "k"),
        (b"%6bey=k", "k"),
        (b"key=a%2Bb", "a+b"),
        (b"key=k&key=k", "k"),
        (b"monkey=k", None),
        (b"key=", None),
        (b"alt=sse", None),
        (b"\xff\xfe=1", None),
        (b"", None),
    ],
)
def test_the_key_of_a_query_counts_for_gemini(query: bytes, key: str | None) -> None:
    expected = {} if key is None else {"key": key}

    assert shown(found({}, Dialect.GEMINI, query))[0] == expected
    assert shown(found({}, Dialect.OPENAI, query))[0] == {}


def test_two_keys_in_a_query_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="several keys"):
        found({}, Dialect.GEMINI, b"key=a&%6Bey=b")


def test_ignored_headers_hold_no_key() -> None:
    credentials = find_credentials(ALL, b"", Dialect.OPENAI, ignored={b"authorization", b"api-key"})

    assert shown(credentials) == ({}, {"x-api-key": "x", "x-goog-api-key": "g"})


def test_credentials_can_be_taken_out_of_a_request() -> None:
    headers = [(b"host", b"a"), (b"Authorization", b"Bearer a"), (b"x-api-key", b"x")]
    names = {b"authorization", b"key"}

    assert without_credentials(headers, b"a=1&%6bey=k&key=k&b=2", names) == (
        [(b"host", b"a"), (b"x-api-key", b"x")],
        b"a=1&b=2",
    )
    assert without_credentials(headers, b"key=k", {b"x-api-key"}) == (headers[:2], b"key=k")


def test_nothing_found_shows_itself() -> None:
    credentials = found(
        {b"llmgate-auth": CANARY.encode(), b"authorization": b"Bearer " + CANARY.encode()}
    )
    shown = [repr(credentials), str(credentials), f"{credentials}", repr(vars)]
    pickled = pickle.dumps(credentials)

    assert CANARY not in "".join(shown)
    assert CANARY.encode() not in pickled
    with pytest.raises(TypeError):
        json.dumps(credentials.explicit)


# --- keys of the settings


def test_a_configured_key_gives_the_tenant_of_its_name() -> None:
    keys = StaticKeys({"acme": "lg_one", "umbrella": Secret("anything")}, SECRET)

    assert keys.find("lg_one") == Principal(tenant="acme", kind=PrincipalKind.KEY, id="acme")
    assert keys.find("anything") == Principal(
        tenant="umbrella", kind=PrincipalKind.KEY, id="umbrella"
    )
    assert keys.find("lg_two") is None
    assert keys.find("") is None


@pytest.mark.parametrize(
    "keys",
    [
        {"": "k"},
        {"byok:0123456789abcdef": "k"},
        {"acme": ""},
        {"acme": f"{CANARY} x"},
        {"acme": f"{CANARY},x"},
        {"acme": f"{CANARY}é"},
        {"acme": CANARY, "umbrella": CANARY},
    ],
    ids=["no name", "a byok name", "empty", "blank", "comma", "not ASCII", "twice"],
)
def test_an_unfit_key_is_refused_without_being_shown(keys: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        StaticKeys(keys, SECRET)

    assert CANARY not in str(caught.value)


tokens = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=40)


@given(st.text(string.ascii_letters, min_size=200, max_size=400), tokens, tokens)
def test_two_keys_with_a_long_common_beginning_are_two_principals(
    prefix: str, one: str, two: str
) -> None:
    keys = StaticKeys({"one": prefix + one}, SECRET)
    principal = keys.find(prefix + two)

    assert (principal is not None) == (one == two)
    tenants = {byok_tenant(SECRET, "openai", prefix + token) for token in (one, two)}
    assert len(tenants) == len({one, two})


def test_an_unknown_key_is_compared_as_a_known_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, two: bytes) -> bool:
        compared.append((len(one), len(two)))
        return one == two

    monkeypatch.setattr("asgi_llmgate.core.credentials.hmac.compare_digest", compare)
    keys = StaticKeys({"acme": "lg_right"}, SECRET)
    for key in ("lg_right", "lg_wrong", "", "x" * 10_000):
        keys.find(key)

    assert compared == [(32, 32)] * 4


# --- tenants of callers with a provider key only


def test_a_byok_tenant_is_stable_and_tells_nothing() -> None:
    tenant = byok_tenant(SECRET, "openai", CANARY)

    assert tenant == byok_tenant(SECRET, "openai", CANARY)
    assert len(tenant) == len("byok:") + 16
    assert int(tenant.removeprefix("byok:"), 16) >= 0
    assert CANARY not in tenant


def test_another_provider_key_or_secret_is_another_byok_tenant() -> None:
    tenants = {
        byok_tenant(SECRET, "openai", "ab"),
        byok_tenant(SECRET, "openaia", "b"),
        byok_tenant(SECRET, "groq", "ab"),
        byok_tenant(SECRET, "openai", "ac"),
        byok_tenant(b"t" * 32, "openai", "ab"),
    }

    assert len(tenants) == 5


def route(dialect: Dialect, provider: str | None = None) -> Route:
    return Route(dialect, None, "x", "/x", False, provider=provider)


@pytest.mark.parametrize(
    ("headers", "asked", "home"),
    [
        ({}, route(Dialect.OPENAI), "openai"),
        ({}, route(Dialect.ANTHROPIC), "anthropic"),
        ({}, route(Dialect.GEMINI), "google"),
        ({b"llmgate-provider": b" Groq , openai"}, route(Dialect.OPENAI), "groq"),
        ({b"llmgate-provider": b""}, route(Dialect.OPENAI), "openai"),
        ({b"llmgate-provider": b"groq"}, route(Dialect.OPENAI, "mistral"), "mistral"),
    ],
)
def test_a_callers_key_is_for_the_provider_that_the_head_names(
    headers: dict[bytes, bytes], asked: Route, home: str
) -> None:
    assert home_of(headers, asked) == home


# --- shapes


@pytest.mark.parametrize(
    ("key", "expected"),
    [("lg_x", True), ("lg_", True), ("LG_x", False), ("sk-lg_x", False), ("", False)],
)
def test_gateway_keys_have_a_prefix(key: str, expected: bool) -> None:
    assert has_gateway_prefix(key) is expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [("eyJh.eyJz.sig", True), ("eyJh.eyJz", False), ("sk-a.b.c", False), ("", False)],
)
def test_json_web_tokens_have_a_shape(key: str, expected: bool) -> None:
    assert looks_like_jwt(key) is expected


# --- the admin token


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"authorization": b"Bearer t0ken"}, True),
        ({b"authorization": b"bearer  t0ken "}, True),
        ({b"authorization": b"Bearer t0kem"}, False),
        ({b"authorization": b"Bearer t0ke"}, False),
        ({b"authorization": b"Bearer t0kenx"}, False),
        ({b"authorization": b"Basic t0ken"}, False),
        ({b"authorization": b"t0ken"}, False),
        ({b"authorization": b"Bearer \xe9"}, False),
        ({b"authorization": b""}, False),
        ({b"x-api-key": b"t0ken"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_only_the_admin_token_as_bearer_opens_the_admin_plane(
    headers: dict[bytes, bytes], expected: bool
) -> None:
    assert check_admin_token(headers, admin_token_digest(Secret("t0ken"))) is expected


def test_no_token_does_not_pass_for_an_empty_one() -> None:
    assert not check_admin_token({}, admin_token_digest(""))
    assert not check_admin_token({b"authorization": b"Bearer "}, admin_token_digest(""))
