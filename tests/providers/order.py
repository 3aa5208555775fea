"""The order in which each dialect's events may come, checked on the bytes of a stream.

The SDKs forgive much that other clients do not: a block that is filled before it is opened, a
number left out, an event after the last. Each reader returns what the stream said, or fails at
the first event that is out of place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asgi_llmgate.core.sse import EventDecoder

STOPS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "pause_turn"}
FINISHES = {"stop", "length", "tool_calls", "content_filter"}


@dataclass
class Said:
    """What a stream said. `usage`: input, output, cached, reasoning tokens, totals with parts."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    usage: tuple[int, int, int, int] | None = None


def events(raw: bytes) -> list[tuple[str, Any]]:
    assert raw.endswith(b"\n\n")
    decoder = EventDecoder()
    found = [(e.name, e.data) for e in decoder.feed(raw)]
    assert decoder.close() == []
    return [(name, data if data == "[DONE]" else json.loads(data)) for name, data in found]


def read_messages(raw: bytes) -> Said:
    """Anthropic: message_start, blocks one after the other, message_delta, message_stop."""
    said = Said()
    blocks: list[dict[str, Any]] = []
    is_open = False
    stage = "start"
    for name, event in events(raw):
        assert name == event["type"]
        match name:
            case "message_start":
                assert stage == "start"
                assert event["message"]["content"] == []
                stage = "blocks"
            case "content_block_start":
                assert (stage, is_open, event["index"]) == ("blocks", False, len(blocks))
                blocks.append({**event["content_block"], "json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                _fill(blocks[-1], event["delta"])
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(blocks) - 1
                is_open = False
                _add(said, blocks[-1])
            case "message_delta":
                assert (stage, is_open) == ("blocks", False)
                stage = "end"
                assert event["delta"]["stop_reason"] in STOPS
                said.usage = _messages_usage(event["usage"])
            case "message_stop":
                assert stage == "end"
                stage = "over"
            case _:
                raise AssertionError(name)
    assert stage == "over"
    return said


def _fill(block: dict[str, Any], change: dict[str, Any]) -> None:
    kind, value = next((k, v) for k, v in change.items() if k != "type")
    match change["type"], block["type"]:
        case ("text_delta", "text") | ("thinking_delta", "thinking"):
            assert value
            block[kind] += value
        case ("signature_delta", "thinking"):
            assert not block["signature"]
            block["signature"] = value
        case ("input_json_delta", "tool_use"):
            block["json"] += value
        case ("citations_delta", "text"):
            pass
        case other:
            raise AssertionError(other)


def _add(said: Said, block: dict[str, Any]) -> None:
    said.text += block.get("text", "")
    said.reasoning += block.get("thinking", "")
    if block["type"] == "tool_use":
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"])
        assert block["input"] == {}
        said.calls.append((block["id"], block["name"], json.loads(block["json"] or "{}")))


def _messages_usage(usage: dict[str, Any]) -> tuple[int, int, int, int]:
    read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    thought = usage.get("output_tokens_details", {}).get("thinking_tokens", 0)
    return usage["input_tokens"] + read + written, usage["output_tokens"], read, thought


def read_responses(raw: bytes) -> Said:
    """OpenAI Responses: items announced, filled and closed; the last event repeats them all."""
    said = Said()
    items: dict[int, dict[str, Any]] = {}
    done: dict[int, dict[str, Any]] = {}
    parts: dict[tuple[int, int], str | None] = {}
    found = events(raw)
    for number, (name, event) in enumerate(found):
        assert name == event["type"]
        assert event["sequence_number"] == number
    assert [name for name, _ in found[:2]] == ["response.created", "response.in_progress"]
    name, last = found[-1]
    assert name == f"response.{last['response']['status']}"
    for name, event in found[2:-1]:
        index = event["output_index"]
        if name == "response.output_item.added":
            assert index == len(items)
            items[index] = event["item"]
            continue
        item = items[index]
        assert index not in done
        if name == "response.output_item.done":
            assert {k: event["item"][k] for k in ("id", "type")} == {
                k: item[k] for k in ("id", "type")
            }
            assert all(text is None for (place, _), text in parts.items() if place == index)
            done[index] = event["item"]
            continue
        assert event["item_id"] == item["id"]
        _part(name.removeprefix("response."), event, item, parts)
    assert last["response"]["id"] == found[0][1]["response"]["id"]
    assert last["response"]["output"] == [done[index] for index in sorted(items)]
    for item in last["response"]["output"]:
        _say(said, item)
    said.usage = _responses_usage(last["response"]["usage"])
    return said


def _part(
    name: str,
    event: dict[str, Any],
    item: dict[str, Any],
    parts: dict[tuple[int, int], str | None],
) -> None:
    """Open, fill or close a part; `parts` has the text of each, None once it is closed."""
    place = (event["output_index"], event.get("content_index", event.get("summary_index", 0)))
    kind, _, action = name.rpartition(".")
    match kind, action:
        case ("content_part" | "reasoning_summary_part", "added"):
            assert place not in parts
            parts[place] = ""
        case ("content_part" | "reasoning_summary_part", "done"):
            assert parts[place] == event["part"].get("text", event["part"].get("refusal"))
            parts[place] = None
        case ("output_text" | "refusal" | "reasoning_summary_text", "delta"):
            assert event["delta"]
            parts[place] = (parts[place] or "") + event["delta"]
        case ("output_text" | "refusal" | "reasoning_summary_text", "done"):
            assert parts[place] == event.get("text", event.get("refusal"))
        case ("function_call_arguments", "delta"):
            item["arguments"] += event["delta"]
        case ("function_call_arguments", "done"):
            assert event["arguments"] == (item["arguments"] or "{}")
        case ("output_text.annotation", "added"):
            assert place in parts
        case other:
            raise AssertionError(other)


def _say(said: Said, item: dict[str, Any]) -> None:
    match item["type"]:
        case "message":
            said.text += "".join(p.get("text") or p.get("refusal") for p in item["content"])
        case "function_call":
            said.calls.append((item["call_id"], item["name"], json.loads(item["arguments"])))
        case "reasoning":
            said.reasoning += "".join(part["text"] for part in item["summary"])


def _responses_usage(usage: dict[str, Any] | None) -> tuple[int, int, int, int] | None:
    if usage is None:
        return None
    cached = usage["input_tokens_details"]["cached_tokens"]
    reasoning = usage["output_tokens_details"]["reasoning_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return usage["input_tokens"], usage["output_tokens"], cached, reasoning


def read_chat(raw: bytes) -> Said:
    """OpenAI chat: the role first, one finish, usage on a chunk of its own, `[DONE]` last."""
    said = Said()
    calls: list[list[str]] = []
    *chunks, (_, end) = events(raw)
    assert end == "[DONE]"
    assert len({(c["id"], c["object"], c["created"], c["model"]) for _, c in chunks}) == 1
    if chunks[-1][1].get("usage"):
        _, last = chunks.pop()
        assert last["choices"] == []
        said.usage = _chat_usage(last["usage"])
    choices = [choice for _, chunk in chunks for choice in chunk["choices"]]
    assert len(choices) == len(chunks)
    assert choices[0]["delta"]["role"] == "assistant"
    assert [bool(choice["finish_reason"]) for choice in choices].index(True) == len(choices) - 1
    assert choices[-1]["finish_reason"] in FINISHES
    for choice in choices:
        delta = choice["delta"]
        said.text += delta.get("content") or delta.get("refusal") or ""
        said.reasoning += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            if call["index"] == len(calls):
                assert call["type"] == "function"
                calls.append([call["id"], function["name"], ""])
            calls[call["index"]][2] += function.get("arguments") or ""
    said.calls = [(one, name, json.loads(text or "{}")) for one, name, text in calls]
    return said


def _chat_usage(usage: dict[str, Any]) -> tuple[int, int, int, int]:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"], cached, reasoning


def read_gemini(raw: bytes) -> Said:
    """Gemini: whole responses; the finish reason and the usage are on the last, and only there."""
    said = Said()
    found = [event for _, event in events(raw)]
    for response in found:
        [candidate] = response["candidates"]
        assert ("finishReason" in candidate) == (response is found[-1])
        for part in candidate["content"]["parts"]:
            call = part.get("functionCall")
            if call:
                said.calls.append((call["id"], call["name"], call["args"]))
            elif part.get("thought"):
                said.reasoning += part["text"]
            else:
                said.text += part["text"]
    usage = found[-1]["usageMetadata"]
    thoughts = usage.get("thoughtsTokenCount", 0)
    cached = usage.get("cachedContentTokenCount", 0)
    output = usage["candidatesTokenCount"] + thoughts
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + output
    said.usage = usage["promptTokenCount"], output, cached, thoughts
    return said


READERS: dict[str, Callable[[bytes], Said]] = {
    "openai-chat": read_chat,
    "openai-responses": read_responses,
    "anthropic-messages": read_messages,
    "gemini": read_gemini,
}
