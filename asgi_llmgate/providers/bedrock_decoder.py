"""Bedrock Converse, whole and as a binary event stream, read into the inner form.

Text blocks have no start event; the usage comes after messageStop, in `metadata`; exceptions are
messages of their own. Payloads carry padding (`p`), which is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.eventstream import EventStreamDecoder, EventStreamError, StreamMessage
from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.providers._parts import delta, usage
from asgi_llmgate.providers.inner import Call, Inner

__all__ = ["ConverseStreamDecoder", "read_response"]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


class ConverseStreamDecoder:
    """State: tool calls by block index, and the thinking text of open blocks."""

    def __init__(self, call: Call) -> None:
        self._frames = EventStreamDecoder()
        self._call = call
        self._calls: dict[int, int] = {}
        self._json_block: int | None = None
        self._held: list[str] | None = None if call.json_tool is None else []
        self._thoughts: dict[int, list[str]] = {}
        self._more: Mapping[str, Any] = {}
        self.complete = self.ended = False

    @property
    def _unwrapped(self) -> bool:
        return self._json_block is not None and not self._calls

    def feed(self, data: bytes) -> list[Inner]:
        chunks: list[Inner] = []
        try:
            messages = self._frames.feed(data)
        except EventStreamError as error:
            self.ended, self.complete = True, False
            return [{"error": {"message": f"The provider's stream cannot be read: {error}."}}]
        for message in messages:
            if not self.ended:
                self._message(message, chunks)
        return chunks

    def close(self) -> list[Inner]:
        return []

    def _message(self, message: StreamMessage, chunks: list[Inner]) -> None:
        try:
            payload = loads(message.payload) if message.payload else {}
        except JSONError:
            payload = {}
        headers = message.headers
        if headers.get(":message-type") in {"exception", "error"}:
            kind = headers.get(":exception-type") or headers.get(":error-code") or "error"
            text = payload.get("message") or headers.get(":error-message")
            self.ended = True
            chunks.append({"error": {"type": kind, "message": text or kind}})
            return
        index = payload.get("contentBlockIndex", 0)
        match headers.get(":event-type"):
            case "contentBlockDelta":
                self._delta(payload.get("delta") or {}, index, chunks)
            case "contentBlockStart":
                self._start((payload.get("start") or {}).get("toolUse"), index, chunks)
            case "messageStart":
                chunks.append(delta({"role": "assistant", "content": ""}))
            case "messageStop":
                self.complete = True
                if self._held and self._json_block is None:
                    chunks.append(delta({"content": "".join(self._held)}))
                self._more = payload.get("additionalModelResponseFields") or {}
                chunk = delta({})
                chunk["choices"][0] |= _finish(payload, unwrapped=self._unwrapped)
                chunks.append(chunk)
            case "metadata":
                self.ended = True
                usage = _usage(payload.get("usage") or {}, self._more)
                chunks.append({"choices": [], "usage": usage})
            case _:
                pass

    def _start(self, use: Mapping[str, Any] | None, index: int, chunks: list[Inner]) -> None:
        if use is None:
            return
        if use["name"] == self._call.json_tool:
            self._json_block = index
            return
        number = self._calls[index] = len(self._calls)
        name = self._call.tool_names.get(use["name"], use["name"])
        call = {
            "index": number,
            "id": use["toolUseId"],
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        chunks.append(delta({"tool_calls": [call]}))

    def _delta(self, change: Mapping[str, Any], index: int, chunks: list[Inner]) -> None:
        if "text" in change:
            if self._held is None:
                chunks.append(delta({"content": change["text"]}))
            else:
                self._held.append(change["text"])
        elif "toolUse" in change:
            fragment = change["toolUse"].get("input") or ""
            if index == self._json_block:
                chunks.append(delta({"content": fragment}))
            elif index in self._calls and fragment:
                call = {"index": self._calls[index], "function": {"arguments": fragment}}
                chunks.append(delta({"tool_calls": [call]}))
        elif "reasoningContent" in change:
            self._reasoning(change["reasoningContent"], index, chunks)
        elif "citation" in change:
            chunks.append(delta({"citations": [dict(change["citation"])]}))

    def _reasoning(self, change: Mapping[str, Any], index: int, chunks: list[Inner]) -> None:
        if "text" in change:
            self._thoughts.setdefault(index, []).append(change["text"])
            chunks.append(delta({"reasoning_content": change["text"]}))
        elif "signature" in change:
            text = "".join(self._thoughts.pop(index, ()))
            chunks.append(delta({"thinking_blocks": [_signed(text, change["signature"])]}))
        elif "redactedContent" in change:
            chunks.append(delta({"thinking_blocks": [_redacted(change["redactedContent"])]}))


def read_response(body: Mapping[str, Any], call: Call) -> Inner:
    """Return a whole response in the inner form."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    texts: list[str] = []
    answer: str | None = None
    for block in ((body.get("output") or {}).get("message") or {}).get("content") or ():
        if "text" in block:
            texts.append(block["text"])
        elif "toolUse" in block:
            use = block["toolUse"]
            arguments = dumps(use.get("input") or {}).decode()
            if use["name"] == call.json_tool:
                answer = arguments
                continue
            name = call.tool_names.get(use["name"], use["name"])
            function = {"name": name, "arguments": arguments}
            made = {"id": use["toolUseId"], "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(made)
        elif "reasoningContent" in block:
            _read_reasoning(block["reasoningContent"], message)
        elif "citationsContent" in block:
            cited = block["citationsContent"]
            texts += [part.get("text") or "" for part in cited.get("content") or ()]
            message.setdefault("citations", []).extend(cited.get("citations") or ())
    if answer is not None:
        message["content"] = answer
    elif texts:
        message["content"] = "".join(texts)
    unwrapped = answer is not None and "tool_calls" not in message
    choice = {"index": 0, "message": message, **_finish(body, unwrapped=unwrapped)}
    more = body.get("additionalModelResponseFields") or {}
    return {"choices": [choice], "usage": _usage(body.get("usage") or {}, more)}


def _read_reasoning(reasoning: Mapping[str, Any], message: dict[str, Any]) -> None:
    if "redactedContent" in reasoning:
        block = _redacted(reasoning["redactedContent"])
        message.setdefault("thinking_blocks", []).append(block)
        return
    text = (reasoning.get("reasoningText") or {}).get("text") or ""
    signature = (reasoning.get("reasoningText") or {}).get("signature")
    if text:
        message["reasoning_content"] = message.get("reasoning_content", "") + text
    if signature:
        message.setdefault("thinking_blocks", []).append(_signed(text, signature))


def _signed(text: str, signature: str) -> dict[str, Any]:
    # Only Claude signs; Anthropic reads its signatures on every platform.
    block = {"type": "thinking", "thinking": text, "signature": signature}
    return block | {"origin": "anthropic"}


def _redacted(content: str) -> dict[str, Any]:
    return {"type": "redacted_thinking", "data": content, "origin": "bedrock"}


def _finish(stop: Mapping[str, Any], *, unwrapped: bool) -> dict[str, Any]:
    native = stop.get("stopReason") or "end_turn"
    finish = _FINISH.get(native, "stop")
    if unwrapped and finish == "tool_calls":
        finish = "stop"
    fields: dict[str, Any] = {"finish_reason": finish, "provider_finish_reason": native}
    met = (stop.get("additionalModelResponseFields") or {}).get("stop_sequence")
    return fields | ({"stop_sequence": met} if isinstance(met, str) else {})


def _usage(raw: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return usage; `more`: what Claude itself said, as far as it was asked for."""
    details = (more.get("usage") or {}).get("output_tokens_details") or {}
    read = raw.get("cacheReadInputTokens") or 0
    written = raw.get("cacheWriteInputTokens") or 0
    return usage(
        (raw.get("inputTokens") or 0) + read + written,
        raw.get("outputTokens") or 0,
        cached=read,
        written=written,
        reasoning=details.get("thinking_tokens") or 0,
    )
