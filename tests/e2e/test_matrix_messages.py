"""The Anthropic SDK against providers of every other format, over real sockets.

Each cell: a plain call, a stream, a tool over two turns, structured output, a refusal, a stream
that breaks off. The caller changes nothing but `base_url` and the model's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

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
def claude(matrix: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=matrix.url, api_key="mine", max_retries=0) as client:
        yield client


SAID: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hello"}]


@targets_but("anthropic-messages")
def test_messages_plain(claude: anthropic.Anthropic, recorded: Calls, target: str) -> None:
    answer = claude.messages.create(model=model_of(target), max_tokens=99, messages=SAID)

    assert [block.text for block in answer.content if block.type == "text"] == [wire.TEXT]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens == wire.INPUT_TOKENS
    check(recorded, target, "anthropic")


@targets_but("anthropic-messages")
def test_messages_tokens_are_estimated(
    claude: anthropic.Anthropic, recorded: Calls, speaking: Provider, target: str
) -> None:
    asked = len(speaking.asked)
    answer = claude.messages.with_raw_response.count_tokens(
        model=model_of(target), messages=[{"role": "user", "content": "word " * 1000}]
    )
    record = recorded.one()

    assert 600 < answer.parse().input_tokens < 1800
    assert "estimate" in answer.headers["llmgate-warnings"]
    assert len(speaking.asked) == asked
    assert (record["status"], record["cost_nanousd"]) == (200, None)


@targets_but("anthropic-messages")
def test_messages_stream(claude: anthropic.Anthropic, recorded: Calls, target: str) -> None:
    with claude.messages.stream(model=model_of(target), max_tokens=99, messages=SAID) as stream:
        words = list(stream.text_stream)
        answer = stream.get_final_message()

    assert words == list(wire.WORDS)
    assert answer.usage.output_tokens == wire.OUTPUT_TOKENS
    check(recorded, target, "anthropic", is_stream=True)


@WHOLE_AND_STREAM
@targets_but("anthropic-messages")
def test_messages_tools_over_two_turns(
    claude: anthropic.Anthropic, speaking: Provider, target: str, is_stream: bool
) -> None:
    tools: Any = [{"name": TOOL, "description": "Weather", "input_schema": PARAMETERS}]
    asking: list[anthropic.types.MessageParam] = [{"role": "user", "content": QUESTION}]
    model = model_of(target)
    if is_stream:
        with claude.messages.stream(
            model=model, max_tokens=99, messages=asking, tools=tools
        ) as stream:
            first: anthropic.types.Message = stream.get_final_message()
    else:
        first = claude.messages.create(model=model, max_tokens=99, messages=asking, tools=tools)
    [called] = [block for block in first.content if block.type == "tool_use"]
    result: anthropic.types.ToolResultBlockParam = {
        "type": "tool_result",
        "tool_use_id": called.id,
        "content": "sunny",
    }
    second = claude.messages.create(
        model=model,
        max_tokens=99,
        messages=[
            *asking,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ],
        tools=tools,
    )

    assert first.stop_reason == "tool_use"
    assert (called.name, called.input) == (TOOL, CITY)
    assert [block.text for block in second.content if block.type == "text"] == [wire.TEXT]
    assert b"sunny" in speaking.last.everything


@targets_but("anthropic-messages")
def test_messages_structured(claude: anthropic.Anthropic, target: str) -> None:
    answer = claude.messages.create(
        model=model_of(target),
        max_tokens=99,
        messages=SAID,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    [text] = [block.text for block in answer.content if block.type == "text"]

    assert json.loads(text) == PLACE


@targets_but("anthropic-messages")
def test_messages_refused(claude: anthropic.Anthropic, target: str) -> None:
    with pytest.raises(anthropic.RateLimitError, match=r"Slow down\.") as caught:
        claude.messages.create(model=model_of(target, "-refused"), max_tokens=9, messages=SAID)

    assert caught.value.response.headers["retry-after"] == str(RETRY_AFTER_S)


@targets_but("anthropic-messages")
def test_messages_broken_off(claude: anthropic.Anthropic, recorded: Calls, target: str) -> None:
    stream = claude.messages.create(
        model=model_of(target, "-breaks"), max_tokens=9, messages=SAID, stream=True
    )
    with pytest.raises(anthropic.APIError, match=r"provider ended the stream"):
        list(stream)

    assert not recorded.one()["complete"]
