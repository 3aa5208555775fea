"""OpenAI chat completions, whole and streamed, as a dozen imitators write them.

Reasoning has five names, usage three places, ids and types are missing at times, and so is
`finish_reason`: brought to one shape here. Source: recorded traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import text_of, usage
from asgi_llmgate.providers._sse import PayloadDecoder
from asgi_llmgate.providers.inner import Call, Inner

__all__ = ["ChatStreamDecoder", "read_response"]


class ChatStreamDecoder:
    """Chunks in as they come, reasoning and usage brought to one shape."""

    def __init__(self, call: Call) -> None:
        self._sse = PayloadDecoder()
        self._id = call.id
        self._names = call.tool_names
        # The id of each call by its place, and the place where a provider's numbers are at odds.
        self._calls: dict[tuple[int, int], str] = {}
        self._moved: dict[tuple[int, int], int] = {}
        self.complete = self.ended = False

    def feed(self, data: bytes) -> list[Inner]:
        return self._read(self._sse.feed(data))

    def close(self) -> list[Inner]:
        return self._read(self._sse.close())

    def _read(self, payloads: list[dict[str, Any] | None]) -> list[Inner]:
        chunks: list[Inner] = []
        for payload in payloads:
            if self.ended:
                break
            if payload is None:  # [DONE]; some providers send no finish_reason before it.
                self.complete = self.ended = True
            elif payload.get("error"):
                self.ended = True
                chunks.append({"error": payload["error"]})
            else:
                chunks.append(self._chunk(payload))
        return chunks

    def _chunk(self, payload: dict[str, Any]) -> Inner:
        counted = _usage(payload)
        if counted:
            payload["usage"] = counted
        else:
            payload.pop("usage", None)
        for choice in payload.get("choices") or ():
            number = choice.get("index", 0)
            fields = choice.get("delta")
            if fields:
                _normalise(fields)
                for position, call in enumerate(fields.get("tool_calls") or ()):
                    self._call(call, number, position)
            else:
                choice["delta"] = {}
            if choice.get("finish_reason"):
                self.complete = True
                # Some imitators forget to say so.
                if choice["finish_reason"] == "stop" and any(n == number for n, _ in self._calls):
                    choice["finish_reason"] = "tool_calls"
        return payload

    def _call(self, call: dict[str, Any], choice: int, position: int) -> None:
        """Number and name a fragment of a tool call, in place."""
        given = call.get("index")
        place = (choice, position if given is None else given)
        identifier, function = call.get("id"), call.get("function") or {}
        known = self._calls.get((choice, self._moved.get(place, place[1])))
        if known is not None and function.get("name") and identifier and identifier != known:
            # Another call under the same number, as Gemini's and Ollama's imitations send them.
            # A new id alone is none: vLLM once made one up for each fragment.
            self._moved[place] = 1 + max(i for c, i in self._calls if c == choice)
            known = None
        index = call["index"] = self._moved.get(place, place[1])
        if known is None:
            call["id"] = identifier or f"call_{self._id}_{index}"
            call["type"] = "function"
            self._calls[choice, index] = call["id"]
            if self._names and "name" in function:
                function["name"] = self._names.get(function["name"], function["name"])


def read_response(body: Mapping[str, Any], call: Call) -> Inner:
    """Return a whole response in the inner form."""
    response = dict(body)
    response["choices"] = [_choice(choice, call) for choice in body.get("choices") or ()]
    counted = _usage(body)
    if counted:
        response["usage"] = counted
    return response


def _choice(choice: Mapping[str, Any], asked: Call) -> dict[str, Any]:
    message = dict(choice.get("message") or {})
    _normalise(message)
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [
            {
                **call,
                "type": "function",
                "id": call.get("id") or f"call_{asked.id}_{number}",
                "function": _named(call["function"], asked),
            }
            for number, call in enumerate(calls)
        ]
    else:
        message.pop("tool_calls", None)
    finish = choice.get("finish_reason") or "stop"
    if calls and finish == "stop":  # Some imitators forget to say so.
        finish = "tool_calls"
    native = choice.get("native_finish_reason")
    extra = {"provider_finish_reason": native} if native else {}
    return {**choice, "message": message, "finish_reason": finish, **extra}


def _named(function: Mapping[str, Any], asked: Call) -> dict[str, Any]:
    name = function["name"]
    return {**function, "name": asked.tool_names.get(name, name)}


def _normalise(fields: dict[str, Any]) -> None:
    """Bring reasoning to `reasoning_content` and content to a string, in place."""
    content = fields.get("content")
    if isinstance(content, list):  # Mistral: thinking and text as parts.
        thoughts = [text_of(part.get("thinking")) for part in content if "thinking" in part]
        fields["content"] = text_of([part for part in content if "thinking" not in part])
        if thoughts:
            fields["reasoning_content"] = "".join(thoughts)
    if "reasoning" in fields:  # Groq, OpenRouter, vLLM, Ollama.
        text = fields.pop("reasoning")
        if isinstance(text, str) and text:
            fields["reasoning_content"] = text
    elif fields.get("reasoning_details") and not fields.get("reasoning_content"):
        fields["reasoning_content"] = text_of(fields["reasoning_details"])
    if fields.get("tool_calls") is None:
        fields.pop("tool_calls", None)
    if not fields.get("refusal"):
        fields.pop("refusal", None)


def _usage(body: Mapping[str, Any]) -> dict[str, Any] | None:
    raw = body.get("usage") or (body.get("x_groq") or {}).get("usage")
    if not isinstance(raw, Mapping):
        return None
    prompt = raw.get("prompt_tokens") or 0
    completion = raw.get("completion_tokens") or 0
    details = raw.get("prompt_tokens_details") or {}
    reasoning = (raw.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    # xAI counts reasoning beside the completion; everyone else inside it.
    if reasoning and raw.get("total_tokens") == prompt + completion + reasoning:
        completion += reasoning
    counted = usage(
        prompt,
        completion,
        cached=details.get("cached_tokens") or raw.get("prompt_cache_hit_tokens") or 0,
        written=details.get("cache_write_tokens") or 0,
        reasoning=reasoning,
    )
    return {**raw, **counted, "total_tokens": raw.get("total_tokens") or counted["total_tokens"]}
