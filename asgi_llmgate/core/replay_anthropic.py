"""Anthropic messages: content blocks in pieces, and whole.

Source: the accumulator of anthropic-python (`lib/streaming/_messages.py`), recorded streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps, loads

__all__ = ["fold_anthropic", "tell_anthropic"]

_TOOLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


def fold_anthropic(events: list[dict[str, Any]]) -> tuple[dict[str, Any], bool] | None:
    answer: dict[str, Any] | None = None
    blocks: dict[int, dict[str, Any]] = {}
    arguments: dict[int, str] = {}
    is_whole, is_ended = True, False
    for event in events:
        match event.get("type"):
            case "message_start":
                answer = dict(event["message"])
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                index = event["index"]
                if not _add(blocks[index], event["delta"], arguments, index):
                    is_whole = False
            case "content_block_stop":
                index = event["index"]
                if index in arguments:
                    text = arguments.pop(index)
                    blocks[index]["input"] = loads(text) if text else {}
            case "message_delta" if answer is not None:
                _finish(answer, event)
            case "message_stop":
                is_ended = True
            case "ping":
                pass
            case _:
                is_whole = False
    if answer is None or not is_ended or arguments:
        return None
    answer["content"] = [blocks[index] for index in sorted(blocks)]
    return answer, is_whole


def _add(
    block: dict[str, Any], delta: Mapping[str, Any], arguments: dict[int, str], index: int
) -> bool:
    match delta.get("type"):
        case "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
        case "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            arguments[index] = arguments.get(index, "") + delta["partial_json"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        case _:
            return False
    return True


def _finish(answer: dict[str, Any], event: Mapping[str, Any]) -> None:
    answer.update(event["delta"])
    for name, value in event.items():
        if name == "usage" and isinstance(value, dict):
            # Cumulative; what is not repeated stays as it was at the start.
            known = {part: number for part, number in value.items() if number is not None}
            answer["usage"] = {**(answer.get("usage") or {}), **known}
        elif name not in ("type", "delta", "usage"):
            answer[name] = value


def tell_anthropic(answer: Mapping[str, Any]) -> bytes:
    usage = answer.get("usage") or {}
    begun = dict(answer) | {"content": [], "stop_reason": None, "stop_sequence": None}
    begun["usage"] = usage | {"output_tokens": min(1, usage.get("output_tokens", 0))}
    events = [_event("message_start", message=begun)]
    for index, block in enumerate(answer["content"]):
        empty, deltas = _pieces(block)
        events.append(_event("content_block_start", index=index, content_block=empty))
        events += [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(_event("content_block_stop", index=index))
    delta = {
        "stop_reason": answer.get("stop_reason"),
        "stop_sequence": answer.get("stop_sequence"),
    }
    if answer.get("container") is not None:
        delta["container"] = answer["container"]
    more = (
        {"context_management": answer["context_management"]}
        if answer.get("context_management")
        else {}
    )
    events.append(_event("message_delta", delta=delta, usage=usage, **more))
    events.append(_event("message_stop"))
    return b"".join(events)


def _pieces(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return how a block begins, and what is added to it."""
    empty = dict(block)
    deltas: list[dict[str, Any]] = []
    kind = block.get("type")
    if kind == "text":
        empty["text"] = ""
        citations = block.get("citations") or ()
        if citations:
            empty["citations"] = []
        deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
        if block.get("text"):
            deltas.append({"type": "text_delta", "text": block["text"]})
    elif kind == "thinking":
        empty |= {"thinking": "", "signature": ""}
        if block.get("thinking"):
            deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif kind in _TOOLS:
        empty["input"] = {}
        text = dumps(block.get("input") or {}).decode()
        deltas.append({"type": "input_json_delta", "partial_json": text})
    return empty, deltas


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dumps({"type": kind} | fields) + b"\n\n"
