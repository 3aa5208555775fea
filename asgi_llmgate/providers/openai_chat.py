"""OpenAI chat completions: the inner form itself, but for what providers add and refuse.

Source: openai SDK 3.54 (types/chat), recorded streams of a dozen imitators. Inbound there is
little to do. Outbound the caller spoke another dialect, so only fields that this provider knows
are sent, and reasoning comes back under one name whatever the provider calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import (
    PART_TYPES,
    effort_of,
    nearest_effort,
    text_of,
    usage,
)
from asgi_llmgate.providers._sse import PayloadDecoder, data_event
from asgi_llmgate.providers.capabilities import ChatProvider, chat_provider
from asgi_llmgate.providers.inner import Call, Encoded, Inner, Losses, TargetInfo, refuse
from asgi_llmgate.providers.provider_errors import ProviderError, decode_error, openai_error

__all__ = ["ChatIn", "ChatOut"]

# What OpenAI's own endpoint takes; anything else would be a 400 there.
_FIELDS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "metadata",
        "modalities",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "verbosity",
        "web_search_options",
    }
)
_SAMPLING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
)
_PRIVATE = frozenset(
    {"thinking_blocks", "reasoning_content", "is_error", "cache_control", "citations"}
)

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


class ChatOut:
    """Providers that speak OpenAI chat."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        provider = chat_provider(target.provider)
        losses = Losses(target.strict)
        rest = dict(request)
        body: dict[str, Any] = {
            "model": target.model,
            "messages": _messages(rest.pop("messages"), provider, target, losses),
        }
        rest.pop("model", None)
        rest.pop("include_thoughts", None)
        rest.pop("cache_control", None)
        rest.pop("stream_options", None)
        older = rest.pop("max_tokens", None)
        newer = rest.pop("max_completion_tokens", None)
        limit = older if newer is None else newer
        if limit is not None:
            body[provider.max_tokens] = limit
        user = rest.pop("user", None) or rest.pop("safety_identifier", None)
        rest.pop("safety_identifier", None)
        if user:
            body[provider.user] = user
        _reasoning(rest, body, target, losses)
        _tools(rest, losses)
        for name in list(rest):
            if name in _FIELDS or name in provider.request:
                value = rest.pop(name)
                if value is not None:
                    body[name] = value
        if body.get("stream") and target.stream_usage:
            body["stream_options"] = {"include_usage": True}
        losses.drop_rest(rest)
        return Encoded("/chat/completions", body, dropped=losses.names)

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner:
        response = dict(body)
        response["choices"] = [_choice(choice) for choice in body.get("choices") or ()]
        counted = _usage(body)
        if counted:
            response["usage"] = counted
        return response

    def stream_decoder(self, call: Call) -> ChatStreamDecoder:
        return ChatStreamDecoder()

    decode_error = staticmethod(decode_error)


class ChatStreamDecoder:
    """Chunks in as they come, reasoning and usage brought to one shape."""

    def __init__(self) -> None:
        self._sse = PayloadDecoder()
        self._calls: set[int] = set()
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
            if choice.get("finish_reason"):
                self.complete = True
            fields = choice.get("delta")
            if not fields:
                choice["delta"] = {}
                continue
            _normalise(fields)
            for position, call in enumerate(fields.get("tool_calls") or ()):
                index = call.setdefault("index", position)
                if index not in self._calls:
                    self._calls.add(index)
                    call["id"] = call.get("id") or f"call_{payload.get('id')}_{index}"
                    call["type"] = "function"
        return payload


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = dict(choice.get("message") or {})
    _normalise(message)
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [
            {**call, "type": "function", "id": call.get("id") or f"call_{number}"}
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


def _messages(
    messages: list[dict[str, Any]], provider: ChatProvider, target: TargetInfo, losses: Losses
) -> list[dict[str, Any]]:
    hidden = _PRIVATE - provider.message
    sent: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if pictures and message["role"] != "tool":
            sent.append({"role": "user", "content": pictures})
            pictures = []
        clean = {k: v for k, v in message.items() if k not in hidden}
        content = clean.get("content")
        if isinstance(content, list):
            where = f"messages[{index}].content"
            parts = [
                _part(part, where, provider)
                for part in content
                if _is_known(part, message["role"], where, losses)
            ]
            if message["role"] == "tool":
                # Tool messages hold text only; what else a tool returned follows them.
                pictures += [part for part in parts if part["type"] != "text"]
                parts = [part for part in parts if part["type"] == "text"] or [
                    {"type": "text", "text": "(see the next message)"}
                ]
            clean["content"] = parts
            plain = all(part.keys() == {"type", "text"} for part in parts)
            if plain and (len(parts) == 1 or target.content_must_be_string):
                clean["content"] = "\n\n".join(part["text"] for part in parts)
        if "tool_calls" in clean and not clean["tool_calls"]:
            del clean["tool_calls"]
        sent.append(clean)
    if pictures:
        sent.append({"role": "user", "content": pictures})
    return sent


def _is_known(part: dict[str, Any], role: str, where: str, losses: Losses) -> bool:
    if part.get("type") in PART_TYPES:
        return True
    if role != "assistant":
        raise refuse(where, f"`{part.get('type')}` content is known to one provider only")
    losses.drop(where, f"`{part.get('type')}` is known to one provider only")
    return False


def _part(part: dict[str, Any], where: str, provider: ChatProvider) -> dict[str, Any]:
    clean = {
        k: v
        for k, v in part.items()
        if k != "citations" and (k != "cache_control" or k in provider.message)
    }
    file = part.get("file")
    if isinstance(file, dict) and "file_url" in file:
        raise refuse(where, "this provider fetches no files by URL; send the file as a data URL")
    if isinstance(file, dict):
        clean["file"] = {k: file[k] for k in ("file_data", "file_id", "filename") if k in file}
    return clean


def _tools(rest: dict[str, Any], losses: Losses) -> None:
    tools = rest.get("tools")
    if not tools:
        rest.pop("tools", None)
        rest.pop("tool_choice", None)
        rest.pop("parallel_tool_calls", None)
        return
    kept = []
    for index, tool in enumerate(tools):
        if tool.get("type") == "function" or "custom" in tool:
            kept.append({k: v for k, v in tool.items() if k != "cache_control"})
        else:
            losses.drop(f"tools[{index}]", f"`{tool.get('type')}` runs at another provider")
    rest["tools"] = kept
    if not kept:
        _tools(rest, losses)


def _reasoning(
    rest: dict[str, Any], body: dict[str, Any], target: TargetInfo, losses: Losses
) -> None:
    can = target.capabilities
    effort = effort_of(rest)
    named = "thinking" if rest.get("thinking") else "reasoning_effort"
    rest.pop("thinking", None)
    rest.pop("reasoning_effort", None)
    if effort is not None:
        if can.known and can.thinking == "none":
            if effort != "none":
                losses.drop(named, "this model does not reason")
        elif effort != "none" or "none" in can.efforts:
            body["reasoning_effort"] = nearest_effort(effort, can.efforts)
        elif not can.thinking_off:
            body["reasoning_effort"] = nearest_effort("minimal", can.efforts)
            losses.drop(named, "this model cannot stop reasoning")
    reasons = body.get("reasoning_effort", "none" if can.sampling else "medium") != "none"
    if reasons and can.known and can.thinking == "effort":
        for name in _SAMPLING:
            value = rest.pop(name, None)
            if value and not (value == 1 and name in {"temperature", "top_p"}):
                losses.drop(name, "this model takes it only while it does not reason")
