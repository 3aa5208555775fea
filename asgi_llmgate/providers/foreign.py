"""Take out of a request what other families of models signed, where its bytes go home.

A caller's history holds the reasoning of whoever answered last time. Signatures of another family
were sealed for its dialect (`_parts.seal_envelope`, `gemini_encoder`), so that they come back; a
translator opens them. A request that is relayed as it is meets a provider who would refuse them.
"""

from __future__ import annotations

import functools
from typing import Any

from asgi_llmgate.providers._parts import open_envelope
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.gemini_contents import DUMMY_SIGNATURE
from asgi_llmgate.providers.gemini_encoder import open_signature

__all__ = ["MARKS", "may_hold_foreign", "without_foreign"]

# A request without these bytes has nothing foreign in it. Inside JSON strings nothing of them is
# ever escaped.
MARKS = {
    "anthropic-messages": b'"llmgate.eyJ',
    "openai-responses": b'"llmgate.eyJ',
    "gemini": b'"bGxtZ2F0',
    "openai-chat": b'"thinking_blocks"',
}


def may_hold_foreign(wire_format: str | None, body: bytes) -> bool:
    """Tell whether it is worth looking; one search through the bytes."""
    mark = MARKS.get(wire_format or "")
    return mark is not None and mark in body


def without_foreign(wire_format: str, request: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the fields of `request` to `model` that change; empty if nothing foreign is in it."""
    match wire_format:
        case "anthropic-messages":
            changes = _changed(request, "messages", _anthropic)
            if changes and _lacks_thinking(request, changes["messages"]):
                changes["thinking"] = {"type": "disabled"}
            return changes
        case "openai-responses":
            return _changed(request, "input", _response_item)
        case "gemini":
            signs = capabilities_of(model).thinking == "level"
            return _changed(request, "contents", functools.partial(_gemini, signs=signs))
        case "openai-chat":
            return _changed(request, "messages", _chat)
    return {}


def _changed(request: dict[str, Any], name: str, clean: Any) -> dict[str, Any]:
    given = request.get(name)
    if not isinstance(given, list):
        return {}
    cleaned = [(old, clean(old) if isinstance(old, dict) else old) for old in given]
    kept = [new for old, new in cleaned if new is not None or old is None]
    same = len(kept) == len(given) and all(a is b for a, b in zip(kept, given, strict=True))
    return {} if same else {name: kept}


def _anthropic(message: dict[str, Any]) -> dict[str, Any] | None:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    kept = [block for block in content if not _is_sealed(block, "signature", "data")]
    if len(kept) == len(content):
        return message
    return {**message, "content": kept} if kept else None


def _lacks_thinking(request: dict[str, Any], messages: list[Any]) -> bool:
    """Tell whether a budget for thinking meets a tool call whose thinking was taken out.

    Anthropic refuses that, and takes the call without any thinking.
    """
    thinking = request.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        return False
    turns = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    content = turns[-1].get("content") if turns else None
    kinds = [b.get("type") for b in content or () if isinstance(b, dict)]
    return "tool_use" in kinds and not {"thinking", "redacted_thinking"} & set(kinds)


def _response_item(item: dict[str, Any]) -> dict[str, Any] | None:
    return None if _is_sealed(item, "encrypted_content") else item


def _chat(message: dict[str, Any]) -> dict[str, Any]:
    blocks = message.get("thinking_blocks")
    # `origin` is our own word, so these came from us.
    if not isinstance(blocks, list) or not any(
        isinstance(block, dict) and "origin" in block for block in blocks
    ):
        return message
    return {name: value for name, value in message.items() if name != "thinking_blocks"}


def _gemini(content: dict[str, Any], *, signs: bool) -> dict[str, Any]:
    parts = content.get("parts")
    if not isinstance(parts, list):
        return content
    cleaned = [_part(part, signs=signs) if isinstance(part, dict) else part for part in parts]
    same = all(a is b for a, b in zip(cleaned, parts, strict=True))
    return content if same else {**content, "parts": cleaned}


def _part(part: dict[str, Any], *, signs: bool) -> dict[str, Any]:
    signature = part.get("thoughtSignature")
    if not signature:
        return part
    native, blocks = open_signature(signature)
    if native is not None and not blocks:
        return part
    rest = {name: value for name, value in part.items() if name != "thoughtSignature"}
    if native is None and signs and "functionCall" in part:
        native = DUMMY_SIGNATURE
    return rest if native is None else {**rest, "thoughtSignature": native}


def _is_sealed(block: Any, *names: str) -> bool:
    return isinstance(block, dict) and any(
        open_envelope(block.get(name)) is not None for name in names
    )
