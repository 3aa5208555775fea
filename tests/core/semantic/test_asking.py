"""What is asked, and what has to be equal beside it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from asgi_llmgate.core.cache_key import Question, scope_key
from asgi_llmgate.core.semantic.asking import FULL, MAX_CHARS, NONE, Asking, Context, asking

SECRET = b"s" * 32

CHAT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "You sell shoes."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": "What are your opening hours?"},
    ],
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}],
    "temperature": 0,
}
ANTHROPIC: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "You sell shoes."}],
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]},
        {"role": "user", "content": [{"type": "text", "text": "What are your opening hours?"}]},
    ],
}
GEMINI: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "You sell shoes."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Hello"}]},
        {"role": "model", "parts": [{"text": "Hello!"}]},
        {"role": "user", "parts": [{"text": "What are your opening hours?"}]},
    ],
    "generationConfig": {"temperature": 0.2},
}
RESPONSES: dict[str, Any] = {
    "model": "gpt-4o",
    "instructions": "You sell shoes.",
    "input": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hello!"}]},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "What are your opening hours?"}],
        },
    ],
}
REQUESTS = {
    "openai-chat": CHAT,
    "anthropic-messages": ANTHROPIC,
    "gemini": GEMINI,
    "openai-responses": RESPONSES,
}
TURNS = {"openai-chat": "messages", "anthropic-messages": "messages"} | {
    "gemini": "contents",
    "openai-responses": "input",
}
FORMATS = pytest.mark.parametrize("wire_format", REQUESTS)


def asked(wire_format: str, request: dict[str, Any], **options: Any) -> Asking:
    found = asking(wire_format, request, **options)
    assert isinstance(found, Asking)
    return found


def scope_of(wire_format: str, request: dict[str, Any], **options: Any) -> str:
    rest = asked(wire_format, request, **options).rest
    question = Question("shop", "openai", wire_format, "/v1/chat/completions", rest)
    return scope_key(SECRET, question, embedder="e@1")


def with_last(wire_format: str, text: str) -> dict[str, Any]:
    request = copy.deepcopy(REQUESTS[wire_format])
    last = request[TURNS[wire_format]][-1]
    name = "parts" if wire_format == "gemini" else "content"
    if isinstance(last[name], str):
        last[name] = text
    else:
        last[name][0]["text"] = text
    return request


@FORMATS
def test_the_text_of_the_last_turn_is_the_question(wire_format: str) -> None:
    request = REQUESTS[wire_format]
    before = copy.deepcopy(request)

    assert asked(wire_format, request).question == "What are your opening hours?"
    assert request == before


@FORMATS
def test_other_words_for_it_are_in_the_same_scope(wire_format: str) -> None:
    other = with_last(wire_format, "When do you open?")

    assert asked(wire_format, other).question == "When do you open?"
    assert scope_of(wire_format, other) == scope_of(wire_format, REQUESTS[wire_format])


def changed_history(request: dict[str, Any], wire_format: str) -> None:
    turn = request[TURNS[wire_format]][-3]
    turn["parts" if wire_format == "gemini" else "content"] = (
        [{"text": "Good evening"}] if wire_format == "gemini" else "Good evening"
    )


def changed_system(request: dict[str, Any], wire_format: str) -> None:
    match wire_format:
        case "openai-chat":
            request["messages"][0]["content"] = "You sell hats."
        case "anthropic-messages":
            request["system"][0]["text"] = "You sell hats."
        case "gemini":
            request["systemInstruction"]["parts"][0]["text"] = "You sell hats."
        case _:
            request["instructions"] = "You sell hats."


def changed_tools(request: dict[str, Any], wire_format: str) -> None:
    request["tools"] = [{"name": "other"}]


def changed_schema(request: dict[str, Any], wire_format: str) -> None:
    request["response_format"] = {"type": "json_object"}


def changed_model(request: dict[str, Any], wire_format: str) -> None:
    request["model"] = "another"


def unknown_field(request: dict[str, Any], wire_format: str) -> None:
    request["x_nobody_knows"] = 1


@FORMATS
@pytest.mark.parametrize(
    "change",
    [
        changed_history,
        changed_system,
        changed_tools,
        changed_schema,
        changed_model,
        unknown_field,
    ],
)
def test_whatever_else_differs_is_another_scope(wire_format: str, change: Any) -> None:
    request = with_last(wire_format, "When do you open?")
    change(request, wire_format)

    assert scope_of(wire_format, request) != scope_of(wire_format, REQUESTS[wire_format])


@FORMATS
def test_without_context_history_does_not_count_and_the_system_prompt_does(
    wire_format: str,
) -> None:
    other, third = with_last(wire_format, "When do you open?"), with_last(wire_format, "When?")
    changed_history(other, wire_format)
    changed_system(third, wire_format)
    plain = scope_of(wire_format, REQUESTS[wire_format], context=NONE)

    assert scope_of(wire_format, other, context=NONE) == plain
    assert scope_of(wire_format, third, context=NONE) != plain


@FORMATS
def test_a_window_is_embedded_with_the_question(wire_format: str) -> None:
    found = asked(wire_format, REQUESTS[wire_format], context=Context.parse("window:1"))
    assert found.question.startswith("Hello!")
    assert found.question.endswith("\nWhat are your opening hours?")

    found = asked(wire_format, REQUESTS[wire_format], context=Context.parse("window:8"))
    assert found.question.startswith("Hello\nHello!")


def test_a_standalone_question_stands_for_the_conversation() -> None:
    found = asked("openai-chat", CHAT, standalone="Opening hours of the shoe shop?")

    assert found.question == "Opening hours of the shoe shop?"
    assert "Hello" not in str(found.rest)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 2}, "several-answers"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": []}, "no-question"),
        ({"messages": "hi"}, "no-question"),
        ({"messages": ["hi"]}, "odd"),
        ({"messages": [{"role": "user", "content": " "}]}, "no-question"),
        ({"messages": [{"role": "user", "content": None}]}, "no-question"),
        ({"messages": [{"role": "user", "content": "x" * (MAX_CHARS + 1)}]}, "long"),
        ({"messages": [{"role": "assistant", "content": "So"}]}, "no-question"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "7"}]}, "tool-output"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "multimodal",
        ),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "odd"),
    ],
)
def test_what_has_no_question_in_words_is_for_the_exact_cache(
    change: dict[str, Any], reason: str
) -> None:
    assert asking("openai-chat", CHAT | change) == reason


def test_results_of_tools_are_no_questions_in_any_dialect() -> None:
    result = {"type": "tool_result", "tool_use_id": "1", "content": "7"}
    anthropic = ANTHROPIC | {"messages": [{"role": "user", "content": [result]}]}
    parts = [{"functionResponse": {"name": "f", "response": {}}}]
    gemini = GEMINI | {"contents": [{"role": "user", "parts": parts}]}
    output = {"type": "function_call_output", "call_id": "1", "output": "7"}
    responses = RESPONSES | {"input": [output]}

    assert asking("anthropic-messages", anthropic) == "tool-output"
    assert asking("gemini", gemini) == "tool-output"
    assert asking("openai-responses", responses) == "tool-output"
    assert asking("openai-embeddings", {"input": "hi"}) == "route"


def test_temperatures_that_are_close_share_and_others_do_not() -> None:
    def at(temperature: object) -> str:
        return scope_of("openai-chat", CHAT | {"temperature": temperature})

    assert at(0.1) == at(0.3)
    assert len({at(0), at(0.2), at(0.5), at(1), at(None), at(float("inf"))}) == 6


def test_short_forms_are_read_too() -> None:
    assert asked("openai-responses", {"model": "m", "input": "hi"}).question == "hi"
    assert asked("openai-completions", {"model": "m", "prompt": "hi"}).question == "hi"
    assert asking("openai-completions", {"model": "m", "prompt": ["a", "b"]}) == "several-answers"
    assert asked("gemini", {"contents": {"parts": [{"text": "hi"}]}}).question == "hi"
    assert asking("openai-responses", RESPONSES | {"previous_response_id": "r"}) == "stateful"


@pytest.mark.parametrize("text", ["", "window", "window:0", "window:9", "window:x", "all"])
def test_an_unknown_context_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="full, none, or window"):
        Context.parse(text)


def test_known_contexts() -> None:
    assert Context.parse("full") == FULL
    assert Context.parse("none") == NONE
    assert (FULL.share_of_error, Context.parse("window:2").share_of_error) == (1, 0.5)
