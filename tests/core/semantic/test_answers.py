"""What stored answers say, as one text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llmgate.core.replay import EVENTS, JSON, whole_form
from asgi_llmgate.core.semantic.answers import answer_text
from tests import wire


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant"} | message, "finish_reason": "stop"}]}


def said(wire_format: str, answer: Any) -> str | None:
    return answer_text(wire_format, JSON, json.dumps(answer).encode())


TEXTS = [
    ("openai-chat", chat(content="Nine.")),
    ("openai-completions", {"choices": [{"text": "Nine."}]}),
    (
        "openai-responses",
        {
            "output": [
                {"type": "reasoning", "summary": []},
                {"type": "message", "content": [{"type": "output_text", "text": "Nine."}]},
            ]
        },
    ),
    (
        "anthropic-messages",
        {"content": [{"type": "thinking", "thinking": "?"}, {"type": "text", "text": "Nine."}]},
    ),
    (
        "gemini",
        {
            "candidates": [
                {"content": {"parts": [{"text": "?", "thought": True}, {"text": "Nine."}]}}
            ]
        },
    ),
]


@pytest.mark.parametrize(("wire_format", "answer"), TEXTS, ids=[name for name, _ in TEXTS])
def test_the_text_is_what_the_model_says_without_what_it_thinks(
    wire_format: str, answer: dict[str, Any]
) -> None:
    assert said(wire_format, answer) == "Nine."


MORE = [
    ("openai-chat", chat(content=None, tool_calls=[{"id": "1"}])),
    ("openai-chat", chat(content="Nine.", tool_calls=[{"id": "1"}])),
    ("openai-chat", chat(content=None, refusal="No.")),
    ("openai-chat", chat(content="  ")),
    ("openai-chat", {"choices": chat(content="a")["choices"] * 2}),
    ("openai-chat", {"choices": []}),
    ("openai-chat", {}),
    ("openai-responses", {"output": [{"type": "function_call", "name": "f"}]}),
    ("openai-responses", {"output": [{"type": "message", "content": [{"type": "refusal"}]}]}),
    ("anthropic-messages", {"content": [{"type": "tool_use", "id": "1"}]}),
    ("anthropic-messages", {"content": []}),
    ("gemini", {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]}),
    ("gemini", {"candidates": [{"content": {"parts": [{"inlineData": {}}]}}]}),
    ("openai-embeddings", {"data": [{"embedding": [1.0]}]}),
]


@pytest.mark.parametrize(("wire_format", "answer"), MORE)
def test_whatever_is_more_than_a_text_is_none(wire_format: str, answer: dict[str, Any]) -> None:
    assert said(wire_format, answer) is None


def test_garbage_is_none() -> None:
    assert answer_text("openai-chat", JSON, b"\xff") is None
    assert answer_text("openai-chat", EVENTS, b"data: {\n\n") is None


@pytest.mark.parametrize(
    ("wire_format", "path", "request_"),
    [
        ("openai-chat", "/v1/chat/completions", {"model": "m", "messages": []}),
        ("anthropic-messages", "/v1/messages", {"model": "m", "messages": []}),
        ("openai-responses", "/v1/responses", {"model": "m", "input": "hi"}),
    ],
    ids=["openai-chat", "anthropic-messages", "openai-responses"],
)
def test_a_stream_says_what_the_whole_answer_says(
    wire_format: str, path: str, request_: dict[str, Any]
) -> None:
    whole = wire.answer_to(path, request_)
    events = wire.answer_to(path, request_ | {"stream": True})
    assert isinstance(whole, bytes)
    assert isinstance(events, list)
    stream = b"".join(events)
    form = whole_form(wire_format, EVENTS, stream)

    assert form is not None
    assert answer_text(wire_format, JSON, whole) == wire.TEXT
    assert answer_text(wire_format, form, stream) == wire.TEXT
