"""Anthropic messages as a provider's format: requests out, responses in.

Source: anthropic SDK 2.12, platform.claude.com. `anthropic-version: 2023-06-01` is always sent:
2026-10-21 turns sampling parameters, documents in assistant turns and citations in user turns
into errors, and has nothing that a translated call needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import Names, stop_list
from asgi_llmgate.providers.anthropic_decoder import (
    AnthropicStreamDecoder,
    finish_of,
    read_citation,
    read_usage,
)
from asgi_llmgate.providers.anthropic_messages import (
    TOOL_NAME,
    Turns,
    limit_breakpoints,
    plain_system,
)
from asgi_llmgate.providers.anthropic_thinking import sampling, thinking, unsigned_call
from asgi_llmgate.providers.inner import Call, Encoded, Inner, Losses, TargetInfo
from asgi_llmgate.providers.provider_errors import decode_error
from asgi_llmgate.providers.schemas import closed_schema
from asgi_llmgate.providers.tool_choice import (
    JSON_HINT,
    Choice,
    json_tool,
    possible,
    read_choice,
    with_json_tool,
)

__all__ = ["AnthropicOut"]

# What LiteLLM sends for a model of unknown limits, and every Claude accepts.
DEFAULT_MAX_TOKENS = 4096


class AnthropicOut:
    """Providers that speak Anthropic messages."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        rest = dict(request)
        losses = Losses(target.strict)
        names = Names(TOOL_NAME, 128)
        turns = Turns(names, losses, mid_system=target.capabilities.mid_system)
        messages = rest.pop("messages")
        for index, message in enumerate(messages):
            turns.add(message, index)
        turns.finish()
        older, newer = rest.pop("max_tokens", None), rest.pop("max_completion_tokens", None)
        limit = older if newer is None else newer
        body: dict[str, Any] = {
            "model": target.model,
            "messages": turns.messages,
            "max_tokens": limit or target.capabilities.max_output or DEFAULT_MAX_TOKENS,
        }
        rest.pop("model", None)
        rest.pop("include_thoughts", None)
        rest.pop("stream_options", None)
        thought = thinking(
            rest,
            target,
            losses,
            max_tokens=body["max_tokens"],
            unsigned_call=unsigned_call(messages),
        )
        if thought.config:
            body["thinking"] = thought.config
        if thought.effort:
            body["output_config"] = {"effort": thought.effort}
        body |= sampling(rest, target, losses, thinks=thought.thinks)
        used = _tools(rest, body, turns, names, target, losses)
        if turns.system:
            body["system"] = plain_system(turns.system)
        stops = stop_list(rest.pop("stop", None))
        stop = [s for s in stops if s.strip()]
        if len(stop) < len(stops):
            losses.drop("stop", "a stop sequence of nothing but space is refused")
        if stop:
            body["stop_sequences"] = stop
        if rest.get("stream") is not None:
            body["stream"] = rest["stream"]
        rest.pop("stream", None)
        user = rest.pop("safety_identifier", None) or rest.pop("user", None)
        rest.pop("user", None)
        if user:
            body["metadata"] = {"user_id": user}
        tier = rest.pop("service_tier", None)
        if tier in {"auto", "default"}:
            body["service_tier"] = "auto" if tier == "auto" else "standard_only"
        elif tier:
            losses.drop("service_tier", f"Anthropic has no tier `{tier}`")
        if rest.get("cache_control"):
            body["cache_control"] = rest["cache_control"]
        rest.pop("cache_control", None)
        limit_breakpoints(body)
        losses.drop_rest(rest)
        return Encoded(
            "/messages",
            body,
            {"anthropic-version": "2023-06-01"},
            losses.names,
            used,
            names.changed,
        )

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner:
        message, unwrapped = _message(body.get("content") or (), call)
        choice = {"index": 0, "message": message, **finish_of(body, unwrapped=unwrapped)}
        return {
            "id": body.get("id"),
            "model": body.get("model"),
            "choices": [choice],
            "usage": read_usage(body.get("usage") or {}),
        }

    def stream_decoder(self, call: Call) -> AnthropicStreamDecoder:
        return AnthropicStreamDecoder(call)

    decode_error = staticmethod(decode_error)


def _tools(
    rest: dict[str, Any],
    body: dict[str, Any],
    turns: Turns,
    names: Names,
    target: TargetInfo,
    losses: Losses,
) -> str | None:
    """Move tools, tool choice and response format to `body`; return the JSON tool's name."""
    can = target.capabilities
    tools: list[dict[str, Any]] = []
    called: list[str] = []
    choice = read_choice(rest, losses)
    for index, tool in enumerate(rest.pop("tools", None) or ()):
        function = tool.get("function")
        if function is None:
            losses.drop(f"tools[{index}]", f"`{tool.get('type')}` runs at another provider")
        elif choice.allows(function["name"]):
            tools.append(_tool(tool, function, names, strict=can.json_schema))
            called.append(function["name"])
    choice = possible(choice, called, losses)
    parallel = rest.pop("parallel_tool_calls", None)
    wanted = rest.pop("response_format", None) or {}
    used: str | None = None
    if wanted.get("type") == "json_schema" and can.json_schema:
        schema = closed_schema(wanted["json_schema"].get("schema") or {"type": "object"})
        output = body.setdefault("output_config", {})
        output["format"] = {"type": "json_schema", "schema": schema}
    elif wanted.get("type") == "json_schema" and choice.mode != "named":
        used, tool = json_tool(wanted["json_schema"])
        tools.append(
            {
                "name": used,
                "description": tool["description"],
                "input_schema": tool["parameters"],
            }
        )
        choice = with_json_tool(choice, used, is_alone=len(tools) == 1)
    elif wanted.get("type") == "json_object":
        turns.system.append({"type": "text", "text": JSON_HINT})
    if not tools:
        return None
    forced = choice.mode in {"required", "named"}
    if forced and (not can.forced_tools or body.get("thinking", {}).get("type") == "enabled"):
        if used is None:
            losses.drop("tool_choice", "this model cannot be made to use a tool")
        else:
            turns.system.append({"type": "text", "text": f"Answer by calling `{used}`."})
        choice = Choice("auto")
    body["tools"] = tools
    sent: dict[str, Any] = {"type": "auto"}
    match choice.mode:
        case "required":
            sent = {"type": "any"}
        case "named":
            sent = {"type": "tool", "name": names.clean(choice.names[0])}
        case "none":
            sent = {"type": "none"}
    if parallel is False and choice.mode != "none":
        sent["disable_parallel_tool_use"] = True
    if sent != {"type": "auto"}:
        body["tool_choice"] = sent
    return used


def _tool(
    tool: Mapping[str, Any], function: Mapping[str, Any], names: Names, *, strict: bool
) -> dict[str, Any]:
    schema = function.get("parameters") or {}
    sent: dict[str, Any] = {
        "name": names.clean(function["name"]),
        "input_schema": schema if schema.get("type") else {"type": "object", **schema},
    }
    if function.get("description"):
        sent["description"] = function["description"]
    if strict and function.get("strict"):
        sent["strict"] = True
        sent["input_schema"] = closed_schema(sent["input_schema"])
    if tool.get("cache_control"):
        sent["cache_control"] = tool["cache_control"]
    return sent


def _message(blocks: Any, call: Call) -> tuple[dict[str, Any], bool]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    texts: list[str] = []
    answer: str | None = None
    calls: list[dict[str, Any]] = []
    thinking_blocks: list[dict[str, Any]] = []
    for block in blocks:
        match block.get("type"):
            case "text":
                texts.append(block["text"])
                for citation in block.get("citations") or ():
                    for name, found in read_citation(citation).items():
                        message.setdefault(name, []).extend(found)
            case "tool_use":
                arguments = dumps(block.get("input") or {}).decode()
                if block["name"] == call.json_tool:
                    answer = arguments
                    continue
                name = call.tool_names.get(block["name"], block["name"])
                function = {"name": name, "arguments": arguments}
                calls.append({"id": block["id"], "type": "function", "function": function})
            case "thinking" | "redacted_thinking":
                thinking_blocks.append({**block, "origin": "anthropic"})
            case _:
                pass  # Steps of tools that ran there; their outcome is in the text.
    if answer is not None:
        message["content"] = answer
    elif texts:
        message["content"] = "".join(texts)
    if calls:
        message["tool_calls"] = calls
    thoughts = "".join(block.get("thinking") or "" for block in thinking_blocks)
    if thoughts:
        message["reasoning_content"] = thoughts
    if thinking_blocks:
        message["thinking_blocks"] = thinking_blocks
    return message, answer is not None and not calls
