"""How much a model wrote, in UTF-8 bytes: text, reasoning, tool names and arguments.

Nothing here raises, whatever a provider sends: what is of another type has no size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.counts import mapping
from asgi_llmgate.core.json import dumps

__all__ = ["chat_bytes", "gemini_bytes", "size_of", "text_bytes"]


def size_of(text: object) -> int:
    """Return the UTF-8 bytes of a string, 0 for anything else."""
    if type(text) is not str:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def text_bytes(parts: object) -> int:
    """Return the bytes of a text, or of a list of content parts, however a dialect names them."""
    if type(parts) is str:
        return size_of(parts)
    size = 0
    if isinstance(parts, list):
        for part in parts:
            if isinstance(part, dict):
                for name in ("text", "thinking", "refusal"):
                    inner = part.get(name)
                    # Mistral's thinking is a list of parts again; deeper nesting does not occur.
                    if isinstance(inner, list):
                        size += sum(size_of(mapping(more).get("text")) for more in inner)
                    else:
                        size += size_of(inner)
    return size


def chat_bytes(message: Mapping[str, Any]) -> int:
    """Return the size of a chat message, or of the delta of one."""
    content = message.get("content")
    size = size_of(content) if type(content) is str else text_bytes(content)
    # Vendors that send both names send the same text.
    size += size_of(message.get("reasoning_content")) or size_of(message.get("reasoning"))
    size += size_of(message.get("refusal")) + size_of(message.get("tool_plan"))
    calls = message.get("tool_calls")
    if calls:
        for call in calls if isinstance(calls, list) else (calls,):
            size += _function_bytes(mapping(call).get("function"))
    if "function_call" in message:
        size += _function_bytes(message["function_call"])
    if "audio" in message:
        size += size_of(mapping(message["audio"]).get("transcript"))
    return size


def _function_bytes(function: object) -> int:
    function = mapping(function)
    return size_of(function.get("name")) + size_of(function.get("arguments"))


def gemini_bytes(candidate: Mapping[str, Any]) -> int:
    """Return the size of a candidate's parts."""
    size = 0
    parts = mapping(candidate.get("content")).get("parts")
    if isinstance(parts, list):
        for part in parts:
            if not isinstance(part, dict):
                continue
            size += size_of(part.get("text"))
            if isinstance(call := part.get("functionCall"), dict):
                size += size_of(call.get("name")) + len(dumps(call.get("args")))
            if isinstance(code := part.get("executableCode"), dict):
                size += size_of(code.get("code"))
    return size
