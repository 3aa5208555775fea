"""Scripted faults of a mock provider by others, and its verdict on how the gateway behaved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from llmock.testing import LLMockServer

from tests.servers import Gateway, running_gateway

KEY = "lg_test_faults_0123456789abcdef"
CHAIN = [
    {"provider": "openai", "model": "gpt-4o"},
    {"provider": "groq", "model": "llama-3.3-70b"},
]


@pytest.fixture(scope="module")
def mock() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(mock: LLMockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = {
        "LLMGATE_KEYS": f"app:{KEY}",
        "LLMGATE_PROVIDERS__OPENAI__BASE_URL": mock.base_url("openai"),
        "LLMGATE_PROVIDERS__OPENAI__API_KEYS": "sk-1,sk-2",
        "LLMGATE_PROVIDERS__GROQ__BASE_URL": mock.base_url("groq"),
        "LLMGATE_PROVIDERS__GROQ__API_KEY": "sk-groq",
        "LLMGATE_FALLBACK__FIRST_CONTENT": "0.5",
        "LLMGATE_BREAKER__FAILURES": "100",
    }
    with running_gateway(tmp_path_factory.mktemp("faults"), env) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway, mock: LLMockServer) -> Iterator[openai.OpenAI]:
    httpx.post(f"{mock.url}/_llmock/reset", trust_env=False)
    with openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=0) as client:
        yield client


def script(mock: LLMockServer, *behaviours: dict[str, Any]) -> None:
    answer = httpx.post(
        f"{mock.url}/_llmock/scenario", json={"behaviors": list(behaviours)}, trust_env=False
    )
    assert answer.status_code < 300, answer.text


def assert_no_fault_of_ours(mock: LLMockServer) -> None:
    verdict = httpx.get(f"{mock.url}/_llmock/verdict", trust_env=False).json()
    assert verdict["errors"] == 0, verdict["findings"]


def ask(client: openai.OpenAI, number: int = 0, **more: Any) -> Any:
    return client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=[{"role": "user", "content": f"Hello {number}"}], **more
    )


def fallbacks(*entries: object) -> dict[str, str]:
    return {"Helicone-Fallbacks": json.dumps(entries)}


def test_the_next_provider_answers_at_once(
    client: openai.OpenAI, mock: LLMockServer, gateway: Gateway
) -> None:
    script(mock, {"type": "fail", "status": 503, "times": None, "match": {"provider": "openai"}})

    answer = ask(client, extra_headers=fallbacks(*CHAIN))

    assert answer.parse().choices[0].message.content
    assert answer.headers["llmgate-provider"] == "groq"
    assert answer.headers["llmgate-fallback-index"] == "1"
    record = gateway.wait_for_records(1)[-1]
    assert [attempt["provider"] for attempt in record["attempts"]][-1] == "groq"
    assert {attempt["reason"] for attempt in record["attempts"][:-1]} == {"status"}
    assert_no_fault_of_ours(mock)


def test_a_limited_key_makes_way_for_the_other_at_once(
    client: openai.OpenAI, mock: LLMockServer
) -> None:
    script(mock, {"type": "fail", "status": 429, "times": 1, "match": {"provider": "openai"}})

    answer = ask(client, 1)

    assert answer.parse().choices[0].message.content
    assert answer.headers["llmgate-attempts"] == "2"
    # Its verdict knows nothing of keys, whose limits are their own, so it is not asked here.


def test_retries_wait_as_long_as_the_provider_asks(
    client: openai.OpenAI, mock: LLMockServer
) -> None:
    fault = {
        "type": "fail",
        "status": 429,
        "retry_after": 1,
        "times": 2,
        "match": {"provider": "groq"},
    }
    script(mock, fault)

    answer = ask(
        client,
        2,
        extra_headers={
            "LLMGate-Provider": "groq",
            "Helicone-Retry-Enabled": "true",
            "Helicone-Retry-Min-Timeout": "10",
        },
    )

    assert answer.parse().choices[0].message.content
    assert answer.headers["llmgate-attempts"] == "3"
    assert_no_fault_of_ours(mock)


def test_a_client_error_is_not_retried(client: openai.OpenAI, mock: LLMockServer) -> None:
    script(mock, {"type": "fail", "status": 400, "times": 1})

    with pytest.raises(openai.BadRequestError):
        ask(client, 3, extra_headers={**fallbacks(*CHAIN), "Helicone-Retry-Enabled": "true"})
    assert_no_fault_of_ours(mock)


@pytest.mark.parametrize("kind", ["disconnect", "truncate", "stall"])
def test_a_stream_that_breaks_before_its_content_is_replaced(
    client: openai.OpenAI, mock: LLMockServer, kind: str
) -> None:
    fault = {
        "type": "stream_fault",
        "kind": kind,
        "after_chunks": 1,
        "match": {"provider": "openai"},
    }
    script(mock, fault)

    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": f"stream {kind}"}],
        stream=True,
        extra_headers=fallbacks({"provider": "groq", "model": "llama-3.3-70b"}),
    )
    chunks = list(stream)

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.model for chunk in chunks} == {"llama-3.3-70b"}
    # Its verdict takes a request for another model for another call, so it is asked below.


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
def test_a_stream_that_breaks_before_its_content_is_asked_for_again(
    client: openai.OpenAI, mock: LLMockServer, kind: str
) -> None:
    script(mock, {"type": "stream_fault", "kind": kind, "after_chunks": 1})

    stream = client.chat.completions.create(
        model="llama-3.3-70b",
        messages=[{"role": "user", "content": f"again {kind}"}],
        stream=True,
        extra_headers={"LLMGate-Provider": "groq", "LLMGate-Retry-Enabled": "true"},
    )

    assert list(stream)[-1].choices[0].finish_reason == "stop"
    assert_no_fault_of_ours(mock)


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
def test_a_stream_that_breaks_in_its_content_ends_in_an_error(
    client: openai.OpenAI, mock: LLMockServer, kind: str
) -> None:
    fault = {
        "type": "stream_fault",
        "kind": kind,
        "after_chunks": 4,
        "match": {"provider": "openai"},
    }
    script(mock, fault)

    with pytest.raises(openai.APIError):
        list(
            client.chat.completions.create(
                model="gpt-4o",
                messages=[{"role": "user", "content": f"late {kind}"}],
                stream=True,
                extra_headers=fallbacks({"provider": "groq", "model": "llama-3.3-70b"}),
            )
        )


def test_when_all_are_down_the_sdk_is_told_not_to_retry(
    gateway: Gateway, mock: LLMockServer
) -> None:
    httpx.post(f"{mock.url}/_llmock/reset", trust_env=False)
    script(mock, {"type": "fail", "status": 503, "times": None})
    with (
        openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        ask(client, 5, extra_headers=fallbacks({"provider": "groq", "model": "llama-3.3-70b"}))

    assert raised.value.status_code == 503
    asked = httpx.get(f"{mock.url}/_llmock/requests", trust_env=False).json()
    requests = asked["requests"] if isinstance(asked, dict) else asked
    # Once each, because a 503 that says for how long is not the key's; and not again by the SDK.
    assert len(requests) == 2
    assert_no_fault_of_ours(mock)
