"""OpenAI chat completions as a caller's dialect: the inner form itself, or nearly.

Source: openai SDK 3.54 (types/chat).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._sse import data_event
from asgi_llmgate.providers.inner import Call, Inner
from asgi_llmgate.providers.provider_errors import ProviderError, openai_error

__all__ = ["ChatIn", "ChatStreamEncoder"]

_LISTS = frozenset({"thinking_blocks", "annotations", "citations", "images"})


class ChatIn:
    """Callers that speak OpenAI chat."""

    def decode_request(
        self, body: Mapping[str, Any], *, model: str | None = None, stream: bool | None = None
    ) -> Inner:
        request = dict(body)
        if model is not None:
            request["model"] = model
        if stream is not None:
            request["stream"] = stream
        functions = request.pop("functions", None)
        if functions:  # Deprecated since 2023; some old clients still send it.
            request["tools"] = [{"type": "function", "function": f} for f in functions]
        choice = request.pop("function_call", None)
        if choice is not None:
            request["tool_choice"] = (
                {"type": "function", "function": choice} if isinstance(choice, dict) else choice
            )
        request["messages"] = _modern(body.get("messages") or [])
        return request

    def encode_response(self, response: Inner, call: Call) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": response.get("id") or f"chatcmpl-{call.id}",
            "object": "chat.completion",
            "created": response.get("created") or call.created,
            "model": response.get("model") or call.model,
        }
        choices = []
        for index, choice in enumerate(response.get("choices") or ()):
            message = {"role": "assistant", "content": None, "refusal": None} | choice["message"]
            choices.append({"index": index, "logprobs": None} | choice | {"message": message})
        rest = {k: v for k, v in response.items() if k not in body}
        return body | rest | {"choices": choices}

    def stream_encoder(self, call: Call) -> ChatStreamEncoder:
        return ChatStreamEncoder(call)

    def encode_error(self, error: ProviderError, call_id: str) -> dict[str, Any]:
        return openai_error(error)


class ChatStreamEncoder:
    """Chunks out as they come; usage only if the caller asked for it."""

    def __init__(self, call: Call) -> None:
        options = call.request.get("stream_options")
        self._with_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        self._base: dict[str, Any] = {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion.chunk",
            "created": call.created,
            "model": call.model,
        }
        self._started = self._finished = False
        self._numbers: dict[str, int] = {}

    def feed(self, chunk: Inner) -> bytes:
        if not self._started:
            for name in ("id", "created", "model"):
                if chunk.get(name):
                    self._base[name] = chunk[name]
        choices = chunk.get("choices") or ()
        events = b""
        if choices:
            if not self._started:
                self._started = True
                first = choices[0]["delta"]
                choices[0]["delta"] = {"role": "assistant", "content": ""} | first
            for choice in choices:
                if choice.get("finish_reason"):
                    self._finished = True
                self._number(choice["delta"])
            events = data_event(self._base | {"choices": choices})
        if self._with_usage and chunk.get("usage"):
            events += data_event(self._base | {"choices": [], "usage": chunk["usage"]})
        return events

    def _number(self, delta: dict[str, Any]) -> None:
        """Number the entries of lists: OpenAI's SDK joins those of one index, and demands one."""
        for name in _LISTS & delta.keys():
            numbered = []
            for entry in delta[name]:
                index = self._numbers.get(name, 0)
                self._numbers[name] = index + 1
                numbered.append({"index": index, **entry})
            delta[name] = numbered

    def close(self) -> bytes:
        end = b"data: [DONE]\n\n"
        if self._finished:
            return end
        choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
        return data_event(self._base | {"choices": [choice]}) + end

    def error(self, error: ProviderError) -> bytes:
        return data_event(openai_error(error))


def _modern(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `messages` with the deprecated function roles as tools."""
    if not any(m.get("role") == "function" or m.get("function_call") for m in messages):
        return messages
    modern = []
    for message in messages:
        if message.get("role") == "function":
            name = str(message.get("name"))
            message = {**message, "role": "tool", "tool_call_id": name}
        elif message.get("function_call"):
            call = message["function_call"]
            named = {"id": call.get("name"), "type": "function", "function": call}
            message = {k: v for k, v in message.items() if k != "function_call"}
            message["tool_calls"] = [named]
        modern.append(message)
    return modern
