"""A conversation with tools and thinking over two turns, across every pair of formats.

The provider signs its reasoning, the caller sends back what it was given, and the provider must
find its signature unchanged; another provider must not see it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import Encoded, TargetInfo
from asgi_llmgate.providers.translate import INBOUND, Translation
from tests.providers import sdk
from tests.providers.test_streams import BODIES, frames, sse

SIGNATURE = base64.b64encode(b"signed by the provider").decode()
THOUGHT = "The user wants the weather."
MODELS = {
    "openai-responses": "gpt-5.4",
    "anthropic-messages": "claude-sonnet-4-5",
    "gemini": "gemini-3-flash",
    "bedrock-converse": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}

SUNNY = "sunny"
REASONING = {"text": THOUGHT, "signature": SIGNATURE}

# The same turn of each provider: signed reasoning, then one tool call.
TURNS: dict[str, dict[str, Any]] = {
    "openai-responses": {
        "id": "resp_1",
        "status": "completed",
        "output": [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": THOUGHT}],
                "encrypted_content": SIGNATURE,
            },
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        ],
    },
    "anthropic-messages": {
        "id": "msg_1",
        "content": [
            {"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
        ],
        "stop_reason": "tool_use",
    },
    "gemini": {
        "responseId": "r",
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": THOUGHT, "thought": True},
                        {
                            "functionCall": {"id": "call_1", "name": "weather", "args": {}},
                            "thoughtSignature": SIGNATURE,
                        },
                    ]
                },
                "finishReason": "STOP",
            }
        ],
    },
    "bedrock-converse": {
        "output": {
            "message": {
                "content": [
                    {
                        "reasoningContent": {
                            "reasoningText": {"text": THOUGHT, "signature": SIGNATURE}
                        }
                    },
                    {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {}}},
                ]
            }
        },
        "stopReason": "tool_use",
    },
}
STREAMED: dict[str, list[bytes]] = {
    "openai-responses": sse(
        {"type": "response.created", "response": {"id": "resp_1", "model": "m"}},
        {"type": "response.reasoning_summary_text.delta", "delta": THOUGHT},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": TURNS["openai-responses"]["output"][0],
        },
        {
            "type": "response.output_item.done",
            "output_index": 1,
            "item": TURNS["openai-responses"]["output"][1],
        },
        {"type": "response.completed", "response": {"status": "completed"}},
    ),
    "anthropic-messages": sse(
        {"type": "message_start", "message": {"id": "m", "usage": {}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "thinking_delta", "thinking": THOUGHT},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "signature_delta", "signature": SIGNATURE},
        },
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
        },
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
        {"type": "message_stop"},
    ),
    "gemini": sse(TURNS["gemini"]),
    "bedrock-converse": frames(
        ("messageStart", {"role": "assistant"}),
        (
            "contentBlockDelta",
            {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": THOUGHT}}},
        ),
        (
            "contentBlockDelta",
            {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": SIGNATURE}}},
        ),
        (
            "contentBlockStart",
            {
                "contentBlockIndex": 1,
                "start": {"toolUse": {"toolUseId": "call_1", "name": "weather"}},
            },
        ),
        ("messageStop", {"stopReason": "tool_use"}),
        ("metadata", {"usage": {}}),
    ),
}
RESULTS: dict[str, dict[str, Any]] = {
    "openai-chat": {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    "openai-responses": {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    "anthropic-messages": {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"}],
    },
    "gemini": {
        "role": "user",
        "parts": [
            {
                "functionResponse": {
                    "id": "call_1",
                    "name": "weather",
                    "response": {"output": "sunny"},
                }
            }
        ],
    },
}
ASKS: dict[str, dict[str, Any]] = {
    "openai-chat": {"reasoning_effort": "low"},
    "openai-responses": {"reasoning": {"effort": "low", "summary": "auto"}},
    "anthropic-messages": {
        "max_tokens": 9000,
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    },
    "gemini": {
        "generationConfig": {"thinkingConfig": {"thinkingBudget": 2048, "includeThoughts": True}}
    },
}
PAIRS = [(source, target) for source in INBOUND for target in TURNS if source != target]


def conversation(source: str, turn: dict[str, Any]) -> dict[str, Any]:
    """Return the caller's second request: its question, the answer it got, the tool's result."""
    (field,) = turn
    said = turn[field] if source != "gemini" else [*BODIES["gemini"]["contents"], *turn[field]]
    return {field: [*said, RESULTS[source]], **ASKS[source]}


def request(source: str, target: str, body: dict[str, Any]) -> tuple[Translation, Encoded]:
    translation = Translation(source, target, call_id="0198-aa", created=1700000000)
    model = MODELS[target]
    encoded = translation.request(body, TargetInfo(model, "x", capabilities_of(model)), model="m")
    return translation, encoded


def sent_back(target: str, body: dict[str, Any]) -> Any:
    """Return the assistant's turn in the provider's second request."""
    match target:
        case "openai-responses":
            return body["input"][1:3]
        case "anthropic-messages":
            return body["messages"][1]["content"]
        case "gemini":
            return body["contents"][1]["parts"]
        case "bedrock-converse":
            return body["messages"][1]["content"]
    raise AssertionError(target)


def expected(target: str) -> Any:
    match target:
        case "openai-responses":
            return TURNS[target]["output"]
        case "anthropic-messages":
            return TURNS[target]["content"]
        case "gemini":
            return TURNS[target]["candidates"][0]["content"]["parts"][1:]
    return TURNS[target]["output"]["message"]["content"]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_provider_gets_its_signed_reasoning_back(source: str, target: str) -> None:
    first, _ = request(source, target, {**BODIES[source], **ASKS[source]})
    answer = json.loads(dumps(first.response(TURNS[target])))
    _, second = request(source, target, conversation(source, sdk.whole(source, answer)))

    assert sent_back(target, second.body) == expected(target)
    assert "sunny" in dumps(second.body).decode()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_provider_gets_back_what_it_streamed(source: str, target: str) -> None:
    first, _ = request(source, target, {**BODIES[source], **ASKS[source], "stream": True})
    stream = first.stream()
    raw = b"".join(map(stream.feed, STREAMED[target])) + stream.close()
    _, second = request(source, target, conversation(source, sdk.stream(source, raw)))

    assert sent_back(target, second.body) == expected(target)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_another_provider_never_sees_the_signature(source: str, target: str) -> None:
    first, _ = request(source, target, {**BODIES[source], **ASKS[source]})
    answer = json.loads(dumps(first.response(TURNS[target])))
    body = conversation(source, sdk.whole(source, answer))
    family = {"anthropic-messages", "bedrock-converse"}
    others = [
        other for other in TURNS if other not in {source, target} and not {other, target} <= family
    ]
    for other in others:
        _, fallback = request(source, other, body)

        text = dumps(fallback.body).decode()
        assert SIGNATURE not in text
        assert "llmgate." not in text
        assert "bGxtZ2F0" not in text
        assert "sunny" in text
