"""What a stored answer says, as one text; None if it is more or other than a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError
from asgi_llmgate.core.replay import folded

__all__ = ["answer_text"]

# What may stand beside the text without being something that the caller acts upon.
_SILENT = frozenset({"reasoning", "thinking", "redacted_thinking"})


def answer_text(wire_format: str, form: str, body: bytes) -> str | None:
    """Return the text of a whole answer, in the form in which it was stored.

    None for answers that call tools, hold pictures or sounds, refuse, or come in several versions:
    such are right for the very question only.
    """
    try:
        whole = folded(wire_format, form, body)
        if whole is None:
            return None
        text = _text(wire_format, whole[0])
    except (JSONError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return None
    return text if text and text.strip() else None


def _text(wire_format: str, answer: Mapping[str, Any]) -> str | None:
    match wire_format:
        case "openai-chat":
            [choice] = answer["choices"]
            message = choice["message"]
            others = ("tool_calls", "function_call", "audio", "refusal")
            if any(message.get(name) for name in others):
                return None
            return _only_text(message["content"])
        case "openai-completions":
            [choice] = answer["choices"]
            return _only_text(choice["text"])
        case "openai-responses":
            return _joined(
                part
                for item in answer["output"]
                if item.get("type") not in _SILENT
                for part in (item["content"] if item.get("type") == "message" else [{}])
            )
        case "anthropic-messages":
            return _joined(part for part in answer["content"] if part.get("type") not in _SILENT)
        case "gemini":
            [candidate] = answer["candidates"]
            parts = candidate["content"]["parts"]
            return _joined(part for part in parts if not part.get("thought"))
    return None


def _only_text(content: object) -> str | None:
    return content if isinstance(content, str) else None


def _joined(parts: Any) -> str | None:
    texts: list[str] = []
    for part in parts:
        text = part.get("text")
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)
