"""Whose key goes where: over real sockets, with everything a provider received looked at."""

from __future__ import annotations

import anthropic
import openai
import pytest

from tests import wire
from tests.e2e.conftest import Calls
from tests.e2e.keys import (
    CALLER_KEY,
    COOKIE,
    GATEWAY_KEY,
    MESSAGE,
    POOLED_ANTHROPIC_KEY,
    POOLED_KEY,
    post,
)
from tests.provider import Answer, Provider
from tests.servers import Gateway


def test_the_callers_key_is_forwarded_where_nobody_has_a_gateway_key(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    answer = post(gateway, authorization=f"Bearer {CALLER_KEY}")
    record = calls.one()

    assert answer.status_code == 200
    assert provider.last.header("authorization") == f"Bearer {CALLER_KEY}"
    assert record["principal_kind"] == "byok"
    assert CALLER_KEY not in str(record)


def test_two_callers_have_two_tenants_that_last(gateway: Gateway, calls: Calls) -> None:
    for key in ("sk-one", "sk-two", "sk-one"):
        post(gateway, authorization=f"Bearer {key}")
    one, two, again = (record["tenant"] for record in calls.new(3))

    assert one == again != two


def test_an_unknown_helicone_key_is_stripped_and_noted(
    gateway: Gateway, provider: Provider
) -> None:
    answer = post(
        gateway, authorization=f"Bearer {CALLER_KEY}", Helicone_Auth="Bearer sk-helicone-canary"
    )

    assert answer.status_code == 200
    assert "helicone-auth" in answer.headers["llmgate-warnings"].lower()
    assert b"sk-helicone-canary" not in provider.last.everything


def test_what_is_not_for_the_provider_stays_here(gateway: Gateway, provider: Provider) -> None:
    answer = post(
        gateway,
        authorization=f"Bearer {CALLER_KEY}",
        cookie=f"session={COOKIE}",
        connection="keep-alive, x-nominated",
        x_nominated="1",
        proxy_authorization="Basic x",
        te="trailers",
        x_forwarded_for="10.0.0.1",
        x_forwarded_host="internal",
        x_real_ip="10.0.0.1",
        forwarded="for=10.0.0.1",
        LLMGate_User_Id="ada",
        LLMGate_Property_Team="core",
        Helicone_Session_Id="s1",
        openai_organization="org-1",
        openai_beta="assistants=v2",
        idempotency_key="once",
        x_new_header_of_the_sdk="kept",
    )
    names = provider.last.names

    assert answer.status_code == 200
    assert not {name for name in names if name.startswith(("llmgate-", "helicone-", "x-forwarded"))}
    assert not names & {"cookie", "x-nominated", "proxy-authorization", "te", "x-real-ip"}
    assert "forwarded" not in names
    assert provider.last.header("openai-organization") == "org-1"
    assert provider.last.header("openai-beta") == "assistants=v2"
    assert provider.last.header("idempotency-key") == "once"
    assert provider.last.header("x-new-header-of-the-sdk") == "kept"


def test_a_gateway_key_is_exchanged_for_the_pooled_key(
    keyed: Gateway, keyed_calls: Calls, provider: Provider
) -> None:
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=GATEWAY_KEY) as client:
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hello"}]
        )
    record = keyed_calls.one()

    assert provider.last.header("authorization") == f"Bearer {POOLED_KEY}"
    assert GATEWAY_KEY.encode() not in provider.last.everything
    assert (record["tenant"], record["principal_kind"]) == ("app", "key")


def test_the_anthropic_sdk_needs_only_the_gateway_key(keyed: Gateway, provider: Provider) -> None:
    with anthropic.Anthropic(base_url=keyed.url, api_key=GATEWAY_KEY) as client:
        client.messages.create(
            model="claude-sonnet-4-6",
            max_tokens=100,
            messages=[{"role": "user", "content": "hello"}],
        )

    assert POOLED_ANTHROPIC_KEY.encode() in provider.last.everything
    assert GATEWAY_KEY.encode() not in provider.last.everything


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {GATEWAY_KEY}"},
        {"LLMGate_Auth": f"Bearer {GATEWAY_KEY}"},
        {"LLMGate_Auth": GATEWAY_KEY},
        {"Helicone_Auth": f"Bearer {GATEWAY_KEY}"},
    ],
    ids=["authorization", "llmgate-auth bearer", "llmgate-auth", "helicone-auth"],
)
def test_a_gateway_key_is_understood_wherever_it_may_stand(
    keyed: Gateway, provider: Provider, headers: dict[str, str]
) -> None:
    answer = post(keyed, **headers)

    assert answer.status_code == 200
    assert provider.last.header("authorization") == f"Bearer {POOLED_KEY}"
    assert GATEWAY_KEY.encode() not in provider.last.everything


@pytest.mark.parametrize("header", ["x_api_key", "authorization"])
def test_a_gateway_key_in_either_anthropic_header(
    keyed: Gateway, provider: Provider, header: str
) -> None:
    value = GATEWAY_KEY if header == "x_api_key" else f"Bearer {GATEWAY_KEY}"
    answer = post(keyed, "/v1/messages", MESSAGE, **{header: value})

    assert answer.status_code == 200
    assert POOLED_ANTHROPIC_KEY.encode() in provider.last.everything
    assert GATEWAY_KEY.encode() not in provider.last.everything


def test_a_caller_with_a_gateway_key_may_bring_a_provider_key(
    keyed: Gateway, provider: Provider
) -> None:
    answer = post(keyed, LLMGate_Auth=GATEWAY_KEY, authorization=f"Bearer {CALLER_KEY}")

    assert answer.status_code == 200
    assert provider.last.header("authorization") == f"Bearer {CALLER_KEY}"
    assert POOLED_KEY.encode() not in provider.last.everything
    assert GATEWAY_KEY.encode() not in provider.last.everything


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {CALLER_KEY}"},
        {"authorization": "Bearer lg_wrong_key_0123456789"},
        {"LLMGate_Auth": "nonsense"},
        {"LLMGate_Auth": "nonsense", "authorization": f"Bearer {GATEWAY_KEY}"},
    ],
    ids=["nothing", "a provider key only", "a wrong key", "nonsense", "nonsense wins"],
)
def test_a_stranger_reaches_no_provider(
    keyed: Gateway, keyed_calls: Calls, provider: Provider, headers: dict[str, str]
) -> None:
    answer = post(keyed, **headers)
    record = keyed_calls.one()

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_key"
    assert answer.headers["llmgate-error"] == "gateway"
    assert provider.asked == []
    assert (record["status"], record["error_code"]) == (401, "invalid_key")


def test_a_pooled_key_goes_to_its_own_provider_only(keyed: Gateway, provider: Provider) -> None:
    answer = post(keyed, authorization=f"Bearer {GATEWAY_KEY}", LLMGate_Provider="groq")

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "provider_key_missing"
    assert provider.asked == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_pooled_key_is_not_shown(
    keyed: Gateway, keyed_calls: Calls, provider: Provider, status: int
) -> None:
    def echo(_: object) -> Answer:
        message = f"Incorrect API key provided: {POOLED_KEY}"
        headers = {
            "Content-Type": "application/json",
            "WWW-Authenticate": POOLED_KEY,
            "x-ratelimit-remaining-tokens": "5",
        }
        return Answer([wire.dumps({"error": {"message": message}})], status, headers)

    provider.default = echo
    answer = post(keyed, authorization=f"Bearer {GATEWAY_KEY}")
    record = keyed_calls.one()

    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_auth"
    assert POOLED_KEY not in answer.text + str(answer.headers) + str(record)
    assert "x-ratelimit-remaining-tokens" not in answer.headers
    assert record["error_code"] == "upstream_auth"


def test_the_operators_rate_limits_are_not_shown(keyed: Gateway, provider: Provider) -> None:
    headers = {
        "Content-Type": "application/json",
        "x-ratelimit-limit-requests": "10000",
        "anthropic-ratelimit-tokens-remaining": "5",
    }
    provider.script(Answer([wire.chat_body("gpt-4o")], 200, headers))
    answer = post(keyed, authorization=f"Bearer {GATEWAY_KEY}")

    assert answer.status_code == 200
    assert not [name for name in answer.headers if "ratelimit" in name]


def test_a_refusal_of_the_callers_own_key_is_passed_on(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    body = {"error": {"message": f"Incorrect API key provided: {CALLER_KEY}"}}
    provider.script(Answer([wire.dumps(body)], 401))
    answer = post(gateway, authorization=f"Bearer {CALLER_KEY}")

    assert answer.status_code == 401
    assert answer.json() == body
    assert CALLER_KEY not in str(calls.one())
