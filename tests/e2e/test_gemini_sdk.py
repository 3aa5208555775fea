"""The official Google SDK through the gateway, over real sockets. Only `base_url` is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from google import genai
from google.genai import errors, types

from tests import wire
from tests.e2e.conftest import Calls, check_record
from tests.provider import Answer, Provider
from tests.servers import Gateway

MODEL = "gemini-2.5-flash"
TOKENS = (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)


@contextlib.contextmanager
def sdk(gateway: Gateway, api_version: str | None = None) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=gateway.url, api_version=api_version)
    client = genai.Client(api_key="AIza-mine", http_options=options)
    yield client
    client.close()


def check(record: dict[str, object], tokens: tuple[int, int], *, is_stream: bool) -> None:
    check_record(
        record,
        dialect="gemini",
        provider="google",
        model=MODEL,
        tokens=tokens,
        is_stream=is_stream,
    )


@pytest.mark.parametrize("api_version", [None, "v1beta"], ids=["default", "v1beta"])
def test_generated_content_leaves_one_exact_record(
    gateway: Gateway, calls: Calls, provider: Provider, api_version: str | None
) -> None:
    with sdk(gateway, api_version) as client:
        answer = client.models.generate_content(model=MODEL, contents="hello")

    assert answer.text == wire.TEXT
    assert provider.last.target.endswith(f"/models/{MODEL}:generateContent")
    assert provider.last.header("x-goog-api-key") == "AIza-mine"
    check(calls.one(), TOKENS, is_stream=False)


@pytest.mark.parametrize("api_version", [None, "v1beta"], ids=["default", "v1beta"])
def test_streamed_content_leaves_one_exact_record(
    gateway: Gateway, calls: Calls, provider: Provider, api_version: str | None
) -> None:
    with sdk(gateway, api_version) as client:
        words = [
            chunk.text
            for chunk in client.models.generate_content_stream(model=MODEL, contents="hello")
        ]

    assert words == list(wire.WORDS)
    assert provider.last.target.endswith(f"/models/{MODEL}:streamGenerateContent?alt=sse")
    check(calls.one(), TOKENS, is_stream=True)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_mocks_of_others_are_understood(mocked: Gateway, mocked_calls: Calls, stream: bool) -> None:
    with sdk(mocked, "v1beta") as client:
        if stream:
            chunks = list(client.models.generate_content_stream(model=MODEL, contents="hello"))
        else:
            chunks = [client.models.generate_content(model=MODEL, contents="hello")]
    usage = chunks[-1].usage_metadata

    assert all(chunk.text for chunk in chunks)
    assert usage
    tokens = (usage.prompt_token_count or 0, usage.candidates_token_count or 0)
    check(mocked_calls.one(), tokens, is_stream=stream)


def test_thoughts_are_output(gateway: Gateway, calls: Calls, provider: Provider) -> None:
    answer = wire.gemini_chunk(MODEL, wire.TEXT, last=True)
    answer["usageMetadata"]["thoughtsTokenCount"] = 300
    answer["usageMetadata"]["cachedContentTokenCount"] = 400
    provider.script(Answer([wire.dumps(answer)]))
    with sdk(gateway) as client:
        client.models.generate_content(model=MODEL, contents="hello")
    record = calls.one()

    assert record["output_tokens"] == wire.OUTPUT_TOKENS + 300
    assert record["reasoning_tokens"] == 300
    assert record["input_tokens"] == wire.INPUT_TOKENS
    assert record["cache_read_tokens"] == 400


# aimock's, where the real API says STOP.
@pytest.mark.filterwarnings("ignore:FUNCTION_CALL is not a valid FinishReason")
def test_a_tool_is_called(mocked: Gateway) -> None:
    weather = types.FunctionDeclaration(
        name="get_weather",
        parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}},
    )
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[weather])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    with sdk(mocked, "v1beta") as client:
        answer = client.models.generate_content(
            model=MODEL, contents="weather in Paris?", config=config
        )

    assert answer.function_calls
    assert answer.function_calls[0].name == "get_weather"


def test_embeddings_are_returned(gateway: Gateway, calls: Calls, provider: Provider) -> None:
    with sdk(gateway) as client:
        answer = client.models.embed_content(model="gemini-embedding-001", contents="hello")
    record = calls.one()

    assert answer.embeddings
    assert answer.embeddings[0].values == [0.25, -0.5]
    assert provider.last.target.endswith("/models/gemini-embedding-001:batchEmbedContents")
    assert (record["dialect"], record["model"]) == ("gemini", "gemini-embedding-001")
    assert record["status"] == 200


def test_a_key_in_the_query_is_understood_and_not_recorded(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    answer = gateway.http.post(
        f"/v1beta/models/{MODEL}:generateContent?key=AIza-query",
        json={"contents": [{"parts": [{"text": "hello"}]}]},
    )

    assert answer.status_code == 200
    assert b"AIza-query" in provider.last.everything
    assert "AIza-query" not in str(calls.one())
    assert "AIza-query" not in gateway.output


def test_a_stream_without_sse_stays_a_json_array(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    chunks = [wire.gemini_chunk(MODEL, word, last=word == wire.WORDS[-1]) for word in wire.WORDS]
    provider.script(Answer([wire.dumps(chunks)]))
    answer = gateway.http.post(
        f"/v1beta/models/{MODEL}:streamGenerateContent",
        headers={"x-goog-api-key": "AIza-mine"},
        json={"contents": [{"parts": [{"text": "hello"}]}]},
    )
    record = calls.one()

    assert answer.json() == chunks
    assert (record["input_tokens"], record["output_tokens"]) == TOKENS


@pytest.mark.parametrize(
    ("status", "name", "error"),
    [
        (400, "INVALID_ARGUMENT", errors.ClientError),
        (429, "RESOURCE_EXHAUSTED", errors.ClientError),
        (503, "UNAVAILABLE", errors.ServerError),
    ],
)
def test_a_provider_error_reaches_the_caller_as_it_was(
    gateway: Gateway,
    calls: Calls,
    provider: Provider,
    status: int,
    name: str,
    error: type[errors.APIError],
) -> None:
    body = {"error": {"code": status, "message": "No.", "status": name}}
    provider.script(Answer([wire.dumps(body)], status))
    with sdk(gateway) as client, pytest.raises(error) as caught:
        client.models.generate_content(model=MODEL, contents="hello")

    assert (caught.value.code, caught.value.status) == (status, name)
    assert calls.one()["status"] == status


def test_an_error_of_the_gateway_has_the_shape_the_sdk_expects(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    options = types.HttpOptions(headers={"LLMGate-Provider": "no-such-provider"})
    with sdk(gateway) as client, pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(
            model=MODEL,
            contents="hello",
            config=types.GenerateContentConfig(http_options=options),
        )

    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert calls.one()["error_code"] == "unknown_provider"
    assert provider.asked == []
