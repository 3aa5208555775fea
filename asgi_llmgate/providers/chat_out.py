"""OpenAI chat completions as a provider's format: requests out.

The caller spoke another dialect, so only fields that this provider knows are sent, under the
names it knows them by (`capabilities.toml`, tables `chat.*`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import (
    PART_TYPES,
    Names,
    clean_id,
    digest,
    effort_of,
    nearest_effort,
    short_user,
)
from asgi_llmgate.providers.capabilities import ChatProvider, chat_provider
from asgi_llmgate.providers.chat_decoder import ChatStreamDecoder, read_response
from asgi_llmgate.providers.inner import Call, Encoded, Inner, Losses, TargetInfo, refuse
from asgi_llmgate.providers.provider_errors import decode_error
from asgi_llmgate.providers.tool_choice import possible, read_choice

__all__ = ["ChatOut"]

# What nearly all who imitate OpenAI take. Many refuse what they do not know, even where it says
# nothing (`store: false`), so anything else must be in the provider's row.
_FIELDS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "response_format",
        "seed",
        "stop",
        "stream",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
    }
)
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_TOOL_ID = re.compile(r"[^\s]+")
# OpenAI's limit; ids that other providers make are longer at times.
MAX_TOOL_ID = 40

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


class ChatOut:
    """Providers that speak OpenAI chat."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        provider = chat_provider(target.provider)
        losses = Losses(target.strict)
        rest = dict(request)
        names = Names(_TOOL_NAME, 64)
        body: dict[str, Any] = {
            "model": target.model,
            "messages": _messages(rest.pop("messages"), provider, target, names, losses),
        }
        for name in ("model", "include_thoughts", "cache_control", "stream_options"):
            rest.pop(name, None)
        older = rest.pop("max_tokens", None)
        newer = rest.pop("max_completion_tokens", None)
        limit = older if newer is None else newer
        if limit is not None:
            body[provider.max_tokens] = limit
        user = rest.pop("user", None) or rest.pop("safety_identifier", None)
        rest.pop("safety_identifier", None)
        if user and provider.user:
            body[provider.user] = short_user(user)
        elif user:
            losses.drop("safety_identifier", "this provider takes no name of a user")
        _reasoning(rest, body, target, losses)
        _tools(rest, provider, names, losses)
        for name in list(rest):
            if (name in _FIELDS and name not in provider.without) or name in provider.request:
                value = rest.pop(name)
                if value is not None:
                    body[provider.renames.get(name, name)] = value
        if body.get("stream") and target.stream_usage:
            body["stream_options"] = {"include_usage": True}
        losses.drop_rest(rest)
        return Encoded("/chat/completions", body, dropped=losses.names, tool_names=names.changed)

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner:
        return read_response(body, call)

    def stream_decoder(self, call: Call) -> ChatStreamDecoder:
        return ChatStreamDecoder(call)

    decode_error = staticmethod(decode_error)


def _messages(
    messages: list[dict[str, Any]],
    provider: ChatProvider,
    target: TargetInfo,
    names: Names,
    losses: Losses,
) -> list[dict[str, Any]]:
    hidden = _PRIVATE - provider.message
    sent: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if pictures and message["role"] != "tool":
            sent.append({"role": "user", "content": pictures})
            pictures = []
        clean = {k: v for k, v in message.items() if k not in hidden}
        if clean["role"] == "developer" and not provider.developer:
            clean["role"] = "system"
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
        calls = clean.pop("tool_calls", None)
        if calls:
            clean["tool_calls"] = [_call(call, provider, names) for call in calls]
        if "tool_call_id" in clean:
            clean["tool_call_id"] = _tool_id(clean["tool_call_id"], provider)
        sent.append(clean)
    if pictures:
        sent.append({"role": "user", "content": pictures})
    return sent


def _call(call: Mapping[str, Any], provider: ChatProvider, names: Names) -> dict[str, Any]:
    function = call.get("function")
    if function is None:  # A custom tool's call; its input is no JSON.
        custom = call["custom"]
        function = {"name": custom["name"], "arguments": custom.get("input") or ""}
    else:
        function = {**function, "arguments": function.get("arguments") or "{}"}
    sent: dict[str, Any] = {
        "id": _tool_id(call["id"], provider),
        "type": "function",
        "function": {**function, "name": names.clean(function["name"])},
    }
    if "extra_content" in call and "extra_content" in provider.message:
        sent["extra_content"] = call["extra_content"]
    return sent


def _tool_id(value: str, provider: ChatProvider) -> str:
    """Return a tool call's id as the provider takes it; call and result meet either way."""
    if provider.tool_id_length:  # Mistral: exactly nine letters and digits.
        length = provider.tool_id_length
        if len(value) == length and value.isalnum() and value.isascii():
            return value
        return digest(value)[:length]
    return clean_id(value, _TOOL_ID, MAX_TOOL_ID)


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


def _tools(rest: dict[str, Any], provider: ChatProvider, names: Names, losses: Losses) -> None:
    is_given = rest.get("tool_choice") is not None
    choice = read_choice(rest, losses)
    filters = bool(choice.names) and choice.mode != "named" and not provider.allowed_tools
    kept = []
    called = []
    for index, tool in enumerate(rest.pop("tools", None) or ()):
        function = tool.get("function")
        if function is None:
            losses.drop(f"tools[{index}]", f"`{tool.get('type')}` runs at another provider")
            continue
        if filters and not choice.allows(function["name"]):
            continue
        named = {**function, "name": names.clean(function["name"])}
        kept.append({"type": "function", "function": named})
        called.append(function["name"])
    choice = possible(choice, called, losses)
    if not kept:
        rest.pop("parallel_tool_calls", None)
        return
    rest["tools"] = kept
    if choice.mode == "named":
        rest["tool_choice"] = _named(choice.names[0], names)
    elif choice.names and not filters:
        allowed = [_named(name, names) for name in choice.names if name in called]
        chosen = {"mode": choice.mode, "tools": allowed}
        rest["tool_choice"] = {"type": "allowed_tools", "allowed_tools": chosen}
    elif is_given:
        rest["tool_choice"] = choice.mode


def _named(name: str, names: Names) -> dict[str, Any]:
    return {"type": "function", "function": {"name": names.clean(name)}}


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
