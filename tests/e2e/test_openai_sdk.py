"""The official OpenAI SDK through the gateway, over real sockets. Only `base_url` is changed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests import wire
from tests.e2e.conftest import Calls, check_record, cost_of
from tests.provider import SSE, Answer, Provider
from tests.servers import Gateway

MODEL = "gpt-4o"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture
def client(gateway: Gateway, provider: Provider) -> Iterator[openai.OpenAI]:
    """In front of our own provider."""
    base_url = f"{gateway.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client:
        yield client


@pytest.fixture
def mocked_client(mocked: Gateway) -> Iterator[openai.OpenAI]:
    """In front of mocks that others wrote."""
    base_url = f"{mocked.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client:
        yield client


def check(record: dict[str, object], tokens: tuple[int, int], *, is_stream: bool) -> None:
    check_record(
        record,
        dialect="openai",
        provider="openai",
        model=MODEL,
        tokens=tokens,
        is_stream=is_stream,
    )


def test_a_chat_completion_leaves_one_exact_record(
    mocked_client: openai.OpenAI, mocked_calls: Calls
) -> None:
    completion = mocked_client.chat.completions.create(model=MODEL, messages=HELLO)

    assert completion.choices[0].message.content
    assert completion.usage
    tokens = (completion.usage.prompt_tokens, completion.usage.completion_tokens)
    check(mocked_calls.one(), tokens, is_stream=False)


def test_a_streamed_chat_leaves_one_exact_record(
    mocked_client: openai.OpenAI, mocked_calls: Calls
) -> None:
    with mocked_client.chat.completions.stream(
        model=MODEL, messages=HELLO, stream_options={"include_usage": True}
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        completion = stream.get_final_completion()

    assert len(deltas) > 1
    assert "".join(deltas) == completion.choices[0].message.content
    assert completion.usage
    tokens = (completion.usage.prompt_tokens, completion.usage.completion_tokens)
    check(mocked_calls.one(), tokens, is_stream=True)


def test_a_tool_is_called_and_its_result_is_answered(
    mocked_client: openai.OpenAI, mocked_calls: Calls
) -> None:
    question: ChatCompletionMessageParam = {"role": "user", "content": "weather in Paris?"}
    first = mocked_client.chat.completions.create(model=MODEL, messages=[question], tools=[WEATHER])
    message = first.choices[0].message
    assert message.tool_calls
    [tool_call] = message.tool_calls
    assert tool_call.type == "function"
    answered: list[ChatCompletionMessageParam] = [
        question,
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": tool_call.id,
                    "type": "function",
                    "function": {
                        "name": tool_call.function.name,
                        "arguments": tool_call.function.arguments,
                    },
                }
            ],
        },
        {"role": "tool", "tool_call_id": tool_call.id, "content": "sunny"},
    ]
    second = mocked_client.chat.completions.create(model=MODEL, messages=answered, tools=[WEATHER])

    assert tool_call.function.name == "get_weather"
    assert "city" in json.loads(tool_call.function.arguments)
    assert second.choices[0].message.content
    assert [record["status"] for record in mocked_calls.new(2)] == [200, 200]


def test_tool_calls_stream(mocked_client: openai.OpenAI) -> None:
    with mocked_client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "weather in Paris?"}],
        tools=[WEATHER | {"function": WEATHER["function"] | {"strict": True}}],
    ) as stream:
        completion = stream.get_final_completion()

    assert completion.choices[0].message.tool_calls
    assert completion.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_a_response_leaves_one_exact_record(
    mocked_client: openai.OpenAI, mocked_calls: Calls
) -> None:
    response = mocked_client.responses.create(model=MODEL, input="hello")

    assert response.output_text
    assert response.usage
    check(
        mocked_calls.one(),
        (response.usage.input_tokens, response.usage.output_tokens),
        is_stream=False,
    )


def test_a_streamed_response_leaves_one_exact_record(
    mocked_client: openai.OpenAI, mocked_calls: Calls
) -> None:
    with mocked_client.responses.stream(model=MODEL, input="hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()

    assert len(deltas) > 1
    assert "".join(deltas) == response.output_text
    assert response.usage
    check(
        mocked_calls.one(),
        (response.usage.input_tokens, response.usage.output_tokens),
        is_stream=True,
    )


def test_a_caller_who_did_not_ask_for_usage_gets_no_usage_chunk_yet_is_metered(
    client: openai.OpenAI, calls: Calls, provider: Provider
) -> None:
    with client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        chunks = list(stream)

    assert provider.last.json()["stream_options"] == {"include_usage": True}
    assert len(chunks) == len(wire.chat_events(MODEL)) - 1  # [DONE] is not a chunk
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    check(calls.one(), (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS), is_stream=True)


def test_a_caller_who_asked_for_usage_gets_it(
    client: openai.OpenAI, calls: Calls, provider: Provider
) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)

    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.prompt_tokens == wire.INPUT_TOKENS
    check(calls.one(), (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS), is_stream=True)


def test_cached_and_reasoning_tokens_are_recorded(
    client: openai.OpenAI, calls: Calls, provider: Provider
) -> None:
    answer = wire.loads(wire.chat_body(MODEL))
    answer["usage"]["prompt_tokens_details"] = {"cached_tokens": 600}
    answer["usage"]["completion_tokens_details"] = {"reasoning_tokens": 150}
    provider.script(Answer([wire.dumps(answer)]))
    client.chat.completions.create(model=MODEL, messages=HELLO)
    record = calls.one()

    assert record["input_tokens"] == wire.INPUT_TOKENS
    assert record["cache_read_tokens"] == 600
    assert record["output_tokens"] == wire.OUTPUT_TOKENS
    assert record["reasoning_tokens"] == 150
    # Cached input of gpt-4o costs half.
    assert record["cost_nanousd"] == cost_of(MODEL, 400 + 300, wire.OUTPUT_TOKENS)


def test_embeddings_are_returned_and_metered(client: openai.OpenAI, calls: Calls) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input="hello")

    assert answer.data[0].embedding == [0.25, -0.5, 0.125]
    check_record(
        calls.one(),
        dialect="openai",
        provider="openai",
        model="text-embedding-3-small",
        tokens=(wire.INPUT_TOKENS, 0),
        is_stream=False,
    )


def test_models_are_listed(client: openai.OpenAI, provider: Provider) -> None:
    models = [model.id for model in client.models.list()]

    assert models == ["gpt-4o"]
    assert (provider.last.method, provider.last.target) == ("GET", "/v1/models")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_a_provider_error_reaches_the_caller_as_it_was(
    client: openai.OpenAI,
    calls: Calls,
    provider: Provider,
    status: int,
    error: type[openai.APIStatusError],
) -> None:
    body = {"error": {"message": "No.", "type": "t", "param": "p", "code": "its_own_code"}}
    headers = {"Content-Type": "application/json", "x-ratelimit-remaining-requests": "7"}
    provider.script(Answer([wire.dumps(body)], status, headers))
    with pytest.raises(error) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    record = calls.one()

    assert caught.value.status_code == status
    assert caught.value.body == body["error"]
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "7"
    assert "llmgate-error" not in caught.value.response.headers
    assert record["status"] == status
    assert record["error_code"] is None
    assert record["cost_nanousd"] is None


def test_the_sdk_waits_as_long_as_the_provider_says_and_tries_again(
    client: openai.OpenAI, calls: Calls, provider: Provider
) -> None:
    error = {"error": {"message": "Slow down.", "type": "t", "param": None, "code": None}}
    headers = {"Content-Type": "application/json", "retry-after-ms": "1"}
    provider.script(Answer([wire.dumps(error)], 429, headers))
    retrying = client.with_options(max_retries=1)
    completion = retrying.chat.completions.create(model=MODEL, messages=HELLO)

    assert completion.choices[0].message.content == wire.TEXT
    assert [record["status"] for record in calls.new(2)] == [429, 200]


def test_an_error_event_inside_a_stream_raises_in_the_sdk(
    client: openai.OpenAI, calls: Calls, provider: Provider
) -> None:
    error = {"error": {"message": "Overloaded.", "type": "server_error", "code": None}}
    events = [*wire.chat_events(MODEL)[:2], wire.data_event(error), b"data: [DONE]\n\n"]
    provider.script(Answer(events, headers=SSE))
    with (
        pytest.raises(openai.APIError, match="Overloaded"),
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream,
    ):
        list(stream)

    assert calls.one()["complete"] is False
