"""OpenAI Responses as a provider's format: requests out, responses in.

Source: openai SDK 3.54 (types/responses). Always stateless: `store: false`, and reasoning comes
back encrypted, so that the caller carries it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import (
    Names,
    clean_id,
    effort_of,
    nearest_effort,
    short_user,
    text_of,
    texts_of,
)
from asgi_llmgate.providers.inner import Call, Encoded, Inner, Losses, TargetInfo, refuse
from asgi_llmgate.providers.provider_errors import decode_error
from asgi_llmgate.providers.responses_decoder import ResponsesStreamDecoder, read_response
from asgi_llmgate.providers.tool_choice import possible, read_choice

__all__ = ["ResponsesOut"]

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_CALL_ID = re.compile(r"[^\s]+")
_SAME = (
    "temperature",
    "top_p",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "stream",
    "top_logprobs",
    "moderation",
)


class ResponsesOut:
    """Providers that speak OpenAI Responses."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        rest = dict(request)
        losses = Losses(target.strict)
        names = Names(_TOOL_NAME, 64)
        instructions, items = _input(rest.pop("messages"), names, losses)
        body: dict[str, Any] = {"model": target.model, "input": items, "store": False}
        if instructions:
            body["instructions"] = instructions
        for name in ("model", "cache_control", "stream_options", "store"):
            rest.pop(name, None)
        older, newer = rest.pop("max_tokens", None), rest.pop("max_completion_tokens", None)
        limit = older if newer is None else newer
        if limit is not None:
            body["max_output_tokens"] = limit
        user = rest.pop("safety_identifier", None) or rest.pop("user", None)
        rest.pop("user", None)
        if user:
            body["safety_identifier"] = short_user(user)
        _reasoning(rest, body, target, losses)
        if rest.pop("logprobs", None):
            body["include"] = [*body.get("include", ()), "message.output_text.logprobs"]
            rest.setdefault("top_logprobs", 0)
        for name in _SAME:
            if rest.get(name) is not None:
                body[name] = rest[name]
            rest.pop(name, None)
        _tools(rest, body, names, losses)
        _text(rest, body)
        losses.drop_rest(rest)
        return Encoded("/responses", body, dropped=losses.names, tool_names=names.changed)

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner:
        return read_response(body, call)

    def stream_decoder(self, call: Call) -> ResponsesStreamDecoder:
        return ResponsesStreamDecoder(call)

    decode_error = staticmethod(decode_error)


def _input(
    messages: list[dict[str, Any]], names: Names, losses: Losses
) -> tuple[str | None, list[dict[str, Any]]]:
    instructions: list[str] = []
    items: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}].content"
        content = message.get("content")
        match message.get("role"):
            case "system" | "developer" if not items:
                instructions += texts_of(content)
            case "assistant":
                items += _assistant(message, where, names, losses)
            case "tool" | "function":
                output = content if isinstance(content, str) else _parts(content, where)
                items.append(
                    {
                        "type": "function_call_output",
                        "call_id": clean_id(message["tool_call_id"], _CALL_ID),
                        "output": output,
                    }
                )
            case role:
                sent = content if isinstance(content, str) else _parts(content, where)
                items.append({"role": role, "content": sent})
    return "\n\n".join(instructions) or None, items


def _assistant(
    message: Mapping[str, Any], where: str, names: Names, losses: Losses
) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for block in message.get("thinking_blocks") or ():
        if block.get("origin") == "openai" and block.get("signature"):
            text = block.get("thinking")
            summary = [{"type": "summary_text", "text": text}] if text else []
            named = {"id": block["id"]} if block.get("id") else {}
            item = {"type": "reasoning", **named, "summary": summary}
            items.append(item | {"encrypted_content": block["signature"]})
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if part.get("type") not in {"text", "refusal"}:
                losses.drop(where, f"`{part.get('type')}` is known to one provider only")
        content = [part for part in content if part.get("type") in {"text", "refusal"}]
    # Content parts of an assistant need an item id of OpenAI's making; a string does not.
    text = text_of(content) or message.get("refusal")
    if text:
        items.append({"role": "assistant", "content": text})
    for call in message.get("tool_calls") or ():
        function = call.get("function")
        if function is None:  # A custom tool's call; its input is no JSON.
            custom = call["custom"]
            function = {"name": custom["name"], "arguments": custom.get("input")}
        items.append(
            {
                "type": "function_call",
                "call_id": clean_id(call["id"], _CALL_ID),
                "name": names.clean(function["name"]),
                "arguments": function.get("arguments") or "{}",
            }
        )
    return items


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for position, part in enumerate(content or ()):
        match part.get("type"):
            case "text":
                parts.append({"type": "input_text", "text": part.get("text") or ""})
            case "image_url":
                image = part["image_url"]
                url = image if isinstance(image, str) else image.get("url")
                detail = None if isinstance(image, str) else image.get("detail")
                parts.append({"type": "input_image", "image_url": url, "detail": detail or "auto"})
            case "file":
                names = ("file_data", "file_url", "file_id", "filename")
                file = {name: part["file"][name] for name in names if part["file"].get(name)}
                if "file_url" in file:
                    file.pop("filename", None)
                elif "file_data" in file:
                    file.setdefault("filename", "document.pdf")
                parts.append({"type": "input_file", **file})
            case "input_audio":
                raise refuse(f"{where}[{position}]", "the Responses API takes no audio")
            case kind:
                at = f"{where}[{position}]"
                raise refuse(at, f"`{kind}` content is known to one provider only")
    return parts


def _reasoning(
    rest: dict[str, Any], body: dict[str, Any], target: TargetInfo, losses: Losses
) -> None:
    can = target.capabilities
    effort = effort_of(rest)
    asked = rest.pop("thinking", None)
    rest.pop("reasoning_effort", None)
    shown = rest.pop("include_thoughts", None)
    named = "thinking" if asked else "reasoning_effort"
    reasoning: dict[str, Any] = {}
    if can.known and can.thinking == "none":
        if effort not in {None, "none"}:
            losses.drop(named, "this model does not reason")
        return
    if effort is not None and (effort != "none" or "none" in can.efforts):
        reasoning["effort"] = nearest_effort(effort, can.efforts)
    elif effort == "none" and not can.thinking_off:
        reasoning["effort"] = nearest_effort("minimal", can.efforts)
        losses.drop(named, "this model cannot stop reasoning")
    # Summaries need a verified organisation, so they are asked for only where someone reads them.
    if (asked or shown) and shown is not False and effort != "none":
        reasoning["summary"] = "auto"
    if reasoning:
        body["reasoning"] = reasoning
    if can.thinking == "effort" or reasoning:
        body["include"] = ["reasoning.encrypted_content"]
    reasons = reasoning.get("effort", "none" if can.sampling else "medium") != "none"
    if reasons and can.known:
        for name in ("temperature", "top_p", "logprobs", "top_logprobs"):
            value = rest.pop(name, None)
            if value and not (value == 1 and name in {"temperature", "top_p"}):
                losses.drop(name, "this model takes it only while it does not reason")


def _tools(rest: dict[str, Any], body: dict[str, Any], names: Names, losses: Losses) -> None:
    tools: list[dict[str, Any]] = []
    called: list[str] = []
    is_given = rest.get("tool_choice") is not None
    choice = read_choice(rest, losses)
    for index, tool in enumerate(rest.pop("tools", None) or ()):
        if isinstance(tool.get("function"), Mapping):
            function = tool["function"]
            named = {**function, "name": names.clean(function["name"])}
            # Left out, it would be true there: optional arguments would become mandatory.
            flat = {"type": "function", **named, "strict": bool(function.get("strict"))}
            tools.append({"parameters": {"type": "object", "properties": {}}} | flat)
            called.append(function["name"])
        else:
            losses.drop(f"tools[{index}]", f"`{tool.get('type')}` runs at another provider")
    choice = possible(choice, called, losses)
    parallel = rest.pop("parallel_tool_calls", None)
    if not tools:
        return
    body["tools"] = tools
    if parallel is not None:
        body["parallel_tool_calls"] = parallel
    chosen = [
        {"type": "function", "name": names.clean(name)} for name in choice.names if name in called
    ]
    if choice.mode == "named":
        body["tool_choice"] = chosen[0]
    elif choice.names:
        body["tool_choice"] = {"type": "allowed_tools", "mode": choice.mode, "tools": chosen}
    elif is_given:
        body["tool_choice"] = choice.mode


def _text(rest: dict[str, Any], body: dict[str, Any]) -> None:
    text: dict[str, Any] = {}
    wanted = rest.pop("response_format", None) or {}
    if wanted.get("type") == "json_schema":
        text["format"] = {"type": "json_schema", **wanted["json_schema"]}
    elif wanted.get("type") == "json_object":
        text["format"] = {"type": "json_object"}
    verbosity = rest.pop("verbosity", None)
    if verbosity:
        text["verbosity"] = verbosity
    if text:
        body["text"] = text
