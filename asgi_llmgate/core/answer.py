"""What a whole JSON answer says besides its usage, told by the names it uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.counts import mapping
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.observe import response_finish
from asgi_llmgate.core.sizes import chat_bytes, gemini_bytes, size_of, text_bytes

__all__ = ["answer_bytes", "answer_finish"]


def answer_finish(answer: Mapping[str, Any]) -> str | None:
    """Return why the model stopped, in the dialect's own words."""
    reason: object = None
    if choices := answer.get("choices"):
        reason = _first(choices).get("finish_reason")
    elif "stop_reason" in answer:  # Anthropic
        reason = answer["stop_reason"]
    elif "candidates" in answer:
        reason = _first(answer["candidates"]).get("finishReason")
    elif "promptFeedback" in answer:
        reason = mapping(answer["promptFeedback"]).get("blockReason")
    elif "stopReason" in answer:  # Converse
        reason = answer["stopReason"]
    elif "finish_reason" in answer:  # Cohere
        reason = answer["finish_reason"]
    elif answer.get("object") == "response":
        return response_finish(answer)
    return reason if isinstance(reason, str) else None


def answer_bytes(answer: Mapping[str, Any]) -> int:
    """Return the UTF-8 bytes the model wrote: text, reasoning, tool names and arguments."""
    size = size_of(answer.get("text"))  # a transcription
    for choice in _objects(answer.get("choices")):
        size += chat_bytes(mapping(choice.get("message"))) + size_of(choice.get("text"))
    for candidate in _objects(answer.get("candidates")):
        size += gemini_bytes(candidate)
    size += _blocks_bytes(answer.get("content"))
    message = mapping(answer.get("message"))
    if message:  # Cohere
        size += chat_bytes(message)
    output = answer.get("output")
    for item in _objects(output):  # Responses
        size += text_bytes(item.get("content")) + text_bytes(item.get("summary"))
        size += size_of(item.get("name")) + size_of(item.get("arguments"))
    if isinstance(output, dict):  # Converse
        size += _blocks_bytes(mapping(output.get("message")).get("content"))
    return size


def _blocks_bytes(blocks: object) -> int:
    """Return the size of Anthropic's or Converse's content blocks."""
    size = text_bytes(blocks)
    for block in _objects(blocks):
        reasoning = mapping(mapping(block.get("reasoningContent")).get("reasoningText"))
        size += size_of(reasoning.get("text"))
        call = mapping(block.get("toolUse")) or block
        if "input" in call:
            size += size_of(call.get("name")) + len(dumps(call["input"]))
    return size


def _objects(values: object) -> list[Mapping[str, Any]]:
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, dict)]


def _first(values: object) -> Mapping[str, Any]:
    return mapping(values[0]) if isinstance(values, list) and values else {}
