"""The official Anthropic SDK through the gateway, over real sockets. Only `base_url` is changed."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests import wire
from tests.e2e.conftest import Calls, check_record
from tests.provider import Answer, Provider
from tests.servers import Gateway

MODEL = "claude-sonnet-4-6"
HELLO: list[MessageParam] = [{"role": "user", "content": "hello"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture
def client(gateway: Gateway, provider: Provider) -> Iterator[anthropic.Anthropic]:
    """In front of our own provider."""
    with anthropic.Anthropic(base_url=gateway.url, api_key="sk-ant-mine", max_retries=0) as client:
        yield client


@pytest.fixture
def mocked_client(mocked: Gateway) -> Iterator[anthropic.Anthropic]:
    """In front of mocks that others wrote."""
    with anthropic.Anthropic(base_url=mocked.url, api_key="sk-ant-mine", max_retries=0) as client:
        yield client


def check(record: dict[str, object], tokens: tuple[int, int], *, is_stream: bool) -> None:
    check_record(
        record,
        dialect="anthropic",
        provider="anthropic",
        model=MODEL,
        tokens=tokens,
        is_stream=is_stream,
    )


def test_a_message_leaves_one_exact_record(
    mocked_client: anthropic.Anthropic, mocked_calls: Calls
) -> None:
    message = mocked_client.messages.create(model=MODEL, max_tokens=100, messages=HELLO)

    assert message.content[0].type == "text"
    tokens = (message.usage.input_tokens, message.usage.output_tokens)
    check(mocked_calls.one(), tokens, is_stream=False)


def test_a_streamed_message_leaves_one_exact_record(
    mocked_client: anthropic.Anthropic, mocked_calls: Calls
) -> None:
    with mocked_client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
        words = list(stream.text_stream)
        message = stream.get_final_message()

    assert len(words) > 1
    assert message.content[0].type == "text"
    assert "".join(words) == message.content[0].text
    tokens = (message.usage.input_tokens, message.usage.output_tokens)
    check(mocked_calls.one(), tokens, is_stream=True)


def test_a_tool_is_called_and_its_result_is_answered(
    mocked_client: anthropic.Anthropic, mocked_calls: Calls
) -> None:
    question: MessageParam = {"role": "user", "content": "weather in Paris?"}
    with mocked_client.messages.stream(
        model=MODEL, max_tokens=100, messages=[question], tools=[WEATHER]
    ) as stream:
        first = stream.get_final_message()
    [tool_use] = [block for block in first.content if block.type == "tool_use"]
    second = mocked_client.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=[
            question,
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "tool_use",
                        "id": tool_use.id,
                        "name": tool_use.name,
                        "input": tool_use.input,
                    }
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": tool_use.id, "content": "sunny"}
                ],
            },
        ],
        tools=[WEATHER],
    )

    assert tool_use.name == "get_weather"
    assert "city" in tool_use.input
    assert second.content[0].type == "text"
    assert [record["is_stream"] for record in mocked_calls.new(2)] == [True, False]


def test_tokens_are_counted_without_being_charged(
    client: anthropic.Anthropic, calls: Calls, provider: Provider
) -> None:
    count = client.messages.count_tokens(model=MODEL, messages=HELLO)
    record = calls.one()

    assert count.input_tokens == wire.INPUT_TOKENS
    assert provider.last.target == "/v1/messages/count_tokens"
    assert record["route"] == "/v1/messages/count_tokens"
    assert not record["cost_nanousd"]


def test_version_and_beta_headers_are_forwarded_untouched(
    client: anthropic.Anthropic, provider: Provider
) -> None:
    client.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=HELLO,
        extra_headers={"anthropic-version": "2023-06-01", "anthropic-beta": "a-2026,b-2026"},
        extra_body={"some_new_field": {"x": 1}},
    )

    assert provider.last.header("anthropic-version") == "2023-06-01"
    assert provider.last.header("anthropic-beta") == "a-2026,b-2026"
    assert provider.last.json()["some_new_field"] == {"x": 1}


@pytest.mark.parametrize(
    "credential",
    [{"x-api-key": "sk-ant-mine"}, {"authorization": "Bearer sk-ant-mine"}],
    ids=lambda credential: next(iter(credential)),
)
def test_both_credential_headers_are_understood(
    gateway: Gateway, calls: Calls, provider: Provider, credential: dict[str, str]
) -> None:
    answer = gateway.http.post(
        "/v1/messages",
        headers={"anthropic-version": "2023-06-01", **credential},
        json={"model": MODEL, "max_tokens": 100, "messages": HELLO},
    )
    sent = [provider.last.header("x-api-key"), provider.last.header("authorization")]

    assert answer.status_code == 200
    assert [value for value in sent if value] in (["sk-ant-mine"], ["Bearer sk-ant-mine"])
    assert calls.one()["principal_kind"] == "byok"


def test_cache_reads_and_writes_are_part_of_the_input(
    client: anthropic.Anthropic, calls: Calls, provider: Provider
) -> None:
    answer = wire.loads(wire.message_body(MODEL))
    answer["usage"] = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 1000,
        "output_tokens": 5,
    }
    provider.script(Answer([wire.dumps(answer)]))
    client.messages.create(model=MODEL, max_tokens=100, messages=HELLO)
    record = calls.one()

    assert record["input_tokens"] == 1110
    assert record["cache_read_tokens"] == 1000
    assert record["cache_write_tokens"] == 100
    # Per million: input 3 $, written to the cache 3.75 $, read from it 0.30 $, output 15 $.
    assert record["cost_nanousd"] == 10 * 3_000 + 100 * 3_750 + 1000 * 300 + 5 * 15_000


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (404, "not_found_error", anthropic.NotFoundError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.OverloadedError),
    ],
)
def test_a_provider_error_reaches_the_caller_as_it_was(
    client: anthropic.Anthropic,
    calls: Calls,
    provider: Provider,
    status: int,
    kind: str,
    error: type[anthropic.APIStatusError],
) -> None:
    body = {"type": "error", "error": {"type": kind, "message": "No."}, "request_id": "req_1"}
    provider.script(Answer([wire.dumps(body)], status))
    with pytest.raises(error) as caught:
        client.messages.create(model=MODEL, max_tokens=100, messages=HELLO)

    assert caught.value.status_code == status
    assert caught.value.body == body
    assert calls.one()["status"] == status


def test_an_error_of_the_gateway_has_the_shape_the_sdk_expects(
    client: anthropic.Anthropic, calls: Calls
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(
            model=MODEL,
            max_tokens=100,
            messages=HELLO,
            extra_headers={"LLMGate-Provider": "no-such-provider"},
        )

    assert caught.value.response.headers["llmgate-error"] == "gateway"
    assert caught.value.body["error"]["details"]["error_code"] == "unknown_provider"  # type: ignore[index]
    assert calls.one()["error_code"] == "unknown_provider"
