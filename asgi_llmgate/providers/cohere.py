"""Cohere chat v2 as a provider's format: requests out, responses in.

Source: docs.cohere.com (v2 reference, streaming, reasoning), recorded traffic. Messages and tools
look like OpenAI's; parameters have other names, a named tool is "required" with only that tool
sent, and the plan a model makes before it calls tools (`tool_plan`) is its reasoning.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import (
    budget_of,
    delta,
    effort_of,
    guess_mime,
    parse_data_url,
    stop_list,
    text_of,
    texts_of,
    usage,
)
from asgi_llmgate.providers._sse import PayloadDecoder
from asgi_llmgate.providers.inner import Call, Encoded, Inner, Losses, TargetInfo, refuse
from asgi_llmgate.providers.provider_errors import decode_error
from asgi_llmgate.providers.tool_choice import possible, read_choice

__all__ = ["CohereOut", "CohereStreamDecoder"]

_FINISH = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
    "ERROR_LIMIT": "length",
}
_RENAMED = {"top_p": "p", "top_k": "k", "seed": "seed"}


class CohereOut:
    """Providers that speak Cohere v2."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        rest = dict(request)
        losses = Losses(target.strict)
        body: dict[str, Any] = {
            "model": target.model,
            "messages": _messages(rest.pop("messages"), losses),
        }
        for name in ("model", "stream_options", "cache_control", "include_thoughts"):
            rest.pop(name, None)
        if rest.get("stream") is not None:
            body["stream"] = rest["stream"]
        rest.pop("stream", None)
        _parameters(rest, body, losses)
        _thinking(rest, body, target, losses)
        _tools(rest, body, losses)
        wanted = rest.pop("response_format", None) or {}
        if wanted.get("type") in {"json_schema", "json_object"}:
            if "tools" in body:
                losses.drop("response_format", "Cohere takes no schema together with tools")
            else:
                body["response_format"] = {"type": "json_object"}
                schema = (wanted.get("json_schema") or {}).get("schema")
                if schema:
                    body["response_format"]["json_schema"] = schema
        losses.drop_rest(rest)
        return Encoded("/chat", body, dropped=losses.names)

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner:
        return _read_response(body)

    def stream_decoder(self, call: Call) -> CohereStreamDecoder:
        return CohereStreamDecoder()

    decode_error = staticmethod(decode_error)


class CohereStreamDecoder:
    """Events have an index each for contents and for tool calls."""

    def __init__(self) -> None:
        self._sse = PayloadDecoder()
        self._calls: dict[int, int] = {}
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
        message = (event.get("delta") or {}).get("message") or {}
        match event.get("type"):
            case "content-delta" | "content-start":
                content = message.get("content") or {}
                if content.get("text"):
                    chunks.append(delta({"content": content["text"]}))
                if content.get("thinking"):
                    chunks.append(delta({"reasoning_content": content["thinking"]}))
            case "tool-plan-delta":
                chunks.append(delta({"reasoning_content": message.get("tool_plan") or ""}))
            case "tool-call-start":
                wanted = message.get("tool_calls") or {}
                index = event.get("index", 0)
                number = self._calls[index] = len(self._calls)
                function = wanted.get("function") or {}
                call = {
                    "index": number,
                    "id": wanted.get("id"),
                    "type": "function",
                    "function": {
                        "name": function.get("name"),
                        "arguments": function.get("arguments") or "",
                    },
                }
                chunks.append(delta({"tool_calls": [call]}))
            case "tool-call-delta":
                wanted = message.get("tool_calls") or {}
                fragment = (wanted.get("function") or {}).get("arguments")
                number = self._calls.get(event.get("index", 0), 0)
                if fragment:
                    call = {"index": number, "function": {"arguments": fragment}}
                    chunks.append(delta({"tool_calls": [call]}))
            case "citation-start":
                cited = message.get("citations") or {}
                chunks.append(delta({"citations": [dict(cited)]}))
            case "message-start":
                first = delta({"role": "assistant", "content": ""})
                chunks.append({"id": event.get("id"), **first})
            case "message-end":
                self._end(event.get("delta") or {}, chunks)
            case _:
                pass

    def _end(self, end: Mapping[str, Any], chunks: list[Inner]) -> None:
        self.ended = True
        native = end.get("finish_reason") or "COMPLETE"
        if native in {"ERROR", "TIMEOUT"} or end.get("error"):
            message = end.get("error") or f"The model stopped with {native}."
            chunks.append({"error": {"message": message, "type": "server_error"}})
            return
        self.complete = True
        chunk = delta({})
        chunk["choices"][0] |= _finish(native)
        chunks.append(chunk)
        if end.get("usage"):
            chunks.append({"choices": [], "usage": _usage(end["usage"])})


def _messages(messages: list[dict[str, Any]], losses: Losses) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}].content"
        role, content = message.get("role"), message.get("content")
        if pictures and role not in {"tool", "function"}:
            sent.append({"role": "user", "content": pictures})
            pictures = []
        match role:
            case "system" | "developer":
                text = "\n\n".join(texts_of(content))
                if text:
                    sent.append({"role": "system", "content": text})
            case "assistant":
                sent.append(_assistant(message, where, losses))
            case "tool" | "function":
                if isinstance(content, list):
                    # Results hold text only; what else a tool returned follows them.
                    other = [part for part in content if part.get("type") != "text"]
                    pictures += _parts(other, where)
                text = "\n\n".join(texts_of(content)) or "(no output)"
                result = {"role": "tool", "tool_call_id": message["tool_call_id"]}
                sent.append(result | {"content": text})
            case _:
                given = content if isinstance(content, str) else _parts(content, where)
                sent.append({"role": "user", "content": given})
    if pictures:
        sent.append({"role": "user", "content": pictures})
    return sent


def _assistant(message: Mapping[str, Any], where: str, losses: Losses) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if part.get("type") not in {"text", "refusal"}:
                losses.drop(where, f"`{part.get('type')}` is known to one provider only")
        content = [part for part in content if part.get("type") in {"text", "refusal"}]
    text = text_of(content) or message.get("refusal")
    sent: dict[str, Any] = {"role": "assistant"}
    if text:
        sent["content"] = text
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": call["function"].get("arguments") or "{}",
            },
        }
        for call in message.get("tool_calls") or ()
    ]
    if calls:
        sent["tool_calls"] = calls
        if message.get("reasoning_content"):
            sent["tool_plan"] = message["reasoning_content"]
    elif not text:
        sent["content"] = ""
    return sent


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for position, part in enumerate(content or ()):
        at = f"{where}[{position}]"
        match part.get("type"):
            case "text":
                parts.append({"type": "text", "text": part.get("text") or ""})
            case "image_url":
                image = part["image_url"]
                given = {"url": image} if isinstance(image, str) else dict(image)
                if given.get("detail") not in {None, "auto", "low", "high"}:
                    del given["detail"]
                parts.append({"type": "image_url", "image_url": given})
            case "file":
                parts.append({"type": "text", "text": _file_text(part["file"], at)})
            case kind:
                raise refuse(at, f"Cohere takes no `{kind}` content")
    return parts


def _file_text(file: Mapping[str, Any], where: str) -> str:
    payload, name = file.get("file_data"), str(file.get("filename") or "")
    parsed = parse_data_url(payload) if isinstance(payload, str) else None
    mime, encoded = parsed or (guess_mime(name, "application/octet-stream"), payload)
    if not isinstance(encoded, str) or not mime.startswith("text/"):
        raise refuse(where, "Cohere reads text only; send the text of the file")
    try:
        return base64.b64decode(encoded).decode("utf-8")
    except ValueError:
        raise refuse(where, "the file is not valid base64 of UTF-8 text") from None


def _parameters(rest: dict[str, Any], body: dict[str, Any], losses: Losses) -> None:
    older, newer = rest.pop("max_tokens", None), rest.pop("max_completion_tokens", None)
    limit = older if newer is None else newer
    if limit is not None:
        body["max_tokens"] = limit
    temperature = rest.pop("temperature", None)
    if temperature is not None:
        if temperature > 1:
            losses.drop("temperature", "Cohere's scale ends at 1")
        body["temperature"] = min(temperature, 1)
    for ours, theirs in _RENAMED.items():
        value = rest.pop(ours, None)
        if value is not None:
            body[theirs] = min(value, 0.99) if ours == "top_p" else value
    for name in ("presence_penalty", "frequency_penalty"):
        value = rest.pop(name, None)
        if value is not None and value < 0:
            losses.drop(name, "Cohere's scale starts at 0")
        elif value:
            if value > 1:
                losses.drop(name, "Cohere's scale ends at 1")
            body[name] = min(value, 1)
    stops = stop_list(rest.pop("stop", None))
    if stops:
        body["stop_sequences"] = stops[:MAX_STOPS]
    if len(stops) > MAX_STOPS:
        losses.drop("stop", f"Cohere takes {MAX_STOPS} stop sequences")
    if rest.pop("logprobs", None):
        body["logprobs"] = True


MAX_STOPS = 5


def _thinking(
    rest: dict[str, Any], body: dict[str, Any], target: TargetInfo, losses: Losses
) -> None:
    effort, budget = effort_of(rest), budget_of(rest)
    named = "thinking" if rest.pop("thinking", None) else "reasoning_effort"
    rest.pop("reasoning_effort", None)
    if effort is None:
        return
    if target.capabilities.thinking != "budget":
        if effort != "none":
            losses.drop(named, "this model does not reason")
    elif effort == "none":
        body["thinking"] = {"type": "disabled"}
    else:
        body["thinking"] = {"type": "enabled", "token_budget": budget}


def _tools(rest: dict[str, Any], body: dict[str, Any], losses: Losses) -> None:
    choice = read_choice(rest, losses)
    named = choice.names if choice.mode == "named" else ()
    tools = []
    called = []
    strict = False
    for index, tool in enumerate(rest.pop("tools", None) or ()):
        function = tool.get("function")
        if function is None:
            losses.drop(f"tools[{index}]", f"`{tool.get('type')}` runs at another provider")
        elif choice.allows(function["name"]) and (not named or function["name"] in named):
            strict = strict or bool(function.get("strict"))
            kept = {name: value for name, value in function.items() if name != "strict"}
            kept.setdefault("parameters", {"type": "object", "properties": {}})
            tools.append({"type": "function", "function": kept})
            called.append(function["name"])
    if rest.pop("parallel_tool_calls", None) is False and tools:
        losses.drop("parallel_tool_calls", "Cohere cannot be kept from calling in parallel")
    choice = possible(choice, called, losses)
    if not tools:
        return
    body["tools"] = tools
    if choice.mode in {"required", "named"}:
        body["tool_choice"] = "REQUIRED"
    elif choice.mode == "none":
        body["tool_choice"] = "NONE"
    if strict:
        body["strict_tools"] = True


def _read_response(body: Mapping[str, Any]) -> Inner:
    given = body.get("message") or {}
    message: dict[str, Any] = {"role": "assistant", "content": None}
    thoughts = [given["tool_plan"]] if given.get("tool_plan") else []
    texts = []
    for part in given.get("content") or ():
        if part.get("type") == "thinking":
            thoughts.append(part.get("thinking") or "")
        elif part.get("text"):
            texts.append(part["text"])
    if texts:
        message["content"] = "".join(texts)
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    calls = given.get("tool_calls") or ()
    if calls:
        message["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": dict(call["function"])}
            for call in calls
        ]
    if given.get("citations"):
        message["citations"] = list(given["citations"])
    choice = {"index": 0, "message": message, **_finish(body.get("finish_reason") or "COMPLETE")}
    logprobs = body.get("logprobs")
    if logprobs:
        choice["logprobs"] = {"content": [_token(token) for token in logprobs], "refusal": None}
    return {"id": body.get("id"), "choices": [choice], "usage": _usage(body.get("usage") or {})}


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    text = token.get("text") or ""
    total = sum(token.get("logprobs") or ())
    return {"token": text, "logprob": total, "bytes": list(text.encode()), "top_logprobs": []}


def _finish(native: str) -> dict[str, Any]:
    finish = _FINISH.get(native, "stop")
    return {"finish_reason": finish, "provider_finish_reason": native}


def _usage(raw: Mapping[str, Any]) -> dict[str, Any]:
    # Billed units leave out Cohere's own prompt, which `tokens` and `cached_tokens` count.
    counts = raw.get("billed_units") or {}
    if counts.get("input_tokens") is None and counts.get("output_tokens") is None:
        counts = raw.get("tokens") or {}
    return usage(int(counts.get("input_tokens") or 0), int(counts.get("output_tokens") or 0))
