"""Gemini: each event is a whole answer of its own, whose parts follow one another.

Source: REST reference of GenerateContentResponse, recorded streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps

__all__ = ["fold_gemini", "tell_gemini"]


def fold_gemini(events: list[dict[str, Any]]) -> tuple[dict[str, Any], bool] | None:
    answer: dict[str, Any] = {}
    candidates: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.get("error"):
            return None
        answer.update({name: value for name, value in event.items() if name != "candidates"})
        for piece in event.get("candidates") or ():
            index = piece.get("index", 0)
            candidate = candidates.setdefault(index, {})
            for name, value in piece.items():
                if name != "content":
                    candidate[name] = value
            content = piece.get("content")
            if content is not None:
                kept = candidate.setdefault("content", {"parts": [], "role": "model"})
                kept["role"] = content.get("role", kept["role"])
                for part in content.get("parts") or ():
                    _add(kept["parts"], part)
    if not candidates:
        return (answer, True) if answer else None
    answer["candidates"] = [candidates[index] for index in sorted(candidates)]
    return answer, True


def _add(parts: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Append a part; plain text continues plain text of the same kind."""
    if parts and _is_plain(part) and _is_plain(parts[-1]):
        last = parts[-1]
        if last.get("thought") == part.get("thought"):
            parts[-1] = last | {"text": last["text"] + part["text"]}
            return
    # An end marker without content.
    if part != {"text": ""} or not parts:
        parts.append(part)


def _is_plain(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("text"), str) and part.keys() <= {"text", "thought"}


def tell_gemini(answer: Mapping[str, Any], *, as_array: bool) -> bytes:
    text = dumps(answer)
    return b"[" + text + b"]" if as_array else b"data: " + text + b"\r\n\r\n"
