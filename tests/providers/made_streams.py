"""Streams of every provider, made from what they are to say, cut as hypothesis likes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.providers.test_streams import chat, frames, sse

TOKENS = (100, 40, 30, 7)  # input and output in all, and of them cached and reasoned


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Thought:
    text: str
    signature: str | None


@dataclass(frozen=True)
class ToolCall:
    id: str
    name: str
    arguments: str


Segment = Text | Thought | ToolCall
Cut = Callable[[str], list[str]]

words = st.sampled_from(["Hello wörld", "a", "\n", '{"x":1}', "  sp ", "🎉 ok"])
arguments = st.sampled_from(["{}", "", '{"a":"b c"}', '{"n":[1,2,{"z":null}]}'])


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    """Return what a provider says, in any order that some provider has."""
    said: list[Segment] = []
    for number in range(draw(st.integers(1, 6))):
        match draw(st.sampled_from(["text", "thought", "call", "call"])):
            case "text":
                said.append(Text(draw(words)))
            case "thought":
                signature = draw(st.sampled_from([None, "U2ln"]))
                said.append(Thought(draw(words), signature))
            case _:
                name = draw(st.sampled_from(["f", "get_weather"]))
                said.append(ToolCall(f"call_{number}", name, draw(arguments)))
    return said


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    size = draw(st.integers(1, 9))
    return lambda text: [text[i : i + size] for i in range(0, len(text), size)]


@st.composite
def chat_stream(draw: st.DrawFn, said: list[Segment], cut: Cut) -> list[bytes]:
    """As a chat provider says it: fragments of neighbouring calls may be mixed."""
    lanes: list[list[dict[str, Any]]] = []
    payloads = [chat({"role": "assistant", "content": ""})]
    number = 0
    for segment in [*said, None]:
        if isinstance(segment, ToolCall):
            named = {"name": segment.name, "arguments": ""}
            first = {"index": number, "id": segment.id, "type": "function", "function": named}
            more = [{"index": number, "function": {"arguments": p}} for p in cut(segment.arguments)]
            lanes.append([chat({"tool_calls": [call]}) for call in [first, *more]])
            number += 1
            continue
        payloads += draw(mixed(lanes))
        lanes = []
        match segment:
            case Text(text):
                payloads += [chat({"content": piece}) for piece in cut(text)]
            case Thought(text, _):
                payloads += [chat({"reasoning_content": piece}) for piece in cut(text)]
    usage = {
        "prompt_tokens": TOKENS[0],
        "completion_tokens": TOKENS[1],
        "prompt_tokens_details": {"cached_tokens": TOKENS[2]},
        "completion_tokens_details": {"reasoning_tokens": TOKENS[3]},
    }
    end = chat({}, "tool_calls" if number else "stop")
    return sse(*payloads, end, {"choices": [], "usage": usage}, "[DONE]")


@st.composite
def mixed(draw: st.DrawFn, lanes: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the fragments of all calls, each call's own in order, and begun in order."""
    if draw(st.booleans()):
        return [fragment for lane in lanes for fragment in lane]
    waiting = [list(lane) for lane in lanes]
    out: list[dict[str, Any]] = []
    begun = 0
    while any(waiting):
        ready = [n for n, lane in enumerate(waiting) if lane and n <= begun]
        chosen = draw(st.sampled_from(ready))
        begun = max(begun, chosen + 1)
        out.append(waiting[chosen].pop(0))
    return out


def messages_stream(said: list[Segment], cut: Cut) -> list[bytes]:
    usage = {"input_tokens": TOKENS[0] - TOKENS[2], "cache_read_input_tokens": TOKENS[2]}
    message = {"id": "msg_1", "model": "c", "usage": usage | {"output_tokens": 1}}
    out: list[dict[str, Any]] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    for index, segment in enumerate(said):
        match segment:
            case Text(text):
                block: dict[str, Any] = {"type": "text", "text": ""}
                deltas = [{"type": "text_delta", "text": piece} for piece in cut(text)]
            case Thought(text, signature):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in cut(text)]
                if signature:
                    deltas.append({"type": "signature_delta", "signature": signature})
            case ToolCall(identifier, name, text):
                block = {"type": "tool_use", "id": identifier, "name": name, "input": {}}
                pieces = ["", *cut(text)]
                deltas = [{"type": "input_json_delta", "partial_json": p} for p in pieces]
        out.append({"type": "content_block_start", "index": index, "content_block": block})
        out += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        out.append({"type": "content_block_stop", "index": index})
    details = {"output_tokens_details": {"thinking_tokens": TOKENS[3]}}
    counted = {"output_tokens": TOKENS[1], **details}
    stop = {"stop_reason": "tool_use" if has_calls(said) else "end_turn"}
    out.append({"type": "message_delta", "delta": stop, "usage": counted})
    return sse(*out, {"type": "message_stop"})


def gemini_stream(said: list[Segment], cut: Cut) -> list[bytes]:
    parts: list[dict[str, Any]] = []
    for segment in said:
        match segment:
            case Text(text):
                parts += [{"text": piece} for piece in cut(text)]
            case Thought(text, signature):
                parts += [{"text": piece, "thought": True} for piece in cut(text)]
                if signature:
                    parts.append({"text": "", "thoughtSignature": signature})
            case ToolCall(identifier, name, text):
                call = {"id": identifier, "name": name, "args": json.loads(text or "{}")}
                parts.append({"functionCall": call})
    usage = {
        "promptTokenCount": TOKENS[0],
        "candidatesTokenCount": TOKENS[1] - TOKENS[3],
        "thoughtsTokenCount": TOKENS[3],
        "cachedContentTokenCount": TOKENS[2],
    }
    contents = [{"content": {"parts": [part]}} for part in parts]
    responses = [{"candidates": [c], "usageMetadata": usage} for c in contents]
    end: dict[str, Any] = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage}
    return sse(*responses, end)


def converse_stream(said: list[Segment], cut: Cut) -> list[bytes]:
    out: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    for index, segment in enumerate(said):
        match segment:
            case Text(text):
                deltas: list[dict[str, Any]] = [{"text": piece} for piece in cut(text)]
            case Thought(text, signature):
                deltas = [{"reasoningContent": {"text": piece}} for piece in cut(text)]
                if signature:
                    deltas.append({"reasoningContent": {"signature": signature}})
            case ToolCall(identifier, name, text):
                use = {"toolUse": {"toolUseId": identifier, "name": name}}
                out.append(("contentBlockStart", {"contentBlockIndex": index, "start": use}))
                deltas = [{"toolUse": {"input": piece}} for piece in cut(text)]
        out += [("contentBlockDelta", {"contentBlockIndex": index, "delta": d}) for d in deltas]
        out.append(("contentBlockStop", {"contentBlockIndex": index}))
    out.append(("messageStop", {"stopReason": "tool_use" if has_calls(said) else "end_turn"}))
    counted = {"inputTokens": TOKENS[0] - TOKENS[2], "cacheReadInputTokens": TOKENS[2]}
    return frames(*out, ("metadata", {"usage": counted | {"outputTokens": TOKENS[1]}}))


def responses_stream(said: list[Segment], cut: Cut) -> list[bytes]:
    out: list[dict[str, Any]] = [{"type": "response.created", "response": {"id": "resp_1"}}]

    def event(kind: str, index: int, **fields: Any) -> None:
        out.append({"type": f"response.{kind}", "output_index": index, **fields})

    for index, segment in enumerate(said):
        match segment:
            case Text(text):
                item: dict[str, Any] = {"type": "message", "content": []}
                event("output_item.added", index, item=item)
                for piece in cut(text):
                    event("output_text.delta", index, content_index=0, delta=piece)
            case Thought(text, signature):
                summary = [{"type": "summary_text", "text": text}]
                item = {"type": "reasoning", "summary": summary, "encrypted_content": signature}
                event("output_item.added", index, item=item)
                for piece in cut(text):
                    event("reasoning_summary_text.delta", index, summary_index=0, delta=piece)
            case ToolCall(identifier, name, text):
                item = {"type": "function_call", "call_id": identifier, "name": name}
                event("output_item.added", index, item=item | {"arguments": ""})
                for piece in cut(text):
                    event("function_call_arguments.delta", index, delta=piece)
                item["arguments"] = text
        event("output_item.done", index, item=item)
    usage = {
        "input_tokens": TOKENS[0],
        "output_tokens": TOKENS[1],
        "input_tokens_details": {"cached_tokens": TOKENS[2]},
        "output_tokens_details": {"reasoning_tokens": TOKENS[3]},
    }
    whole = {"id": "resp_1", "status": "completed", "usage": usage}
    return sse(*out, {"type": "response.completed", "response": whole})


def cohere_stream(said: list[Segment], cut: Cut) -> list[bytes]:
    out: list[dict[str, Any]] = [{"type": "message-start", "id": "c1"}]
    calls = 0
    for segment in said:
        match segment:
            case Text(text) | Thought(text):
                kind = "text" if isinstance(segment, Text) else "thinking"
                for piece in cut(text):
                    message: dict[str, Any] = {"message": {"content": {kind: piece}}}
                    out.append({"type": "content-delta", "index": 0, "delta": message})
            case ToolCall(identifier, name, text):
                made: dict[str, Any] = {"id": identifier, "function": {"name": name}}
                message = {"message": {"tool_calls": made}}
                out.append({"type": "tool-call-start", "index": calls, "delta": message})
                for piece in cut(text):
                    message = {"message": {"tool_calls": {"function": {"arguments": piece}}}}
                    out.append({"type": "tool-call-delta", "index": calls, "delta": message})
                calls += 1
    counted = {"billed_units": {"input_tokens": TOKENS[0], "output_tokens": TOKENS[1]}}
    end = {"finish_reason": "TOOL_CALL" if calls else "COMPLETE", "usage": counted}
    return sse(*out, {"type": "message-end", "delta": end})


def has_calls(said: list[Segment]) -> bool:
    return any(isinstance(segment, ToolCall) for segment in said)


STREAMS: dict[str, Callable[[list[Segment], Cut], list[bytes]]] = {
    "openai-responses": responses_stream,
    "anthropic-messages": messages_stream,
    "gemini": gemini_stream,
    "bedrock-converse": converse_stream,
    "cohere-v2": cohere_stream,
}
COUNTED: dict[str, tuple[int, int, int, int]] = {
    "openai-chat": TOKENS,
    "openai-responses": TOKENS,
    "anthropic-messages": TOKENS,
    "gemini": TOKENS,
    "bedrock-converse": (*TOKENS[:3], 0),
    "cohere-v2": (*TOKENS[:2], 0, 0),
}
"""What each format can tell of `TOKENS`."""
