"""A stored answer given again in the form that is asked for now: JSON or a stream, in its dialect.

An answer that is asked for in the form in which it came is given byte for byte. For the other form
a stream is folded into the one object it spells, or an object is told as the events that spell it.
Whatever cannot be told without guessing is not told at all: then the stored answer is of no use
for this request, and the provider is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.core.json_stream import ArrayDecoder
from asgi_llmgate.core.replay_anthropic import fold_anthropic, tell_anthropic
from asgi_llmgate.core.replay_chat import (
    chat_usage,
    fold_chat,
    fold_completions,
    scan_chat,
    tell_chat,
    tell_completions,
    without_usage,
)
from asgi_llmgate.core.replay_gemini import fold_gemini, tell_gemini
from asgi_llmgate.core.replay_responses import fold_responses, tell_responses
from asgi_llmgate.core.sse import EventDecoder
from asgi_llmgate.types import Usage

__all__ = [
    "ARRAY",
    "CACHEABLE",
    "EVENTS",
    "JSON",
    "Form",
    "Wanted",
    "folded",
    "form_of",
    "replay",
    "whole_form",
]

JSON, EVENTS, EVENTS_USAGE, ARRAY = "json", "events", "events+usage", "array"
Form = str

STREAMED = frozenset(
    {"openai-chat", "openai-completions", "openai-responses", "anthropic-messages", "gemini"}
)
_LISTS: dict[str, tuple[str, ...]] = {
    "openai-embeddings": ("data",),
    "openai-moderations": ("results",),
    "openai-rerank": ("results", "data"),
    "gemini-embeddings": ("embeddings", "embedding"),
}
CACHEABLE = STREAMED | frozenset(_LISTS)
"""Formats whose answers can be stored."""

_USAGE_ON_REQUEST = frozenset({"openai-chat", "openai-completions"})

CONTENT_TYPES = {
    JSON: b"application/json",
    EVENTS: b"text/event-stream; charset=utf-8",
    ARRAY: b"application/json",
}

# Why a model stopped, where nothing is missing. What is not here is not stored: a word of some
# vendor's own may mean that he cut the answer.
CLEAN_CHAT = frozenset({"stop", "tool_calls", "function_call", "eos"})
_CLEAN_ANTHROPIC = frozenset({"end_turn", "stop_sequence", "tool_use"})


class Wanted(NamedTuple):
    """The form a caller asks for. `with_usage` is OpenAI's `stream_options.include_usage`."""

    form: Form
    with_usage: bool = False


def form_of(wire_format: str, content_type: bytes) -> Form | None:
    """Return the form of an answer by its content type, None if it has none of them."""
    if content_type.startswith(b"text/event-stream"):
        return EVENTS if wire_format in STREAMED else None
    if content_type.startswith(b"application/json"):
        return JSON
    return None


def whole_form(wire_format: str, form: Form, body: bytes) -> Form | None:
    """Return the form of a whole answer; None if it is cut, filtered, failed or unfinished.

    A stream that reports its usage has a form of its own: `events+usage`.
    """
    try:
        if form == EVENTS and wire_format == "openai-chat":
            found = scan_chat(body)
            if found is not None:
                reasons, has_usage = found
                is_whole = bool(reasons) and reasons <= CLEAN_CHAT
                return (EVENTS_USAGE if has_usage else EVENTS) if is_whole else None
        whole = folded(wire_format, form, body)
        if whole is None or not _is_clean(wire_format, whole[0]):
            return None
        if form == EVENTS and wire_format in _USAGE_ON_REQUEST:
            return EVENTS_USAGE if isinstance(whole[0].get("usage"), dict) else EVENTS
        return form
    except (JSONError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return None  # Not of the shape its format has.


def replay(
    wire_format: str, form: Form, body: bytes, wanted: Wanted, usage: Usage | None
) -> tuple[bytes, bytes] | None:
    """Return content type and body in the form that is wanted, or None if that cannot be.

    Args:
        wire_format, form, body: The answer as it came.
        usage: What it used, if that is known and was counted by the provider.
    """
    content_type = CONTENT_TYPES[wanted.form]
    asked = EVENTS_USAGE if wanted.with_usage else wanted.form
    if form == asked:
        return content_type, body
    try:
        told = _told(wire_format, form, body, wanted, usage)
    except (JSONError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return None
    return None if told is None else (content_type, told)


def _told(
    wire_format: str, form: Form, body: bytes, wanted: Wanted, usage: Usage | None
) -> bytes | None:
    if wire_format in _USAGE_ON_REQUEST:
        return _told_chat(wire_format, form, body, wanted, usage)
    whole = folded(wire_format, form, body)
    if whole is None or not whole[1]:
        return None
    answer = whole[0]
    if wanted.form == JSON:
        return dumps(answer)
    if wire_format == "openai-responses":
        return tell_responses(answer)
    if wire_format == "anthropic-messages":
        return tell_anthropic(answer)
    if wire_format == "gemini":
        return tell_gemini(answer, as_array=wanted.form == ARRAY)
    return None


def _told_chat(
    wire_format: str, form: Form, body: bytes, wanted: Wanted, usage: Usage | None
) -> bytes | None:
    """OpenAI's streams report usage only if asked, so that a stored one may lack it."""
    whole = folded(wire_format, form, body)
    if whole is None:
        return None
    answer, is_foldable = whole
    has_usage = isinstance(answer.get("usage"), dict)
    if form == EVENTS_USAGE and wanted.form == EVENTS and not wanted.with_usage:
        return without_usage(body)
    if not is_foldable:
        return None
    needs_usage = wanted.form == JSON or wanted.with_usage
    if needs_usage and not has_usage:
        if usage is None or usage.estimated:
            return None
        answer["usage"] = chat_usage(usage)
    if wanted.form == JSON:
        return dumps(answer)
    tell = tell_chat if wire_format == "openai-chat" else tell_completions
    return tell(answer, with_usage=wanted.with_usage)


def folded(wire_format: str, form: Form, body: bytes) -> tuple[dict[str, Any], bool] | None:
    """Return the object that an answer spells, and whether it says all that the answer does.

    Raises what reading something of another shape raises.
    """
    if form == JSON:
        answer = loads(body)
        return (answer, True) if isinstance(answer, dict) else None
    if form == ARRAY:
        decoder = ArrayDecoder()
        events = [loads(text) for text in decoder.feed(body)]
        return fold_gemini(events) if decoder.is_complete else None
    fold = _FOLDS.get(wire_format)
    if fold is None:
        return None
    decoder_ = EventDecoder()
    texts = [event.data for event in decoder_.feed(body) + decoder_.close()]
    payloads: list[dict[str, Any]] = []
    for text in texts:
        if text.startswith("[DONE]"):
            break
        if not text.strip():
            continue
        payload = loads(text)
        if not isinstance(payload, dict) or payload.get("error"):
            return None
        payloads.append(payload)
    return fold(payloads)


def _is_clean(wire_format: str, answer: Mapping[str, Any]) -> bool:
    if answer.get("error"):
        return False
    match wire_format:
        case "openai-chat" | "openai-completions":
            choices = answer.get("choices")
            return bool(choices) and all(
                c.get("finish_reason") in CLEAN_CHAT for c in choices or ()
            )
        case "openai-responses":
            # Compaction has another object, and no status.
            status = answer.get("status", "completed")
            return (
                status == "completed"
                and not answer.get("incomplete_details")
                and isinstance(answer.get("output"), list)
            )
        case "anthropic-messages":
            return answer.get("type") == "message" and answer.get("stop_reason") in _CLEAN_ANTHROPIC
        case "gemini":
            candidates = answer.get("candidates")
            feedback = answer.get("promptFeedback") or {}
            return (
                bool(candidates)
                and all(c.get("finishReason") == "STOP" for c in candidates or ())
                and not feedback.get("blockReason")
            )
    return any(bool(answer.get(name)) for name in _LISTS[wire_format])


Fold = Callable[[list[dict[str, Any]]], tuple[dict[str, Any], bool] | None]

_FOLDS: dict[str, Fold] = {
    "openai-chat": fold_chat,
    "openai-completions": fold_completions,
    "openai-responses": fold_responses,
    "anthropic-messages": fold_anthropic,
    "gemini": fold_gemini,
}
