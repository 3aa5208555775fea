"""The Google SDK against providers of every other format, over real sockets.

Each cell: a plain call, a stream, a tool over two turns, structured output, a refusal, a stream
that breaks off. The caller changes nothing but `base_url` and the model's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from google import genai
from google.genai import errors as google_errors
from google.genai import types

from tests import wire
from tests.e2e.conftest import Calls
from tests.e2e.matrix import (
    PARAMETERS,
    QUESTION,
    SCHEMA,
    WHOLE_AND_STREAM,
    check,
    model_of,
    targets_but,
)
from tests.e2e.speakers import CITY, PLACE, TOOL
from tests.provider import Provider
from tests.servers import Gateway

pytestmark = pytest.mark.usefixtures("speaking")


@pytest.fixture
def google(matrix: Gateway) -> Iterator[genai.Client]:
    client = genai.Client(api_key="mine", http_options=types.HttpOptions(base_url=matrix.url))
    yield client
    client.close()


@targets_but("gemini")
def test_gemini_plain(google: genai.Client, recorded: Calls, target: str) -> None:
    answer = google.models.generate_content(model=model_of(target), contents="hello")

    assert answer.text == wire.TEXT
    assert answer.usage_metadata
    assert answer.usage_metadata.prompt_token_count == wire.INPUT_TOKENS
    check(recorded, target, "gemini")


@targets_but("gemini")
def test_gemini_tokens_are_estimated(google: genai.Client, target: str) -> None:
    counted = google.models.count_tokens(model=model_of(target), contents="word " * 1000)

    assert counted.total_tokens
    assert 600 < counted.total_tokens < 1800


@targets_but("gemini")
def test_gemini_stream(google: genai.Client, recorded: Calls, target: str) -> None:
    chunks = google.models.generate_content_stream(model=model_of(target), contents="hello")

    assert [chunk.text for chunk in chunks if chunk.text] == list(wire.WORDS)
    check(recorded, target, "gemini", is_stream=True)


@WHOLE_AND_STREAM
@targets_but("gemini")
def test_gemini_tools_over_two_turns(
    google: genai.Client, speaking: Provider, target: str, is_stream: bool
) -> None:
    declared = types.FunctionDeclaration(name=TOOL, parameters_json_schema=PARAMETERS)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    asking = types.Content(role="user", parts=[types.Part(text=QUESTION)])
    model = model_of(target)
    parts: list[types.Part] = []
    if is_stream:
        for chunk in google.models.generate_content_stream(
            model=model, contents=[asking], config=config
        ):
            assert chunk.candidates
            assert chunk.candidates[0].content
            parts += chunk.candidates[0].content.parts or []
    else:
        answer = google.models.generate_content(model=model, contents=[asking], config=config)
        assert answer.candidates
        assert answer.candidates[0].content
        parts = answer.candidates[0].content.parts or []
    [called] = [part.function_call for part in parts if part.function_call]
    result = types.Part.from_function_response(name=TOOL, response={"result": "sunny"})
    assert result.function_response
    result.function_response.id = called.id
    second = google.models.generate_content(
        model=model,
        contents=[
            asking,
            types.Content(role="model", parts=parts),
            types.Content(role="user", parts=[result]),
        ],
        config=config,
    )

    assert (called.name, called.args) == (TOOL, CITY)
    assert second.text == wire.TEXT
    assert b"sunny" in speaking.last.everything


@targets_but("gemini")
def test_gemini_structured(google: genai.Client, target: str) -> None:
    config = types.GenerateContentConfig(
        response_mime_type="application/json", response_json_schema=SCHEMA
    )
    answer = google.models.generate_content(model=model_of(target), contents="hello", config=config)

    assert answer.text
    assert json.loads(answer.text) == PLACE


@targets_but("gemini")
def test_gemini_refused(google: genai.Client, target: str) -> None:
    with pytest.raises(google_errors.ClientError, match=r"Slow down\.") as caught:
        google.models.generate_content(model=model_of(target, "-refused"), contents="hello")

    assert caught.value.code == 429
    assert caught.value.status == "RESOURCE_EXHAUSTED"


@targets_but("gemini")
def test_gemini_broken_off(google: genai.Client, recorded: Calls, target: str) -> None:
    chunks = google.models.generate_content_stream(
        model=model_of(target, "-breaks"), contents="hello"
    )
    with pytest.raises(google_errors.APIError, match=r"provider ended the stream"):
        list(chunks)

    assert not recorded.one()["complete"]
