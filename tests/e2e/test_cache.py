"""Stored answers through the official SDKs, on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai

from tests import wire
from tests.e2e.conftest import Calls
from tests.provider import Provider
from tests.servers import Gateway

ON = {"LLMGate-Cache-Enabled": "true"}
QUESTION: Any = [{"role": "user", "content": "count"}]


def fresh(seed: str) -> dict[str, str]:
    """Return headers by which a test has answers of its own."""
    return ON | {"LLMGate-Cache-Seed": seed}


@pytest.fixture
def client(gateway: Gateway, provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-cache", base_url=f"{gateway.url}/v1") as client:
        yield client


def test_helicones_snippet_hits_the_second_time(
    client: openai.OpenAI, gateway: Gateway, provider: Provider
) -> None:
    calls = Calls(gateway)
    headers = {
        "Helicone-Cache-Enabled": "true",
        "Cache-Control": "max-age=3600",
        "Helicone-Cache-Bucket-Max-Size": "1",
        "Helicone-Cache-Seed": "user-123",
        "Helicone-Cache-Ignore-Keys": "request_id, timestamp",
    }
    answers = [
        client.chat.completions.with_raw_response.create(
            model="gpt-4o",
            messages=QUESTION,
            extra_headers=headers,
            extra_body={"request_id": str(number)},
        )
        for number in range(3)
    ]
    records = calls.new(3)

    assert [a.headers["helicone-cache"] for a in answers] == ["MISS", "HIT", "HIT"]
    assert {a.parse().choices[0].message.content for a in answers} == {wire.TEXT}
    assert len(provider.asked) == 1
    assert [record["cache"] for record in records] == ["MISS", "HIT", "HIT"]
    assert [record["cost_nanousd"] for record in records[1:]] == [0, 0]
    assert records[1]["saved_nanousd"] == records[0]["cost_nanousd"]
    assert records[1]["original_id"] == records[0]["id"]
    assert records[1]["attempts"] == []
    assert records[1]["saved_ms"] > 0


def test_openais_sdk_reads_a_told_stream(client: openai.OpenAI, provider: Provider) -> None:
    headers = fresh("openai-stream")
    plain = client.chat.completions.create(model="gpt-4o", messages=QUESTION, extra_headers=headers)
    with client.chat.completions.stream(
        model="gpt-4o",
        messages=QUESTION,
        extra_headers=headers,
        stream_options={"include_usage": True},
    ) as stream:
        told = stream.get_final_completion()

    assert len(provider.asked) == 1
    assert told.choices[0].message.content == plain.choices[0].message.content
    assert told.choices[0].finish_reason == plain.choices[0].finish_reason
    assert told.usage == plain.usage
    assert (told.id, told.model) == (plain.id, plain.model)


def test_openais_sdk_reads_an_answer_that_came_as_a_stream(
    client: openai.OpenAI, provider: Provider
) -> None:
    headers = fresh("openai-json")
    with client.chat.completions.stream(
        model="gpt-4o", messages=QUESTION, extra_headers=headers
    ) as stream:
        came = stream.get_final_completion()
    told = client.chat.completions.create(model="gpt-4o", messages=QUESTION, extra_headers=headers)

    assert len(provider.asked) == 1
    assert told.choices[0].message.content == came.choices[0].message.content
    assert told.usage is not None
    assert told.usage.prompt_tokens == wire.INPUT_TOKENS


def test_responses_are_told_in_both_forms(client: openai.OpenAI, provider: Provider) -> None:
    headers = fresh("responses")
    plain = client.responses.create(model="gpt-4o", input="count", extra_headers=headers)
    with client.responses.stream(model="gpt-4o", input="count", extra_headers=headers) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        told = stream.get_final_response()

    assert len(provider.asked) == 1
    assert text == plain.output_text == told.output_text
    assert told.usage == plain.usage


@pytest.mark.parametrize("stream_first", [False, True], ids=["json first", "stream first"])
def test_anthropics_sdk_reads_both_forms(
    gateway: Gateway, provider: Provider, stream_first: bool
) -> None:
    headers = fresh(f"anthropic-{stream_first}")
    with anthropic.Anthropic(api_key="sk-cache", base_url=gateway.url) as client:

        def streamed() -> anthropic.types.Message:
            with client.messages.stream(
                model="claude-sonnet-4-6",
                max_tokens=100,
                messages=QUESTION,
                extra_headers=headers,
            ) as stream:
                return stream.get_final_message()

        def plain() -> anthropic.types.Message:
            return client.messages.create(
                model="claude-sonnet-4-6",
                max_tokens=100,
                messages=QUESTION,
                extra_headers=headers,
            )

        first, second = (streamed(), plain()) if stream_first else (plain(), streamed())

    assert len(provider.asked) == 1
    [one], [other] = first.content, second.content
    assert one.type == other.type == "text"
    assert one.text == other.text == wire.TEXT
    assert first.stop_reason == second.stop_reason
    assert first.usage.output_tokens == second.usage.output_tokens


def test_googles_sdk_reads_both_forms(gateway: Gateway, provider: Provider) -> None:
    options: Any = {"base_url": gateway.url, "headers": fresh("gemini")}
    client = genai.Client(api_key="sk-cache", http_options=options)
    plain = client.models.generate_content(model="gemini-2.5-flash", contents="count")
    chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="count"))

    assert len(provider.asked) == 1
    assert "".join(chunk.text or "" for chunk in chunks) == plain.text == wire.TEXT


def test_two_keys_of_their_own_share_nothing(gateway: Gateway, provider: Provider) -> None:
    for key in ("sk-one", "sk-two"):
        with openai.OpenAI(api_key=key, base_url=f"{gateway.url}/v1") as client:
            answer = client.chat.completions.with_raw_response.create(
                model="gpt-4o", messages=QUESTION, extra_headers=fresh("two keys")
            )
            assert answer.headers["llmgate-cache"] == "MISS"
    assert len(provider.asked) == 2


def test_without_being_asked_for_there_is_no_cache(
    client: openai.OpenAI, provider: Provider
) -> None:
    for _ in range(2):
        answer = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=QUESTION)
        assert "llmgate-cache" not in answer.headers
        assert "cache-status" not in answer.headers
    assert len(provider.asked) == 2


def test_purging_reaches_a_running_gateway(
    client: openai.OpenAI, gateway: Gateway, provider: Provider
) -> None:
    headers = fresh("purge") | {"LLMGate-Cache-Tags": "kb:pricing"}

    def ask() -> str:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=QUESTION, extra_headers=headers
        )
        return str(answer.headers["llmgate-cache"])

    assert [ask(), ask()] == ["MISS", "HIT"]
    assert gateway.cli("cache", "purge", "--tag", "kb:pricing").returncode == 0
    assert [ask(), ask()] == ["MISS", "HIT"]
    token = gateway.cli("admin-token").stdout.strip()
    admin = {"Authorization": f"Bearer {token}"}
    api = "/llmgate/api/v1/cache"
    assert gateway.http.post(f"{api}/purge", json={"model": "gpt-4o"}).status_code == 401
    purged = gateway.http.post(f"{api}/purge", json={"model": "gpt-4o"}, headers=admin)
    assert purged.json() == {"purged": True, "removed": None}
    assert [ask(), ask()] == ["MISS", "HIT"]
    assert gateway.http.get(f"{api}/stats", headers=admin).json()["entries"] > 0
    two = {"model": "a", "user": "b"}
    assert gateway.http.post(f"{api}/purge", json=two, headers=admin).status_code == 400
