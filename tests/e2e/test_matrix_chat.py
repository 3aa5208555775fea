"""The OpenAI SDK's chat completions against providers of every other format, over real sockets.

Each cell: a plain call, a stream, a tool over two turns, structured output, a refusal, a stream
that breaks off. The caller changes nothing but `base_url` and the model's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

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


HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@targets_but("openai-chat")
def test_chat_plain(chat: openai.OpenAI, recorded: Calls, target: str) -> None:
    answer = chat.chat.completions.create(model=model_of(target), messages=HELLO)

    assert answer.choices[0].message.content == wire.TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.prompt_tokens == wire.INPUT_TOKENS
    assert answer.usage.completion_tokens == wire.OUTPUT_TOKENS
    check(recorded, target, "openai")


@targets_but("openai-chat")
def test_chat_stream(chat: openai.OpenAI, recorded: Calls, target: str) -> None:
    with chat.chat.completions.stream(
        model=model_of(target), messages=HELLO, stream_options={"include_usage": True}
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        answer = stream.get_final_completion()

    assert [delta for delta in deltas if delta] == list(wire.WORDS)
    assert answer.usage
    assert answer.usage.completion_tokens == wire.OUTPUT_TOKENS
    check(recorded, target, "openai", is_stream=True)


@WHOLE_AND_STREAM
@targets_but("openai-chat")
def test_chat_tools_over_two_turns(
    chat: openai.OpenAI, speaking: Provider, target: str, is_stream: bool
) -> None:
    function = {"name": TOOL, "description": "Weather", "parameters": PARAMETERS}
    tools: Any = [{"type": "function", "function": function}]
    asking: list[Any] = [{"role": "user", "content": QUESTION}]
    if is_stream:
        with chat.chat.completions.stream(
            model=model_of(target),
            messages=asking,
            tools=tools,
        ) as stream:
            message: Any = (
                stream.get_final_completion()
                .choices[0]
                .message.model_dump(exclude={"parsed"}, exclude_none=True)
            )
        message["tool_calls"] = [
            {**call, "function": {k: call["function"][k] for k in ("name", "arguments")}}
            for call in message["tool_calls"]
        ]
    else:
        answer = chat.chat.completions.create(
            model=model_of(target),
            messages=asking,
            tools=tools,
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        message = answer.choices[0].message.model_dump(exclude_none=True)
    [called] = message["tool_calls"]
    result: Any = {"role": "tool", "tool_call_id": called["id"], "content": "sunny"}
    second = chat.chat.completions.create(
        model=model_of(target),
        messages=[*asking, message, result],
        tools=tools,
    )

    assert called["function"]["name"] == TOOL
    assert json.loads(called["function"]["arguments"]) == CITY
    assert second.choices[0].message.content == wire.TEXT
    assert b"sunny" in speaking.last.everything


@targets_but("openai-chat")
def test_chat_structured(chat: openai.OpenAI, target: str) -> None:
    schema: Any = {"name": "place", "schema": SCHEMA, "strict": True}
    answer = chat.chat.completions.create(
        model=model_of(target),
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": schema},
    )

    assert answer.choices[0].message.content
    assert json.loads(answer.choices[0].message.content) == PLACE
    assert answer.choices[0].finish_reason == "stop"


@targets_but("openai-chat")
def test_chat_refused(chat: openai.OpenAI, target: str) -> None:
    with pytest.raises(openai.RateLimitError, match=r"Slow down\.") as caught:
        chat.chat.completions.create(model=model_of(target, "-refused"), messages=HELLO)

    assert caught.value.response.headers["retry-after"] == str(RETRY_AFTER_S)


@targets_but("openai-chat")
def test_chat_broken_off(chat: openai.OpenAI, recorded: Calls, target: str) -> None:
    stream = chat.chat.completions.create(
        model=model_of(target, "-breaks"), messages=HELLO, stream=True
    )
    with pytest.raises(openai.APIError, match=r"provider ended the stream"):
        list(stream)

    assert not recorded.one()["complete"]
