"""Gemini's responses and stream, written from the inner form.

A stream is responses one after the other: text as it comes, a tool call whole (Gemini knows no
fragments of arguments), finish reason and usage on the last. Reasoning is shown only where the
caller asked for it; what must be sent back for the next turn (signatures, and the reasoning they
cover) travels sealed in `thoughtSignature`, which SDKs keep, on the part that follows.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.providers._one_by_one import OneByOne
from asgi_llmgate.providers._parts import annotations_of, arguments_object
from asgi_llmgate.providers._sse import data_event
from asgi_llmgate.providers.inner import Call, Inner
from asgi_llmgate.providers.provider_errors import ProviderError, gemini_error

__all__ = [
    "GeminiArrayEncoder",
    "GeminiStreamEncoder",
    "candidate",
    "open_signature",
    "usage_metadata",
]

_SEAL = b"llmgate."
FINISH_REASONS = frozenset(
    {
        "STOP",
        "MAX_TOKENS",
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "OTHER",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MALFORMED_FUNCTION_CALL",
        "IMAGE_SAFETY",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
        "MODEL_ARMOR",
    }
)
"""Gemini's own words; other providers' are not passed on, as Cohere writes in capitals, too."""
_FINISH = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}


class GeminiStreamEncoder:
    """State: tool calls being put together, and signatures waiting for a part to ride on."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._base: dict[str, Any] = {"modelVersion": call.model, "responseId": call.id}
        self._started = False
        self._thoughts = bool(call.request.get("include_thoughts"))
        self._waiting: list[dict[str, Any]] = []
        self._tools: dict[int, dict[str, Any]] = {}
        self._order = OneByOne()
        self._finish: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] | None = None
        self._annotations: list[dict[str, Any]] = []
        self._text: list[str] = []

    def feed(self, chunk: Inner) -> bytes:
        if not self._started:
            self._started = True
            if chunk.get("model"):
                self._base["modelVersion"] = chunk["model"]
            if chunk.get("id"):
                self._base["responseId"] = chunk["id"]
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not choices or choices[0].get("index"):
            return b""
        choice = choices[0]
        delta = choice["delta"]
        parts: list[dict[str, Any]] = []
        self._waiting += delta.get("thinking_blocks") or ()
        if self._thoughts and delta.get("reasoning_content"):
            parts.append({"text": delta["reasoning_content"], "thought": True})
        text = delta.get("content") or delta.get("refusal")
        calls = delta.get("tool_calls") or ()
        if text:
            parts += self._all_tool_parts()
            self._text.append(text)
            parts.append(self._signed({"text": text}))
        for call in calls:
            for fragment in self._order.feed(call):
                if fragment.get("index", 0) not in self._tools:
                    parts += self._tool_parts()
                self._collect(fragment)
        self._annotations += delta.get("annotations") or ()
        if choice.get("finish_reason"):
            self._finish = choice
            parts += self._all_tool_parts()
        if not parts:
            return b""
        content = {"parts": parts, "role": "model"}
        return self._write({"candidates": [{"content": content, "index": 0}], **self._base})

    def close(self) -> bytes:
        parts = self._all_tool_parts()
        if self._waiting:  # Nothing came for them to ride on; Gemini itself ends so, too.
            parts.append(self._signed({"text": ""}))
        last: dict[str, Any] = {
            "content": {"parts": parts or [{"text": ""}], "role": "model"},
            **finish_fields(self._finish),
            "index": 0,
        }
        grounding = _grounding(self._annotations, "".join(self._text))
        if grounding:
            last["groundingMetadata"] = grounding
        usage = usage_metadata(self._usage)
        return self._write({"candidates": [last], "usageMetadata": usage, **self._base})

    def error(self, error: ProviderError) -> bytes:
        return self._write(gemini_error(error))

    def _write(self, payload: dict[str, Any]) -> bytes:
        return data_event(payload)

    def _collect(self, call: Mapping[str, Any]) -> None:
        function = call.get("function") or {}
        made = self._tools.setdefault(
            call.get("index", 0), {"id": None, "name": "", "arguments": [], "signature": None}
        )
        made["id"] = call.get("id") or made["id"]
        made["name"] = function.get("name") or made["name"]
        if function.get("arguments"):
            made["arguments"].append(function["arguments"])
        made["signature"] = _google_signature(call) or made["signature"]

    def _all_tool_parts(self) -> list[dict[str, Any]]:
        for fragment in self._order.rest():
            self._collect(fragment)
        return self._tool_parts()

    def _tool_parts(self) -> list[dict[str, Any]]:
        parts = []
        for number, made in self._tools.items():
            if made.get("sent"):
                continue
            made["sent"] = True
            wanted = {
                "id": made["id"] or f"call_{number}",
                "name": made["name"],
                "args": arguments_object("".join(made["arguments"])),
            }
            parts.append(self._signed({"functionCall": wanted}, made["signature"]))
        return parts

    def _signed(self, part: dict[str, Any], native: str | None = None) -> dict[str, Any]:
        blocks, self._waiting = self._waiting, []
        return sign(part, native, blocks)


class GeminiArrayEncoder(GeminiStreamEncoder):
    """The same responses as one JSON array, as the API sends them without `alt=sse`."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._separator = b"["

    def close(self) -> bytes:
        return super().close() + b"]"

    def error(self, error: ProviderError) -> bytes:
        return super().error(error) + b"]"

    def _write(self, payload: dict[str, Any]) -> bytes:
        separator, self._separator = self._separator, b",\r\n"
        return separator + dumps(payload)


def candidate(choice: Mapping[str, Any], number: int, call: Call) -> dict[str, Any]:
    """Return a choice of a whole response as a candidate."""
    message = choice.get("message") or {}
    blocks = list(message.get("thinking_blocks") or ())
    parts: list[dict[str, Any]] = []
    thoughts = message.get("reasoning_content")
    if thoughts and call.request.get("include_thoughts"):
        parts.append({"text": thoughts, "thought": True})
    text = message.get("content") or message.get("refusal")
    if text:
        parts.append(sign({"text": text}, None, blocks))
        blocks = []
    for index, made in enumerate(message.get("tool_calls") or ()):
        function = made["function"]
        wanted = {
            "id": made.get("id") or f"call_{index}",
            "name": function["name"],
            "args": arguments_object(function.get("arguments")),
        }
        parts.append(sign({"functionCall": wanted}, _google_signature(made), blocks))
        blocks = []
    if blocks:
        parts.append(sign({"text": ""}, None, blocks))
    made_candidate: dict[str, Any] = {
        "content": {"parts": parts, "role": "model"},
        **finish_fields(choice),
        "index": number,
    }
    grounding = _grounding(message.get("annotations") or [], text or "")
    if grounding:
        made_candidate["groundingMetadata"] = grounding
    return made_candidate


def finish_fields(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return the finish reason; Gemini's own word where it was Gemini's."""
    native = choice.get("provider_finish_reason")
    if native in FINISH_REASONS:
        return {"finishReason": native}
    return {"finishReason": _FINISH.get(choice.get("finish_reason") or "stop", "STOP")}


def usage_metadata(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return Gemini's usage: candidatesTokenCount excludes thoughts."""
    usage = usage or {}
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    fields = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": max(0, completion - reasoning),
        "totalTokenCount": prompt + completion,
    }
    if reasoning:
        fields["thoughtsTokenCount"] = reasoning
    if cached:
        fields["cachedContentTokenCount"] = cached
    return fields


def sign(part: dict[str, Any], native: str | None, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `part` with its signature: Gemini's own, or other blocks sealed."""
    if native is None and len(blocks) == 1:
        only = blocks[0]
        if only.get("origin") == "gemini" and not only.get("thinking"):
            native, blocks = only["signature"], []
    if blocks:
        sealed = dumps({"blocks": blocks, "native": native})
        part["thoughtSignature"] = base64.b64encode(_SEAL + sealed).decode()
    elif native:
        part["thoughtSignature"] = native
    elif "functionCall" in part:
        part["thoughtSignature"] = UNSIGNED_CALL
    return part


UNSIGNED_CALL = base64.b64encode(_SEAL + dumps({"blocks": [], "native": None})).decode()
"""Stands for the signature that a call of another family does not have; Gemini 3 insists on one."""


def open_signature(signature: Any) -> tuple[str | None, list[dict[str, Any]]]:
    """Return (Gemini's own signature, blocks of other families) of a `thoughtSignature`."""
    if not isinstance(signature, str) or not signature:
        return None, []
    standard = signature.replace("-", "+").replace("_", "/")
    # base64 of "llmgat"; the rest of the seal shares its characters with what follows.
    if not standard.startswith("bGxtZ2F0"):
        return standard, []
    try:
        raw = base64.b64decode(standard + "=" * (-len(standard) % 4))
        sealed = loads(raw.removeprefix(_SEAL))
        return sealed["native"], sealed["blocks"]
    except (binascii.Error, JSONError, KeyError, TypeError):
        return None, []


def _google_signature(call: Mapping[str, Any]) -> str | None:
    google = (call.get("extra_content") or {}).get("google") or {}
    signature = google.get("thought_signature")
    return signature if isinstance(signature, str) else None


def _grounding(annotations: list[dict[str, Any]], text: str) -> dict[str, Any] | None:
    citations = annotations_of({"annotations": annotations})
    if not citations:
        return None
    chunks = [{"web": {"uri": c["url"], "title": c.get("title")}} for c in citations]
    supports = []
    for number, citation in enumerate(citations):
        start, end = citation.get("start_index", 0), citation.get("end_index", 0)
        # Gemini counts bytes of UTF-8.
        segment = {
            "startIndex": len(text[:start].encode()),
            "endIndex": len(text[:end].encode()),
            "text": text[start:end],
        }
        supports.append({"segment": segment, "groundingChunkIndices": [number]})
    return {"groundingChunks": chunks, "groundingSupports": supports}
