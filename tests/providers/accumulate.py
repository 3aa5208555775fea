"""Join chunks of the inner form into the response they stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def accumulate(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the response; one whose choices are in order and whose lists are joined."""
    response: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    calls: dict[tuple[int, int], dict[str, Any]] = {}
    for chunk in chunks:
        for name in ("id", "model"):
            if chunk.get(name):
                response.setdefault(name, chunk[name])
        for name in ("usage", "error"):
            if chunk.get(name):
                response[name] = chunk[name]
        for part in chunk.get("choices") or ():
            index = part.get("index", 0)
            choice = choices.setdefault(
                index, {"index": index, "message": {"role": "assistant", "content": None}}
            )
            for name in ("finish_reason", "provider_finish_reason", "stop_sequence"):
                if part.get(name):
                    choice[name] = part[name]
            _join(choice["message"], part.get("delta") or {}, index, calls)
    return response | {"choices": [choices[index] for index in sorted(choices)]}


def _join(
    message: dict[str, Any],
    delta: dict[str, Any],
    choice: int,
    calls: dict[tuple[int, int], dict[str, Any]],
) -> None:
    for name in ("content", "reasoning_content", "refusal"):
        if delta.get(name):
            message[name] = (message.get(name) or "") + delta[name]
    for name in ("thinking_blocks", "annotations", "citations", "images"):
        if delta.get(name):
            message.setdefault(name, []).extend(delta[name])
    for fragment in delta.get("tool_calls") or ():
        key = (choice, fragment["index"])
        if key not in calls:
            calls[key] = {
                "id": fragment["id"],
                "type": "function",
                "function": {"name": fragment["function"]["name"], "arguments": ""},
            }
            if fragment.get("extra_content"):
                calls[key]["extra_content"] = fragment["extra_content"]
            message.setdefault("tool_calls", []).append(calls[key])
        calls[key]["function"]["arguments"] += fragment.get("function", {}).get("arguments") or ""
