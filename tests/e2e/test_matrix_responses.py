"""The OpenAI SDK's responses against providers of every other format, over real sockets.

Each cell: a plain call, a stream, a tool over two turns, structured output, a refusal, a stream
that breaks off. The caller changes nothing but `base_url` and the model's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseInputParam

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
from tests.e2e.speakers import CITY, PLACE, RETRY_AFTER_S, TOOL
from tests.provider import Provider
from tests.servers import Gateway

pytestmark = pytest.mark.usefixtures("speaking")


@pytest.fixture
def chat(matrix: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{matrix.url}/v1", api_key="mine", max_retries=0) as client:
        yield client


@targets_but("openai-responses")
def test_responses_plain(chat: openai.OpenAI, recorded: Calls, target: str) -> None:
    answer = chat.responses.create(model=model_of(target), input="hello")

    assert answer.output_text == wire.TEXT
    assert answer.usage
    assert answer.usage.input_tokens == wire.INPUT_TOKENS
    check(recorded, target, "openai")


@targets_but("openai-responses")
def test_responses_stream(chat: openai.OpenAI, recorded: Calls, target: str) -> None:
    with chat.responses.stream(model=model_of(target), input="hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        answer = stream.get_final_response()

    assert deltas == list(wire.WORDS)
    assert answer.output_text == wire.TEXT
    check(recorded, target, "openai", is_stream=True)


@WHOLE_AND_STREAM
@targets_but("openai-responses")
def test_responses_tools_over_two_turns(
    chat: openai.OpenAI, speaking: Provider, target: str, is_stream: bool
) -> None:
    tool: Any = {"type": "function", "name": TOOL, "parameters": PARAMETERS, "strict": False}
    asking: ResponseInputParam = [{"role": "user", "content": QUESTION}]
    if is_stream:
        with chat.responses.stream(
            model=model_of(target),
            input=asking,
            tools=[tool],
        ) as stream:
            first: Any = stream.get_final_response()
    else:
        first = chat.responses.create(
            model=model_of(target),
            input=asking,
            tools=[tool],
        )
    [called] = [item for item in first.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": called.call_id, "output": "sunny"}
    turns = [
        item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in first.output
    ]
    second = chat.responses.create(
        model=model_of(target),
        input=[*asking, *turns, result],
        tools=[tool],
    )

    assert called.name == TOOL
    assert json.loads(called.arguments) == CITY
    assert second.output_text == wire.TEXT
    assert b"sunny" in speaking.last.everything


@targets_but("openai-responses")
def test_responses_structured(chat: openai.OpenAI, target: str) -> None:
    schema: Any = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
    answer = chat.responses.create(
        model=model_of(target),
        input="hello",
        text={"format": schema},
    )

    assert json.loads(answer.output_text) == PLACE


@targets_but("openai-responses")
def test_responses_refused(chat: openai.OpenAI, target: str) -> None:
    with pytest.raises(openai.RateLimitError, match=r"Slow down\.") as caught:
        chat.responses.create(model=model_of(target, "-refused"), input="hello")

    assert caught.value.response.headers["retry-after"] == str(RETRY_AFTER_S)


@targets_but("openai-responses")
def test_responses_broken_off(chat: openai.OpenAI, recorded: Calls, target: str) -> None:
    with pytest.raises(openai.APIError, match=r"provider ended the stream"):
        list(chat.responses.create(model=model_of(target, "-breaks"), input="hello", stream=True))

    assert not recorded.one()["complete"]
