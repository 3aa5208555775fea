"""Anthropic's event stream, written from chunks of the inner form.

Order: message_start, then per block content_block_start, deltas, content_block_stop, then
message_delta (stop reason and usage) and message_stop. One block is open at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._one_by_one import OneByOne
from asgi_llmgate.providers._parts import UNSIGNED, annotations_of, clean_id, seal_envelope
from asgi_llmgate.providers._sse import named_event
from asgi_llmgate.providers.inner import Call, Inner
from asgi_llmgate.providers.provider_errors import ProviderError, anthropic_error

__all__ = [
    "TOOL_ID",
    "AnthropicStreamEncoder",
    "citations",
    "shown_model",
    "stop_fields",
    "usage_fields",
]

TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")

_STOP = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_NATIVE = frozenset({"pause_turn", "model_context_window_exceeded", "compaction"})


class AnthropicStreamEncoder:
    """State: which block is open (`_open`: text, thinking or the index of a tool call)."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._started = False
        self._index = -1
        self._open: str | int | None = None
        self._choice: dict[str, Any] = {}
        self._usage: Mapping[str, Any] | None = None
        self._refused = False
        self._tools: dict[int, int] = {}
        self._order = OneByOne()
        self._texts: list[str] = []

    def feed(self, chunk: Inner) -> bytes:
        out = b"" if self._started else self._start(chunk)
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not choices or choices[0].get("index"):
            return out  # Anthropic has one answer only.
        choice = choices[0]
        delta = choice["delta"]
        if delta:
            if delta.get("reasoning_content"):
                out += self._thinking(delta["reasoning_content"])
            for block in delta.get("thinking_blocks") or ():
                out += self._signature(block)
            text = delta.get("content")
            if text is None and delta.get("refusal"):
                text = delta["refusal"]
                self._refused = True
            if text:
                self._texts.append(text)
                out += self._enter("text", {"type": "text", "text": ""})
                out += self._delta({"type": "text_delta", "text": text})
            if delta.get("annotations"):
                out += self._cite(delta)
            for call in delta.get("tool_calls") or ():
                for fragment in self._order.feed(call):
                    out += self._tool(fragment)
        if choice.get("finish_reason"):
            self._choice = choice
        return out

    def close(self) -> bytes:
        out = b"" if self._started else self._start({})
        out += self._waiting_tools() + self._leave()
        stop = stop_fields(self._choice, refused=self._refused)
        event = {"type": "message_delta", "delta": stop, "usage": usage_fields(self._usage)}
        return out + named_event(event) + named_event({"type": "message_stop"})

    def error(self, error: ProviderError) -> bytes:
        return named_event(anthropic_error(error, self._call.id))

    def _start(self, chunk: Inner) -> bytes:
        self._started = True
        message: dict[str, Any] = {
            "id": chunk.get("id") or f"msg_{self._call.id}",
            "type": "message",
            "role": "assistant",
            "model": shown_model(chunk, self._call),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_fields(chunk.get("usage")),
        }
        return named_event({"type": "message_start", "message": message})

    def _enter(self, kind: str | int, block: dict[str, Any]) -> bytes:
        if self._open == kind:
            return b""
        out = self._leave()
        if self._tools and isinstance(kind, str):
            out += self._waiting_tools() + self._leave()
        self._open = kind
        self._index += 1
        event = {"type": "content_block_start", "index": self._index, "content_block": block}
        return out + named_event(event)

    def _leave(self) -> bytes:
        if self._open is None:
            return b""
        out = b""
        if self._open == "thinking":
            out = self._delta({"type": "signature_delta", "signature": UNSIGNED})
        self._open = None
        return out + named_event({"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return named_event(event)

    def _thinking(self, text: str) -> bytes:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        out = self._enter("thinking", block)
        return out + self._delta({"type": "thinking_delta", "thinking": text})

    def _signature(self, block: Mapping[str, Any]) -> bytes:
        """Sign the thinking block that is open, or write one that holds only the signature."""
        native = block.get("origin", "anthropic") == "anthropic"
        if native and block.get("type") == "redacted_thinking":
            out = self._leave()
            sent = {"type": "redacted_thinking", "data": block["data"]}
            return out + self._enter("redacted", sent) + self._leave()
        signature = block.get("signature") if native else seal_envelope(block)
        out = b""
        if self._open != "thinking":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            out = self._enter("thinking", empty)
        if signature:
            out += self._delta({"type": "signature_delta", "signature": signature})
            self._open = "signed"
        return out + self._leave()

    def _cite(self, delta: Mapping[str, Any]) -> bytes:
        """Cite in the open text; what is cited elsewhere has no place in this format."""
        if self._open != "text":
            return b""
        text = "".join(self._texts)
        return b"".join(
            self._delta({"type": "citations_delta", "citation": citation})
            for citation in citations(delta, text)
        )

    def _waiting_tools(self) -> bytes:
        return b"".join(map(self._tool, self._order.rest()))

    def _tool(self, call: Mapping[str, Any]) -> bytes:
        number = call.get("index", 0)
        function = call.get("function") or {}
        out = b""
        if number not in self._tools:
            cleaned = clean_id(call.get("id") or f"call_{self._call.id}_{number}", TOOL_ID)
            google = (call.get("extra_content") or {}).get("google") or {}
            if google.get("thought_signature"):
                sealed = {
                    "type": "tool_signature",
                    "id": cleaned,
                    "signature": google["thought_signature"],
                    "origin": "gemini",
                }
                out += self._leave() + self._signature(sealed)
            block: dict[str, Any] = {
                "type": "tool_use",
                "id": cleaned,
                "name": function.get("name") or "",
                "input": {},
            }
            out += self._enter(number, block)
            self._tools[number] = self._index
        arguments = function.get("arguments")
        if arguments:
            fragment = {"type": "input_json_delta", "partial_json": arguments}
            event = {
                "type": "content_block_delta",
                "index": self._tools[number],
                "delta": fragment,
            }
            out += named_event(event)
        return out


def shown_model(answer: Mapping[str, Any], call: Call) -> Any:
    """Return the model that an answer names: the one its caller asked for.

    Claude Code sends signed reasoning back to no other model than the one that it asked.
    """
    return call.model or answer.get("model")


def citations(message: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    """Return the web sources of `text` as Anthropic writes them."""
    return [
        {
            "type": "web_search_result_location",
            "url": citation.get("url"),
            "title": citation.get("title"),
            "cited_text": text[citation.get("start_index") or 0 : citation.get("end_index") or 0],
            "encrypted_index": "",
        }
        for citation in annotations_of(message)
    ]


def stop_fields(choice: Mapping[str, Any], *, refused: bool) -> dict[str, Any]:
    """Return stop_reason and stop_sequence (and stop_details of a refusal)."""
    finish = choice.get("finish_reason") or "stop"
    native = choice.get("provider_finish_reason")
    matched = choice.get("stop_sequence")
    if refused or finish == "content_filter":
        details = {"type": "refusal", "category": None, "explanation": None}
        return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    if native in _NATIVE:
        reason = native
    elif finish == "stop" and matched is not None:
        reason = "stop_sequence"
    else:
        reason = _STOP.get(finish, "end_turn")
    return {"stop_reason": reason, "stop_sequence": matched}


def usage_fields(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return Anthropic's usage: input_tokens excludes what was read from or written to cache."""
    usage = usage or {}
    details = usage.get("prompt_tokens_details") or {}
    read = details.get("cached_tokens") or 0
    written = details.get("cache_write_tokens") or 0
    fields: dict[str, Any] = {
        "input_tokens": max(0, (usage.get("prompt_tokens") or 0) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if reasoning:
        fields["output_tokens_details"] = {"thinking_tokens": reasoning}
    return fields
