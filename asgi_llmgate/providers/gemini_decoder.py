"""Gemini's responses and stream, read into the inner form.

Usage is cumulative on every event, and thoughts are counted beside the candidates. A finish
reason STOP with function calls means tool calls. Unknown parts are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import delta, usage
from asgi_llmgate.providers._sse import PayloadDecoder
from asgi_llmgate.providers.inner import Call, Inner

__all__ = ["GeminiStreamDecoder", "read_response"]

_FILTERED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "OTHER",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_OTHER",
        "NO_IMAGE",
    }
)


class GeminiStreamDecoder:
    """State: how many calls came, whether any did, and the last usage."""

    def __init__(self, call: Call) -> None:
        self._sse = PayloadDecoder()
        self._call = call
        self._first = True
        self._calls: dict[int, int] = {}
        # What citations count in: the bytes of all the text so far.
        self._texts: dict[int, list[str]] = {}
        self._usage: Mapping[str, Any] | None = None
        self._unwrapped = False
        self.complete = self.ended = False

    def feed(self, data: bytes) -> list[Inner]:
        return self._read(self._sse.feed(data))

    def close(self) -> list[Inner]:
        chunks = self._read(self._sse.close())
        if self._usage and not self.ended:
            chunks.append({"choices": [], "usage": read_usage(self._usage)})
        return chunks

    def _read(self, payloads: list[dict[str, Any] | None]) -> list[Inner]:
        chunks: list[Inner] = []
        for payload in payloads:
            if payload is not None and not self.ended:
                self._event(payload, chunks)
        return chunks

    def _event(self, event: dict[str, Any], chunks: list[Inner]) -> None:
        if event.get("error"):
            self.ended = True
            chunks.append({"error": event["error"]})
            return
        counted = event.get("usageMetadata")
        if counted:
            self._usage = counted
        if self._first:
            self._first = False
            first = delta({"role": "assistant", "content": ""})
            identity = {"id": event.get("responseId"), "model": event.get("modelVersion")}
            chunks.append(identity | first)
        blocked = (event.get("promptFeedback") or {}).get("blockReason")
        if blocked and not event.get("candidates"):
            self.complete = True
            chunks.append(_finish(0, "content_filter", blocked))
            return
        for candidate in event.get("candidates") or ():
            self._candidate(candidate, event, chunks)

    def _candidate(
        self, candidate: Mapping[str, Any], event: Mapping[str, Any], chunks: list[Inner]
    ) -> None:
        index = candidate.get("index", 0)
        for part in (candidate.get("content") or {}).get("parts") or ():
            number = self._calls.get(index, 0)
            fields, is_answer = read_part(part, number, self._call, event.get("responseId"))
            self._unwrapped = self._unwrapped or is_answer
            if not fields:
                continue
            if "tool_calls" in fields:
                self._calls[index] = number + 1
            if fields.get("content"):
                self._texts.setdefault(index, []).append(fields["content"])
            chunk = delta(fields)
            chunk["choices"][0]["index"] = index
            chunks.append(chunk)
        if candidate.get("groundingMetadata"):
            cited = read_grounding(candidate, "".join(self._texts.get(index, ())))
            if cited:
                chunk = delta({"annotations": cited})
                chunk["choices"][0]["index"] = index
                chunks.append(chunk)
        if candidate.get("logprobsResult"):
            chunk = delta({})
            chunk["choices"][0] |= {"index": index, "logprobs": read_logprobs(candidate)}
            chunks.append(chunk)
        native = candidate.get("finishReason")
        if native:
            self.complete = True
            chunks.append(_finish(index, finish_of(native, bool(self._calls.get(index))), native))


def _finish(index: int, reason: str, native: str) -> Inner:
    choice = {
        "index": index,
        "delta": {},
        "finish_reason": reason,
        "provider_finish_reason": native,
    }
    return {"choices": [choice]}


def read_response(body: Mapping[str, Any], call: Call) -> Inner:
    """Return a whole response in the inner form."""
    choices = []
    for position, candidate in enumerate(body.get("candidates") or ()):
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for part in (candidate.get("content") or {}).get("parts") or ():
            number = len(message.get("tool_calls") or ())
            fields, _ = read_part(part, number, call, body.get("responseId"))
            _merge(message, fields)
        cited = read_grounding(candidate, message["content"] or "")
        if cited:
            message["annotations"] = cited
        native = candidate.get("finishReason") or "STOP"
        choice = {
            "index": candidate.get("index", position),
            "message": message,
            "finish_reason": finish_of(native, "tool_calls" in message),
            "provider_finish_reason": native,
        }
        if candidate.get("logprobsResult"):
            choice["logprobs"] = read_logprobs(candidate)
        choices.append(choice)
    blocked = (body.get("promptFeedback") or {}).get("blockReason")
    if not choices:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": None},
            "finish_reason": "content_filter" if blocked else "stop",
            "provider_finish_reason": blocked or "NO_CANDIDATES",
        }
        choices.append(choice)
    return {
        "id": body.get("responseId"),
        "model": body.get("modelVersion"),
        "choices": choices,
        "usage": read_usage(body.get("usageMetadata") or {}),
    }


def _merge(message: dict[str, Any], fields: dict[str, Any]) -> None:
    for name in ("content", "reasoning_content"):
        if fields.get(name):
            message[name] = (message.get(name) or "") + fields[name]
    for name in ("tool_calls", "thinking_blocks", "images"):
        if fields.get(name):
            message.setdefault(name, []).extend(
                {k: v for k, v in item.items() if k != "index"} for item in fields[name]
            )


def read_part(
    part: Mapping[str, Any], number: int, call: Call, response_id: Any
) -> tuple[dict[str, Any], bool]:
    """Return the fields of a delta that `part` stands for; and whether it is the JSON answer."""
    signature = part.get("thoughtSignature")
    wanted = part.get("functionCall")
    if wanted:
        arguments = dumps(wanted.get("args") or {}).decode()
        if wanted.get("name") == call.json_tool:
            return {"content": arguments}, True
        name = call.tool_names.get(wanted["name"], wanted["name"])
        made: dict[str, Any] = {
            "index": number,
            "id": wanted.get("id") or f"call_{response_id or call.id}_{number}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        if signature:
            made["extra_content"] = {"google": {"thought_signature": signature}}
        return {"tool_calls": [made]}, False
    text = part.get("text") or ""
    fields: dict[str, Any] = {}
    if part.get("thought"):
        if text:
            fields["reasoning_content"] = text
    elif text:
        fields["content"] = text
    blob = part.get("inlineData")
    if blob:
        url = f"data:{blob.get('mimeType')};base64,{blob.get('data')}"
        fields["images"] = [{"type": "image_url", "image_url": {"url": url}}]
    if signature:
        block = {
            "type": "thinking",
            "thinking": text if part.get("thought") else "",
            "signature": signature,
            "origin": "gemini",
        }
        fields["thinking_blocks"] = [block]
    return fields, False


def finish_of(native: str, has_calls: bool) -> str:
    """Return OpenAI's finish reason."""
    if native == "MAX_TOKENS":
        return "length"
    if native in _FILTERED:
        return "content_filter"
    return "tool_calls" if has_calls else "stop"


def read_usage(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return usage in the inner form: thoughts and prompts of Google's own tools included."""
    thoughts = raw.get("thoughtsTokenCount") or 0
    return usage(
        (raw.get("promptTokenCount") or 0) + (raw.get("toolUsePromptTokenCount") or 0),
        (raw.get("candidatesTokenCount") or 0) + thoughts,
        cached=raw.get("cachedContentTokenCount") or 0,
        reasoning=thoughts,
    )


def read_grounding(candidate: Mapping[str, Any], said: str) -> list[dict[str, Any]]:
    """Return the web sources of an answer as `url_citation`s; `said` is all of its text."""
    grounding = candidate.get("groundingMetadata") or {}
    sources = grounding.get("groundingChunks") or []
    text = said.encode()
    cited = []
    for support in grounding.get("groundingSupports") or ():
        segment = support.get("segment") or {}
        for number in support.get("groundingChunkIndices") or ():
            web = sources[number].get("web") if number < len(sources) else None
            if not web:
                continue
            citation = {
                "url": web.get("uri") or "",
                "title": web.get("title") or "",
                "start_index": _characters(text, segment.get("startIndex") or 0),
                "end_index": _characters(text, segment.get("endIndex") or 0),
            }
            cited.append({"type": "url_citation", "url_citation": citation})
    return cited


def _characters(text: bytes, offset: int) -> int:
    return len(text[:offset].decode("utf-8", "ignore"))


def read_logprobs(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Return logprobs in OpenAI's shape."""
    result = candidate["logprobsResult"]
    chosen = result.get("chosenCandidates") or ()
    tops = result.get("topCandidates") or ()
    content = []
    for number, token in enumerate(chosen):
        alternatives = tops[number].get("candidates") or () if number < len(tops) else ()
        content.append(_token(token) | {"top_logprobs": [_token(t) for t in alternatives]})
    return {"content": content, "refusal": None}


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    text = token.get("token") or ""
    logprob = token.get("logProbability") or 0.0
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
