"""Change what a provider of the same dialect is known to spell differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.registry import Provider

__all__ = ["changes_for"]

FORMATS = frozenset({"openai-chat", "openai-completions"})


def changes_for(
    provider: Provider, wire_format: str | None, request: Mapping[str, Any]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the fields to set and the names to drop, so that `provider` understands `request`.

    A field is renamed unless the other name was sent too; content parts become one string where
    all of them are text. Everything else stays as it is.
    """
    if wire_format not in FORMATS or not (provider.renames or provider.content_must_be_string):
        return {}, frozenset()
    changes: dict[str, Any] = {}
    dropped = set()
    for name, theirs in provider.renames.items():
        if name in request and theirs not in request:
            changes[theirs] = request[name]
            dropped.add(name)
    messages = request.get("messages")
    if provider.content_must_be_string and isinstance(messages, list):
        flat = [_flattened(message) for message in messages]
        if any(new is not old for new, old in zip(flat, messages, strict=True)):
            changes["messages"] = flat
    return changes, frozenset(dropped)


def _flattened(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or not content:
        return message
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in content
    ]
    if not all(isinstance(text, str) for text in texts):
        return message
    return {**message, "content": "".join(text for text in texts if isinstance(text, str))}
