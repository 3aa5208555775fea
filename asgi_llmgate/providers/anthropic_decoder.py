"""Anthropic's event stream, read into chunks of the inner form.

Usage in message_delta is cumulative and may repeat or correct that of message_start: the last
value of each field counts. Unknown events, blocks and deltas are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import delta, usage
from asgi_llmgate.providers._sse import PayloadDecoder
from asgi_llmgate.providers.inner import Call, Inner

__all__ = ["AnthropicStreamDecoder", "finish_of", "read_usage"]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "compaction": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class AnthropicStreamDecoder:
    """State: which block index is which tool call, and the thinking text of open blocks."""

    def __init__(self, call: Call) -> None:
        self._sse = PayloadDecoder()
        self._call = call
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, int] = {}
        self._json_block: int | None = None
        self._thoughts: dict[int, list[str]] = {}
        # Where a tool stands for a schema, text may turn out to be small talk before its call.
        self._held: list[str] | None = None if call.json_tool is None else []
        self.complete = self.ended = False

    @property
    def _unwrapped(self) -> bool:
        return self._json_block is not None and not self._calls

    def feed(self, data: bytes) -> list[Inner]:
        chunks: list[Inner] = []
        for event in self._sse.feed(data):
            if event is not None and not self.ended:
                self._event(event, chunks)
        return chunks

    def close(self) -> list[Inner]:
        return []

    def _event(self, event: dict[str, Any], chunks: list[Inner]) -> None:
        match event.get("type"):
            case "content_block_delta":
                self._delta(event["delta"], event.get("index", 0), chunks)
            case "content_block_start":
                self._start(event["content_block"], event.get("index", 0), chunks)
            case "message_start":
                message = event["message"]
                self._count(message.get("usage"))
                first = delta({"role": "assistant", "content": ""})
                chunks.append({"id": message.get("id"), "model": message.get("model"), **first})
            case "message_delta":
                self._count(event.get("usage"))
                stop = event.get("delta") or {}
                if stop.get("stop_reason"):
                    self.complete = True
                    if self._held and self._json_block is None:
                        chunks.append(delta({"content": "".join(self._held)}))
                    chunk = delta({})
                    chunk["choices"][0] |= finish_of(stop, unwrapped=self._unwrapped)
                    chunks.append(chunk)
            case "message_stop":
                self.complete = self.ended = True
                chunks.append({"choices": [], "usage": read_usage(self._usage)})
            case "error":
                self.ended = True
                chunks.append({"error": event.get("error") or event})
            case _:
                pass

    def _start(self, block: dict[str, Any], index: int, chunks: list[Inner]) -> None:
        match block.get("type"):
            case "tool_use":
                if block["name"] == self._call.json_tool:
                    self._json_block = index
                    return
                number = self._calls[index] = len(self._calls)
                name = self._call.tool_names.get(block["name"], block["name"])
                whole = dumps(block["input"]).decode() if block.get("input") else ""
                call = {
                    "index": number,
                    "id": block["id"],
                    "type": "function",
                    "function": {"name": name, "arguments": whole},
                }
                chunks.append(delta({"tool_calls": [call]}))
            case "redacted_thinking":
                sealed = {
                    "type": "redacted_thinking",
                    "data": block["data"],
                    "origin": "anthropic",
                }
                chunks.append(delta({"thinking_blocks": [sealed]}))
            case "text" if block.get("text"):
                chunks.append(delta({"content": block["text"]}))
            case "thinking" if block.get("thinking"):
                self._thoughts[index] = [block["thinking"]]
                chunks.append(delta({"reasoning_content": block["thinking"]}))
            case _:
                pass

    def _delta(self, change: dict[str, Any], index: int, chunks: list[Inner]) -> None:
        match change.get("type"):
            case "text_delta":
                if self._held is None:
                    chunks.append(delta({"content": change["text"]}))
                else:
                    self._held.append(change["text"])
            case "input_json_delta":
                fragment = change.get("partial_json")
                if not fragment:
                    return
                if index == self._json_block:
                    chunks.append(delta({"content": fragment}))
                elif index in self._calls:
                    call = {"index": self._calls[index], "function": {"arguments": fragment}}
                    chunks.append(delta({"tool_calls": [call]}))
            case "thinking_delta":
                self._thoughts.setdefault(index, []).append(change["thinking"])
                chunks.append(delta({"reasoning_content": change["thinking"]}))
            case "signature_delta":
                block = {
                    "type": "thinking",
                    "thinking": "".join(self._thoughts.pop(index, ())),
                    "signature": change["signature"],
                    "origin": "anthropic",
                }
                chunks.append(delta({"thinking_blocks": [block]}))
            case "citations_delta":
                chunks.append(delta(read_citation(change["citation"])))
            case _:
                pass

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        for name, value in (usage or {}).items():
            if value is not None:
                self._usage[name] = value


def finish_of(stop: Mapping[str, Any], *, unwrapped: bool) -> dict[str, Any]:
    """Return the finishing fields of a choice; `unwrapped`: a tool call became the answer."""
    native = stop.get("stop_reason") or "end_turn"
    finish = _FINISH.get(native, "stop")
    if unwrapped and finish == "tool_calls":
        finish = "stop"
    fields: dict[str, Any] = {"finish_reason": finish, "provider_finish_reason": native}
    if stop.get("stop_sequence") is not None:
        fields["stop_sequence"] = stop["stop_sequence"]
    return fields


def read_citation(citation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field of a message that holds `citation`."""
    if citation.get("url"):
        url = {"url": citation["url"], "title": citation.get("title") or ""}
        span = {"start_index": 0, "end_index": 0}
        return {"annotations": [{"type": "url_citation", "url_citation": url | span}]}
    return {"citations": [dict(citation)]}


def read_usage(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return usage in the inner form: what was read from and written to cache is input too."""
    read = raw.get("cache_read_input_tokens") or 0
    written = raw.get("cache_creation_input_tokens") or 0
    details = raw.get("output_tokens_details") or {}
    return usage(
        (raw.get("input_tokens") or 0) + read + written,
        raw.get("output_tokens") or 0,
        cached=read,
        written=written,
        reasoning=details.get("thinking_tokens") or 0,
    )
