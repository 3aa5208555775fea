"""What Helicone's front page shows works here: only the URL and the keys are other ones."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests import wire
from tests.e2e.conftest import Calls
from tests.provider import Provider
from tests.servers import Gateway, all_at, running_gateway

GATEWAY_KEY = "lg_test_seed_0123456789abcdef"
PROVIDER_KEY = "sk-of-the-user"


@pytest.fixture(scope="module")
def keyed(provider_server: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = all_at(provider_server.url) | {"LLMGATE_KEYS": f"app:{GATEWAY_KEY}"}
    with running_gateway(tmp_path_factory.mktemp("seed"), env) as gateway:
        yield gateway


@pytest.fixture
def client(keyed: Gateway, provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key=PROVIDER_KEY,
        base_url=f"{keyed.url}/v1",
        default_headers={"Helicone-Auth": f"Bearer {GATEWAY_KEY}"},
    ) as client:
        yield client


def test_the_base_url_and_one_header_are_all_it_takes(
    client: openai.OpenAI, keyed: Gateway, provider: Provider
) -> None:
    calls = Calls(keyed)
    answer = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello world"}]
    )
    record = calls.one()

    assert answer.choices[0].message.content == wire.TEXT
    assert provider.last.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert GATEWAY_KEY.encode() not in provider.last.everything
    assert (record["tenant"], record["principal_kind"]) == ("app", "key")
    assert record["input_tokens"] == wire.INPUT_TOKENS
    assert record["cost_nanousd"] > 0


def test_a_key_of_helicone_itself_does_no_harm_where_no_key_is_asked(
    gateway: Gateway, provider: Provider
) -> None:
    calls = Calls(gateway)
    with openai.OpenAI(
        api_key=PROVIDER_KEY,
        base_url=f"{gateway.url}/v1",
        default_headers={"Helicone-Auth": "Bearer sk-helicone-aaaaaaa-bbbbbbb-ccccccc-ddddddd"},
    ) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello world"}]
        )

    assert answer.parse().choices[0].message.content == wire.TEXT
    assert "helicone-auth" in answer.headers["llmgate-warnings"].lower()
    assert b"helicone" not in provider.last.everything.lower()
    assert calls.one()["principal_kind"] == "byok"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_users_sessions_and_properties_are_recorded(
    client: openai.OpenAI, keyed: Gateway, provider: Provider, stream: bool
) -> None:
    calls = Calls(keyed)
    session = str(uuid.uuid4())
    answer = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Hello world"}],
        stream=stream,
        extra_headers={
            "Helicone-User-Id": "john@doe.com",
            "Helicone-Session-Id": session,
            "Helicone-Session-Path": "/abstract/parent",
            "Helicone-Session-Name": "Course Plan",
            "Helicone-Property-Environment": "production",
            "Helicone-Property-App-Version": "1.2",
        },
    )
    if isinstance(answer, openai.Stream):
        assert "".join(c.choices[0].delta.content or "" for c in answer) == wire.TEXT
    record = calls.one()

    assert record["user_id"] == "john@doe.com"
    assert record["user_trust"] == "asserted"
    assert record["session_id"] == session
    assert record["session_path"] == "/abstract/parent"
    assert record["session_name"] == "Course Plan"
    assert record["properties"] == {"environment": "production", "app-version": "1.2"}
    assert b"helicone" not in provider.last.everything.lower()


def test_the_user_of_the_body_counts_where_no_header_names_one(
    client: openai.OpenAI, keyed: Gateway, provider: Provider
) -> None:
    calls = Calls(keyed)
    client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], user="body-user"
    )

    assert calls.one()["user_id"] == "body-user"
    assert provider.last.json()["user"] == "body-user"


def test_who_sends_helicones_headers_gets_helicones_headers(
    client: openai.OpenAI, keyed: Gateway, provider: Provider
) -> None:
    calls = Calls(keyed)
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello world"}]
    )
    record = calls.one()

    assert answer.headers["helicone-id"] == answer.headers["llmgate-id"] == record["id"]


def test_a_request_id_of_the_caller_is_kept(
    client: openai.OpenAI, keyed: Gateway, provider: Provider
) -> None:
    calls = Calls(keyed)
    mine = str(uuid.uuid4())
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Hello world"}],
        extra_headers={"Helicone-Request-Id": mine},
    )

    assert answer.headers["llmgate-id"] == calls.one()["id"] == mine


def test_bodies_are_left_out_on_request(
    client: openai.OpenAI, keyed: Gateway, provider: Provider
) -> None:
    calls = Calls(keyed)
    for omitted in ({}, {"Helicone-Omit-Request": "true", "Helicone-Omit-Response": "true"}):
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "A secret wish"}],
            extra_headers=omitted,
        )
    kept, left_out = calls.new(2)

    assert "A secret wish" in str(kept["request_body"])
    assert wire.TEXT in str(kept["response_body"])
    assert (left_out["request_body"], left_out["response_body"]) == (None, None)
    assert left_out["input_tokens"] == wire.INPUT_TOKENS


def test_the_anthropic_sdk_takes_the_same_header(keyed: Gateway, provider: Provider) -> None:
    calls = Calls(keyed)
    with anthropic.Anthropic(
        api_key="sk-ant-of-the-user",
        base_url=keyed.url,
        default_headers={"Helicone-Auth": f"Bearer {GATEWAY_KEY}"},
    ) as client:
        message = client.messages.create(
            model="claude-sonnet-4-6",
            max_tokens=100,
            messages=[{"role": "user", "content": "Hello world"}],
        )

    assert message.usage.output_tokens == wire.OUTPUT_TOKENS
    assert b"sk-ant-of-the-user" in provider.last.everything
    assert calls.one()["tenant"] == "app"
