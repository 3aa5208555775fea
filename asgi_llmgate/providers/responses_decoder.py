"""OpenAI Responses, whole and as an event stream, read into the inner form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import delta, usage
from asgi_llmgate.providers._sse import PayloadDecoder
from asgi_llmgate.providers.inner import Call, Inner

__all__ = ["ResponsesStreamDecoder", "read_response"]


class ResponsesStreamDecoder:
    """State: function calls by output index, and which of them had their arguments."""

    def __init__(self, call: Call) -> None:
        self._names = call.tool_names
        self._sse = PayloadDecoder()
        self._calls: dict[int, int] = {}
        self._filled: set[int] = set()
        self.complete = self.ended = False

    def feed(self, data: bytes) -> list[Inner]:
        return self._read(self._sse.feed(data))

    def close(self) -> list[Inner]:
        return self._read(self._sse.close())

    def _read(self, payloads: list[dict[str, Any] | None]) -> list[Inner]:
        chunks: list[Inner] = []
        for payload in payloads:
            if payload is not None and not self.ended:
                self._event(payload, chunks)
        return chunks

    def _event(self, event: dict[str, Any], chunks: list[Inner]) -> None:
        match event.get("type"):
            case "response.output_text.delta":
                chunk = delta({"content": event["delta"]})
                if event.get("logprobs"):
                    chunk["choices"][0]["logprobs"] = {"content": event["logprobs"]}
                chunks.append(chunk)
            case "response.function_call_arguments.delta":
                self._arguments(event.get("output_index", 0), event["delta"], chunks)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                chunks.append(delta({"reasoning_content": event["delta"]}))
            case "response.reasoning_summary_part.added" if event.get("summary_index"):
                chunks.append(delta({"reasoning_content": "\n\n"}))
            case "response.output_item.added":
                self._added(event["item"], event.get("output_index", 0), chunks)
            case "response.output_item.done":
                self._done(event["item"], event.get("output_index", 0), chunks)
            case "response.refusal.delta":
                chunks.append(delta({"refusal": event["delta"]}))
            case "response.output_text.annotation.added":
                cited = _annotations([event.get("annotation") or {}])
                if cited:
                    chunks.append(delta({"annotations": cited}))
            case "response.created":
                response = event["response"]
                head = {name: response.get(name) for name in ("id", "model")}
                first = delta({"role": "assistant", "content": ""})
                chunks.append({**head, "created": _created(response), **first})
            case "response.completed" | "response.incomplete":
                self._end(event["response"], chunks)
            case "response.failed":
                self.ended = True
                chunks.append({"error": event["response"].get("error") or {}})
            case "error":
                self.ended = True
                chunks.append({"error": event.get("error") or event})
            case _:
                pass

    def _added(self, item: Mapping[str, Any], index: int, chunks: list[Inner]) -> None:
        if item.get("type") != "function_call":
            return
        number = self._calls[index] = len(self._calls)
        name = item["name"]
        call = {
            "index": number,
            "id": item["call_id"],
            "type": "function",
            "function": {"name": self._names.get(name, name), "arguments": ""},
        }
        chunks.append(delta({"tool_calls": [call]}))

    def _arguments(self, index: int, fragment: str, chunks: list[Inner]) -> None:
        if index in self._calls and fragment:
            self._filled.add(index)
            call = {"index": self._calls[index], "function": {"arguments": fragment}}
            chunks.append(delta({"tool_calls": [call]}))

    def _done(self, item: Mapping[str, Any], index: int, chunks: list[Inner]) -> None:
        match item.get("type"):
            case "function_call" if index not in self._filled:
                if index not in self._calls:
                    self._added(item, index, chunks)
                self._arguments(index, _text_of_arguments(item), chunks)
            case "reasoning" if item.get("encrypted_content"):
                chunks.append(delta({"thinking_blocks": [_block(item)]}))
            case _:
                pass

    def _end(self, response: Mapping[str, Any], chunks: list[Inner]) -> None:
        self.complete = self.ended = True
        chunk = delta({})
        chunk["choices"][0] |= _finish(response, bool(self._calls))
        chunks.append(chunk)
        if response.get("usage"):
            chunks.append({"choices": [], "usage": _usage(response["usage"])})


def read_response(body: Mapping[str, Any], asked: Call) -> Inner:
    """Return a whole response in the inner form."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    logprobs: list[dict[str, Any]] = []
    for item in body.get("output") or ():
        match item.get("type"):
            case "message":
                for part in item.get("content") or ():
                    if part.get("type") == "refusal":
                        message["refusal"] = message.get("refusal", "") + part["refusal"]
                    elif part.get("text"):
                        message["content"] = (message["content"] or "") + part["text"]
                        logprobs += part.get("logprobs") or ()
                        cited = _annotations(part.get("annotations") or ())
                        if cited:
                            message.setdefault("annotations", []).extend(cited)
            case "function_call":
                name = asked.tool_names.get(item["name"], item["name"])
                function = {"name": name, "arguments": _text_of_arguments(item)}
                call = {"id": item["call_id"], "type": "function", "function": function}
                message.setdefault("tool_calls", []).append(call)
            case "reasoning":
                text = _summary(item)
                if text:
                    message["reasoning_content"] = message.get("reasoning_content", "") + text
                if item.get("encrypted_content"):
                    message.setdefault("thinking_blocks", []).append(_block(item))
            case _:
                pass  # Steps of tools that ran at OpenAI; their outcome is in the text.
    choice = {"index": 0, "message": message, **_finish(body, "tool_calls" in message)}
    if logprobs:
        choice["logprobs"] = {"content": logprobs, "refusal": None}
    response: Inner = {"id": body.get("id"), "model": body.get("model"), "choices": [choice]}
    if body.get("created_at"):
        response["created"] = _created(body)
    if body.get("usage"):
        response["usage"] = _usage(body["usage"])
    return response


def _created(body: Mapping[str, Any]) -> int | None:
    created = body.get("created_at")
    return int(created) if created else None


def _finish(response: Mapping[str, Any], has_calls: bool) -> dict[str, Any]:
    if response.get("status") == "incomplete":
        reason = (response.get("incomplete_details") or {}).get("reason")
        finish = "content_filter" if reason == "content_filter" else "length"
        return {"finish_reason": finish, "provider_finish_reason": reason}
    return {"finish_reason": "tool_calls" if has_calls else "stop"}


def _summary(item: Mapping[str, Any]) -> str:
    parts = item.get("summary") or item.get("content") or ()
    return "\n\n".join(part.get("text") or "" for part in parts)


def _block(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "thinking",
        "thinking": _summary(item),
        "signature": item["encrypted_content"],
        "id": item.get("id"),
        "origin": "openai",
    }


def _text_of_arguments(item: Mapping[str, Any]) -> str:
    arguments = item.get("arguments")
    return arguments if isinstance(arguments, str) else dumps(arguments or {}).decode()


def _annotations(annotations: Any) -> list[dict[str, Any]]:
    cited = []
    for annotation in annotations:
        if annotation.get("type") == "url_citation":
            names = ("url", "title", "start_index", "end_index")
            citation = {name: annotation.get(name) for name in names}
            cited.append({"type": "url_citation", "url_citation": citation})
    return cited


def _usage(raw: Mapping[str, Any]) -> dict[str, Any]:
    details = raw.get("input_tokens_details") or {}
    return usage(
        raw.get("input_tokens") or 0,
        raw.get("output_tokens") or 0,
        cached=details.get("cached_tokens") or 0,
        written=details.get("cache_write_tokens") or 0,
        reasoning=(raw.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
