"""Tools that are no functions, as Codex offers them, at providers that know functions only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai.types.chat
import pytest

from asgi_llmgate.errors import TranslationError
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import Encoded, TargetInfo
from asgi_llmgate.providers.translate import OUTBOUND, Translation
from tests.providers import sdk
from tests.providers.test_streams import chat, frames, sse

MODELS = {
    "openai-chat": ("deepseek", "deepseek-chat"),
    "anthropic-messages": ("anthropic", "claude-sonnet-4-5"),
    "gemini": ("google", "gemini-3-flash"),
    "bedrock-converse": ("amazon-bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "cohere-v2": ("cohere", "command-a-03-2025"),
}
PATCH = '*** Begin Patch\n*** Add File: a.txt\n+"hi"\n*** End Patch'
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch" LF'}
OBJECT = {"type": "object", "properties": {"q": {"type": "string"}}}
# What Codex sends, apart from the length of its texts.
CODEX: dict[str, Any] = {
    "model": "m",
    "instructions": "You are a coding agent.",
    "input": [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "Sandbox: on."}],
        },
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go"}]},
    ],
    "tools": [
        {
            "type": "function",
            "name": "exec_command",
            "description": "Run.",
            "strict": False,
            "parameters": OBJECT,
        },
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "apply_patch", "description": "Edit.", "format": GRAMMAR},
        {"type": "local_shell"},
        {
            "type": "namespace",
            "name": "mcp__docs__",
            "description": "Docs",
            "tools": [
                {
                    "type": "function",
                    "name": "find",
                    "description": "Find.",
                    "strict": False,
                    "defer_loading": True,
                    "parameters": OBJECT,
                },
                {"type": "custom", "name": "note"},
            ],
        },
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0198",
    "text": {"verbosity": "medium"},
}
SENT = ["exec_command", "apply_patch", "local_shell", "mcp__docs__find", "mcp__docs__note"]
CALLED = [
    ("exec_command", {"q": "ls"}),
    ("apply_patch", {"input": PATCH}),
    ("local_shell", {"command": ["ls", "-l"], "timeout_ms": 9}),
    ("mcp__docs__find", {"q": "x"}),
    ("mcp__docs__note", {"input": "remember"}),
]
# The same calls as Codex must get them.
ITEMS = [
    {"type": "function_call", "name": "exec_command", "arguments": '{"q":"ls"}'},
    {"type": "custom_tool_call", "name": "apply_patch", "input": PATCH},
    {
        "type": "local_shell_call",
        "action": {"type": "exec", "env": {}, "command": ["ls", "-l"], "timeout_ms": 9},
    },
    {
        "type": "function_call",
        "name": "find",
        "namespace": "mcp__docs__",
        "arguments": '{"q":"x"}',
    },
    {
        "type": "custom_tool_call",
        "name": "note",
        "namespace": "mcp__docs__",
        "input": "remember",
    },
]


def asked(source: str, target: str, body: dict[str, Any]) -> tuple[Translation, Encoded]:
    provider, model = MODELS[target]
    translation = Translation(source, target, call_id="0198-aa", created=1)
    to = TargetInfo(model, provider, capabilities_of(model))
    return translation, translation.request(body, to, model="m", stream=True)


def answer(target: str) -> list[bytes]:
    """Return a provider's stream that makes all the calls, cut as it would cut them."""
    calls = [
        (number, f"call_{number}", name, json.dumps(arguments, separators=(",", ":")))
        for number, (name, arguments) in enumerate(CALLED)
    ]
    match target:
        case "openai-chat":
            payloads = [chat({"role": "assistant", "content": ""})]
            for number, identifier, name, text in calls:
                first = {"name": name, "arguments": text[:5]}
                named = {"index": number, "id": identifier, "type": "function", "function": first}
                more = {"index": number, "function": {"arguments": text[5:]}}
                payloads += [chat({"tool_calls": [named]}), chat({"tool_calls": [more]})]
            return sse(*payloads, chat({}, "tool_calls"), "[DONE]")
        case "anthropic-messages":
            events: list[Any] = [{"type": "message_start", "message": {"id": "m", "usage": {}}}]
            for index, identifier, name, text in calls:
                block = {"type": "tool_use", "id": identifier, "name": name, "input": {}}
                started = {"type": "content_block_start", "index": index, "content_block": block}
                events.append(started)
                for piece in (text[:5], text[5:]):
                    delta = {"type": "input_json_delta", "partial_json": piece}
                    events.append({"type": "content_block_delta", "index": index, "delta": delta})
            stop = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}
            return sse(*events, stop, {"type": "message_stop"})
        case "gemini":
            parts = [
                {"functionCall": {"id": identifier, "name": name, "args": json.loads(text)}}
                for _, identifier, name, text in calls
            ]
            return sse({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})
        case "bedrock-converse":
            blocks: list[tuple[str, dict[str, Any]]] = []
            for index, identifier, name, text in calls:
                use: dict[str, Any] = {"toolUse": {"toolUseId": identifier, "name": name}}
                blocks.append(("contentBlockStart", {"contentBlockIndex": index, "start": use}))
                use = {"toolUse": {"input": text}}
                blocks.append(("contentBlockDelta", {"contentBlockIndex": index, "delta": use}))
            return frames(*blocks, ("messageStop", {"stopReason": "tool_use"}), ("metadata", {}))
    events = []
    for index, identifier, name, text in calls:
        made: dict[str, Any] = {"id": identifier, "function": {"name": name, "arguments": text}}
        message = {"message": {"tool_calls": made}}
        events.append({"type": "tool-call-start", "index": index, "delta": message})
    return sse(*events, {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL"}})


def whole(target: str) -> dict[str, Any]:
    """Return the same answer in one piece, by way of an accumulated stream."""
    match target:
        case "openai-chat":
            calls = [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for number, (name, arguments) in enumerate(CALLED)
            ]
            return {"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    blocks = [
        {"type": "tool_use", "id": f"call_{number}", "name": name, "input": arguments}
        for number, (name, arguments) in enumerate(CALLED)
    ]
    return {"content": blocks, "stop_reason": "tool_use"}


def names(encoded: Encoded) -> list[str]:
    """Return the names of the tools that a provider was sent."""
    tools = encoded.body.get("tools") or encoded.body["toolConfig"]["tools"]
    tools = tools[0].get("functionDeclarations", tools)
    return [
        tool.get("name") or (tool.get("function") or tool.get("toolSpec"))["name"] for tool in tools
    ]


def essence(item: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in item.items() if k not in {"id", "call_id", "status"}}


@pytest.mark.parametrize("target", MODELS)
def test_every_tool_that_the_caller_runs_is_offered(target: str) -> None:
    _, encoded = asked("openai-responses", target, CODEX)

    assert names(encoded) == SENT
    assert {"tools[1]", "tools[2].format"} <= set(encoded.dropped)
    assert "Begin Patch" in json.dumps(encoded.body)
    assert not {"tools[0]", "tools[3]", "tools[4]"} & set(encoded.dropped)


@pytest.mark.parametrize("target", MODELS)
def test_calls_come_back_as_what_the_caller_offered(target: str) -> None:
    translation, _ = asked("openai-responses", target, CODEX)
    stream = translation.stream()
    raw = b"".join(map(stream.feed, answer(target))) + stream.close()
    items = sdk.stream("openai-responses", raw)["input"][1:]

    assert [item["call_id"] for item in items if "call_id" in item] == [
        f"call_{number}" for number in range(len(ITEMS))
    ]
    assert [essence(item) for item in items if item["type"] != "reasoning"] == ITEMS


@pytest.mark.parametrize("target", ["openai-chat", "anthropic-messages"])
def test_a_whole_answer_has_the_same_items(target: str) -> None:
    translation, _ = asked("openai-responses", target, CODEX)
    answered = translation.response(whole(target))
    items = sdk.whole("openai-responses", answered)["input"][1:]

    for item in items:
        if "arguments" in item:
            item["arguments"] = json.dumps(json.loads(item["arguments"]), separators=(",", ":"))
    assert list(map(essence, items)) == ITEMS


@pytest.mark.parametrize("target", MODELS)
def test_the_next_turn_holds_the_calls_as_the_provider_made_them(target: str) -> None:
    translation, _ = asked("openai-responses", target, CODEX)
    stream = translation.stream()
    raw = b"".join(map(stream.feed, answer(target))) + stream.close()
    said = sdk.stream("openai-responses", raw)["input"][1:]
    kinds = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
    results = [
        {
            "type": kinds.get(item["type"], "function_call_output"),
            "call_id": item["call_id"],
            "output": f"result of {item['call_id']}",
        }
        for item in said
        if "call_id" in item
    ]
    body = {**CODEX, "input": [*CODEX["input"], *said, *results]}
    _, encoded = asked("openai-responses", target, body)
    text = json.dumps(encoded.body)

    assert list(calls_in(encoded.body)) == CALLED
    assert all(f"result of call_{number}" in text for number in range(len(CALLED)))


def calls_in(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and arguments of each call, wherever a format has it."""
    if isinstance(value, dict):
        for key in ("arguments", "input", "args"):
            if key in value and "name" in value:
                arguments = value[key]
                parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
                yield value["name"], parsed
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from calls_in(inner)


def test_the_output_of_a_local_shell_finds_its_call() -> None:
    action = {"type": "exec", "command": ["ls"], "env": {}}
    call = {"type": "local_shell_call", "id": "lsh_1", "call_id": "c", "action": action}
    output = {"type": "local_shell_call_output", "id": "c", "output": "a.txt"}
    _, encoded = asked("openai-responses", "openai-chat", {**CODEX, "input": [call, output]})

    [_, made, result] = encoded.body["messages"]
    assert made["tool_calls"][0]["function"]["arguments"] == '{"command":["ls"]}'
    assert made["tool_calls"][0]["id"] == result["tool_call_id"] == "c"
    assert result["content"] == "a.txt"


def test_tools_that_were_found_are_offered_once() -> None:
    found = {"type": "tool_search_output", "call_id": "s", "tools": CODEX["tools"][-1:]}
    again = {"type": "additional_tools", "role": "developer", "tools": CODEX["tools"][:1]}
    search = {"type": "tool_search", "execution": "client", "description": "d", "parameters": {}}
    items = [*CODEX["input"], found, again, again]
    body = {**CODEX, "tools": [search, *CODEX["tools"][:-1]], "input": items}
    _, encoded = asked("openai-responses", "openai-chat", body)
    plain = {"model": "m", "input": items[2:], "tools": CODEX["tools"][:1]}
    _, only = asked("openai-responses", "openai-chat", plain)

    assert sorted(names(encoded)) == sorted(SENT)
    assert sorted(names(only)) == ["exec_command", "mcp__docs__find", "mcp__docs__note"]


def test_a_custom_tool_can_be_chosen() -> None:
    choice = {"type": "custom", "name": "apply_patch"}
    body = {**CODEX, "tool_choice": choice, "reasoning": None}
    _, encoded = asked("openai-responses", "anthropic-messages", body)

    assert encoded.body["tool_choice"] == {"type": "tool", "name": "apply_patch"}


def test_the_answer_echoes_the_tools_as_they_were_asked_for() -> None:
    choice = {"type": "custom", "name": "apply_patch"}
    translation, _ = asked("openai-responses", "openai-chat", {**CODEX, "tool_choice": choice})
    answered = translation.response(whole("openai-chat"))

    assert answered["tool_choice"] == choice
    assert [tool["type"] for tool in answered["tools"]] == [tool["type"] for tool in CODEX["tools"]]


def test_a_strict_route_refuses_a_grammar_by_name() -> None:
    translation = Translation("openai-responses", "openai-chat", call_id="0198-aa", created=1)
    to = TargetInfo("m", "x", capabilities_of("m"), strict=True)
    tools = [CODEX["tools"][2]]
    with pytest.raises(TranslationError) as refused:
        translation.request({"model": "m", "input": "Hi", "tools": tools}, to)

    assert refused.value.param == "tools[0].format"


def test_a_chat_caller_gets_its_own_form_of_custom_calls() -> None:
    custom = {"type": "custom", "custom": {"name": "apply_patch"}}
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "tools": [custom]}
    translation, _ = asked("openai-chat", "anthropic-messages", body)
    use = {"type": "tool_use", "id": "a", "name": "apply_patch", "input": {"input": PATCH}}
    answered = translation.response({"content": [use], "stop_reason": "tool_use"})
    openai.types.chat.ChatCompletion.model_validate(answered)
    message = answered["choices"][0]["message"]
    expected = {"id": "a", "type": "custom", "custom": {"name": "apply_patch", "input": PATCH}}
    result = {"role": "tool", "tool_call_id": "a", "content": "done"}
    again = {**body, "messages": [*body["messages"], message, result]}
    _, encoded = asked("openai-chat", "anthropic-messages", again)

    assert message["tool_calls"] == [expected]
    assert encoded.body["messages"][1]["content"] == [use]


def test_a_function_without_its_type_is_still_a_function() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"function": {"name": "f"}}]}
    _, encoded = asked("openai-chat", "anthropic-messages", body)

    assert names(encoded) == ["f"]
    assert encoded.dropped == []


def test_text_that_is_no_input_is_passed_on_as_it_is() -> None:
    custom = {"type": "custom", "custom": {"name": "apply_patch"}}
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [custom]}
    translation, _ = asked("openai-chat", "anthropic-messages", body)
    use = {"type": "tool_use", "id": "a", "name": "apply_patch", "input": {"patch": "x"}}
    answered = translation.response({"content": [use], "stop_reason": "tool_use"})

    call = answered["choices"][0]["message"]["tool_calls"][0]
    assert call["custom"]["input"] == '{"patch":"x"}'


def test_every_format_is_tried() -> None:
    assert MODELS.keys() == OUTBOUND.keys() - {"openai-responses"}
