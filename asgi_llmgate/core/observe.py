"""What the events of each dialect's stream say about the call.

An observer is given one decoded event at a time and notes what it says in a `Seen`. Nothing here
may raise, whatever a provider sends: types are checked before use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asgi_llmgate.core.counts import mapping, number
from asgi_llmgate.core.sizes import chat_bytes, gemini_bytes, size_of
from asgi_llmgate.core.usage import read_model
from asgi_llmgate.core.withhold import is_usage_only

__all__ = ["Observer", "Seen", "observer_for", "response_finish"]

# A provider's message may quote a whole prompt.
MAX_ERROR_CHARS = 500


class Seen:
    """What a stream has said so far.

    `answer` is shaped like a whole answer with its usage; `expects_end` says that its dialect
    marks the end of a stream.
    """

    __slots__ = (
        "answer",
        "complete",
        "error",
        "expects_end",
        "failed",
        "finish_reason",
        "first_content",
        "has_provisional_usage",
        "has_usage_event",
        "model",
        "output_bytes",
    )

    def __init__(self) -> None:
        self.answer: Mapping[str, Any] | None = None
        self.has_provisional_usage = False
        self.has_usage_event = False
        self.model: str | None = None
        self.complete = False
        self.expects_end = False
        self.failed = False
        self.error: str | None = None
        self.finish_reason: str | None = None
        self.first_content = False
        self.output_bytes = 0

    def wrote(self, size: int) -> None:
        if size:
            self.output_bytes += size
            self.first_content = True

    def finish(self, reason: object) -> None:
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
            self.complete = True

    def fail(self, error: object) -> None:
        """Note an error; objects are searched for their message."""
        self.failed = True
        if isinstance(error, dict):
            error = error.get("message") or error.get("type") or error.get("code")
        if isinstance(error, str) and self.error is None:
            self.error = error[:MAX_ERROR_CHARS]

    def name_model(self, answer: Mapping[str, Any]) -> None:
        if self.model is None:
            self.model = read_model(None, answer)


Observer = Callable[[Seen, dict[str, Any]], None]


def observer_for(wire_format: str | None) -> Observer:
    """Return the observer of a format's stream; unknown formats go by the look of each event."""
    return _OBSERVERS.get(wire_format or "", observe_any)


def observe_chat(seen: Seen, event: dict[str, Any]) -> None:
    """OpenAI chat and legacy completions, and the many who speak like them."""
    choices = event.get("choices")
    if isinstance(choices, list):
        seen.expects_end = True
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict):
                seen.wrote(chat_bytes(delta))
            else:
                seen.wrote(size_of(choice.get("text")))
            reason = choice.get("finish_reason")
            if reason is not None:
                seen.finish(reason)
    if isinstance(event.get("usage"), dict):
        seen.answer = event
        seen.has_usage_event = seen.has_usage_event or is_usage_only(event)
    elif "usage" in mapping(event.get("x_groq")):
        seen.answer = event
    if seen.model is None:
        seen.model = read_model(None, event)
    if event.get("error"):
        seen.fail(event["error"])


def observe_anthropic(seen: Seen, event: dict[str, Any]) -> None:
    match event.get("type"):
        case "content_block_delta":
            delta = mapping(event.get("delta"))
            size = size_of(delta.get("text")) + size_of(delta.get("thinking"))
            seen.wrote(size + size_of(delta.get("partial_json")))
        case "content_block_start":
            block = mapping(event.get("content_block"))
            if block.get("type") not in ("text", "thinking"):
                seen.first_content = True
            size = size_of(block.get("text")) + size_of(block.get("thinking"))
            seen.wrote(size + size_of(block.get("name")))
        case "message_start":
            seen.expects_end = True
            message = mapping(event.get("message"))
            seen.name_model(message)
            _merge_usage(seen, message.get("usage"), provisional=True)
        case "message_delta":
            reason = mapping(event.get("delta")).get("stop_reason")
            if isinstance(reason, str):
                seen.finish_reason = reason
            _merge_usage(seen, event.get("usage"), provisional=False)
        case "message_stop":
            seen.complete = True
        case "error":
            seen.fail(event.get("error"))
    if "amazon-bedrock-invocationMetrics" in event and seen.answer is None:
        seen.answer = event


def _merge_usage(seen: Seen, usage: object, *, provisional: bool) -> None:
    """Keep the largest of each count: they are cumulative, and some vendors repeat them as 0."""
    if not isinstance(usage, dict):
        return
    merged: dict[str, Any] = dict(mapping(mapping(seen.answer).get("usage")))
    for name, value in usage.items():
        known = number(merged.get(name))
        if value is not None and (known is None or (number(value) or 0) > known):
            merged[name] = value
    seen.answer = {"usage": merged}
    seen.has_provisional_usage = provisional


def observe_responses(seen: Seen, event: dict[str, Any]) -> None:
    kind = event.get("type")
    if not isinstance(kind, str):
        if event.get("error"):
            seen.fail(event["error"])
        return
    if kind.endswith(".delta"):
        # Audio is base64, not text; its transcript has events of its own.
        if not kind.endswith("audio.delta"):
            seen.wrote(size_of(event.get("delta")))
    elif kind == "response.output_item.added":
        item = mapping(event.get("item"))
        if item.get("type") not in ("message", "reasoning"):
            seen.first_content = True
            seen.wrote(size_of(item.get("name")))
    elif kind in ("response.completed", "response.incomplete", "response.failed"):
        response = mapping(event.get("response"))
        seen.answer = response
        seen.complete = True
        seen.model = read_model(None, response) or seen.model
        seen.finish_reason = response_finish(response)
        if kind == "response.failed":
            seen.fail(response.get("error"))
    elif kind == "error":
        seen.fail(event.get("error") or event)
    elif kind == "response.created":
        seen.expects_end = True
        seen.name_model(mapping(event.get("response")))


def response_finish(response: Mapping[str, Any]) -> str | None:
    """Return why a Responses answer ended: its status, or what made it incomplete."""
    reason = mapping(response.get("incomplete_details")).get("reason") or response.get("status")
    return reason if isinstance(reason, str) else None


def observe_gemini(seen: Seen, event: dict[str, Any]) -> None:
    candidates = event.get("candidates")
    if isinstance(candidates, list):
        seen.expects_end = True
        for candidate in candidates:
            if isinstance(candidate, dict):
                seen.wrote(gemini_bytes(candidate))
                seen.finish(candidate.get("finishReason"))
    # A blocked prompt has no candidates.
    if "promptFeedback" in event:
        seen.finish(mapping(event["promptFeedback"]).get("blockReason"))
    if isinstance(event.get("usageMetadata"), dict):
        seen.answer = event
    seen.has_provisional_usage = not seen.complete
    if seen.model is None:
        seen.model = read_model(None, event)
    if event.get("error"):
        seen.fail(event["error"])


def observe_converse(seen: Seen, event: dict[str, Any]) -> None:
    """Bedrock Converse: the frame's event type is the only key."""
    if "contentBlockDelta" in event:
        delta = mapping(mapping(event["contentBlockDelta"]).get("delta"))
        size = size_of(delta.get("text")) + size_of(mapping(delta.get("toolUse")).get("input"))
        seen.wrote(size + size_of(mapping(delta.get("reasoningContent")).get("text")))
    elif "contentBlockStart" in event:
        seen.first_content = True
        start = mapping(mapping(event["contentBlockStart"]).get("start"))
        seen.wrote(size_of(mapping(start.get("toolUse")).get("name")))
    elif "messageStop" in event:
        stop = mapping(event["messageStop"])
        reason = stop.get("stopReason")
        seen.finish_reason = reason if isinstance(reason, str) else None
        if stop.get("additionalModelResponseFields"):
            seen.answer = stop
    elif "metadata" in event:
        seen.answer = {**(seen.answer or {}), **mapping(event["metadata"])}
        seen.complete = True


def observe_cohere(seen: Seen, event: dict[str, Any]) -> None:
    delta = mapping(event.get("delta"))
    match event.get("type"):
        case "content-delta" | "tool-plan-delta" | "tool-call-start" | "tool-call-delta":
            message = mapping(delta.get("message"))
            content = mapping(message.get("content"))
            size = size_of(content.get("text")) + size_of(content.get("thinking"))
            seen.wrote(size + chat_bytes(message))
        case "message-end":
            seen.answer = delta
            seen.finish(delta.get("finish_reason"))
            seen.complete = True
            if delta.get("error"):
                seen.fail(delta["error"])


def observe_media(seen: Seen, event: dict[str, Any]) -> None:
    """Images and audio: partial results, then one event with the usage."""
    if isinstance(event.get("usage"), dict):
        seen.answer = event
    kind = event.get("type")
    if isinstance(kind, str):
        seen.first_content = True
        if kind.endswith((".done", ".completed")):
            seen.complete = True
        if kind == "transcript.text.delta":
            seen.wrote(size_of(event.get("delta")))
    if event.get("error"):
        seen.fail(event["error"])


def observe_any(seen: Seen, event: dict[str, Any]) -> None:
    """Tell the dialect by the look of the event."""
    kind = event.get("type")
    if "choices" in event:
        observe_chat(seen, event)
    elif "candidates" in event or "usageMetadata" in event:
        observe_gemini(seen, event)
    elif isinstance(kind, str) and kind.startswith("response."):
        observe_responses(seen, event)
    elif isinstance(kind, str) and "-" in kind:
        observe_cohere(seen, event)
    elif isinstance(kind, str):
        observe_anthropic(seen, event)
    elif event.get("error"):
        seen.fail(event["error"])
    elif isinstance(event.get("usage"), dict) or "amazon-bedrock-invocationMetrics" in event:
        seen.answer = event


_OBSERVERS: dict[str, Observer] = {
    "openai-chat": observe_chat,
    "openai-completions": observe_chat,
    "openai-responses": observe_responses,
    "openai-images": observe_media,
    "openai-audio": observe_media,
    "anthropic-messages": observe_anthropic,
    "gemini": observe_gemini,
    "bedrock-converse": observe_converse,
    "cohere-v2": observe_cohere,
}
