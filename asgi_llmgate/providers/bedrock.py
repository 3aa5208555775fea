"""Bedrock Converse as a provider's format: requests out, responses in.

Source: botocore 1.44 service model `bedrock-runtime`. The model is in the path, and so is the
choice to stream; bytes are base64 in JSON. What only Claude takes goes in
`additionalModelRequestFields`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import Names, digest, family_of, stop_list
from asgi_llmgate.providers.anthropic_thinking import sampling, thinking, unsigned_call
from asgi_llmgate.providers.bedrock_decoder import (
    ConverseStreamDecoder,
    read_response,
)
from asgi_llmgate.providers.bedrock_messages import (
    TOOL_NAME,
    Turns,
    cache_point,
    limit_cache_points,
)
from asgi_llmgate.providers.inner import Call, Encoded, Inner, Losses, TargetInfo
from asgi_llmgate.providers.provider_errors import decode_error
from asgi_llmgate.providers.schemas import closed_schema
from asgi_llmgate.providers.tool_choice import (
    JSON_HINT,
    json_tool,
    possible,
    read_choice,
    with_json_tool,
)

__all__ = ["ConverseOut"]

MAX_METADATA = 16
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{1,256}")


class ConverseOut:
    """Providers that speak Bedrock Converse."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        rest = dict(request)
        losses = Losses(target.strict)
        names = Names(TOOL_NAME, 64)
        claude = family_of(target.model) == "anthropic"
        turns = Turns(names, losses, claude=claude)
        messages = rest.pop("messages")
        for index, message in enumerate(messages):
            turns.add(message, index)
        turns.finish()
        stream = bool(rest.pop("stream", None))
        for name in ("model", "stream_options", "cache_control", "include_thoughts"):
            rest.pop(name, None)
        body: dict[str, Any] = {"messages": turns.messages}
        output: dict[str, Any] = {}
        extra = _inference(rest, body, output, target, losses, messages, claude=claude)
        used = _tools(rest, body, output, turns, names, target, losses, extra=extra, claude=claude)
        if turns.system:
            body["system"] = turns.system
        limit_cache_points(body, target.capabilities, on_tools=claude)
        if output:
            body["outputConfig"] = output
        if extra:
            body["additionalModelRequestFields"] = extra
        _labels(rest, body, losses)
        losses.drop_rest(rest)
        verb = "converse-stream" if stream else "converse"
        path = f"/model/{quote(target.model, safe='')}/{verb}"
        return Encoded(path, body, {}, losses.names, used, names.changed)

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner:
        return read_response(body, call)

    def stream_decoder(self, call: Call) -> ConverseStreamDecoder:
        return ConverseStreamDecoder(call)

    decode_error = staticmethod(decode_error)


def _inference(
    rest: dict[str, Any],
    body: dict[str, Any],
    output: dict[str, Any],
    target: TargetInfo,
    losses: Losses,
    messages: list[dict[str, Any]],
    *,
    claude: bool,
) -> dict[str, Any]:
    """Move limits, sampling and reasoning; return what goes to the model unchanged."""
    can = target.capabilities
    config: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    older, newer = rest.pop("max_tokens", None), rest.pop("max_completion_tokens", None)
    limit = older if newer is None else newer
    if limit is not None:
        config["maxTokens"] = limit
    thought = thinking(
        rest,
        target,
        losses,
        max_tokens=limit or can.max_output or 4096,
        unsigned_call=unsigned_call(messages),
    )
    if thought.config and (claude or not can.known):
        extra["thinking"] = thought.config
        if limit is None and "budget_tokens" in thought.config:
            # Bedrock's own default is smaller than most budgets, which is refused.
            config["maxTokens"] = can.max_output or 4096
    if thought.effort:
        output["effort"] = thought.effort
    sampled = sampling(rest, target, losses, thinks=thought.thinks)
    if "temperature" in sampled:
        config["temperature"] = sampled["temperature"]
    if "top_p" in sampled:
        config["topP"] = sampled["top_p"]
    if "top_k" in sampled:
        if claude:
            extra["top_k"] = sampled["top_k"]
        else:
            losses.drop("top_k")
    stops = stop_list(rest.pop("stop", None))
    if stops:
        config["stopSequences"] = stops
    if config:
        body["inferenceConfig"] = config
    # Converse leaves these two out of its own answer; Claude's has them.
    asked = [THOUGHT_TOKENS] if thought.thinks else []
    asked += ["/stop_sequence"] if stops else []
    if claude and asked:
        body["additionalModelResponseFieldPaths"] = asked
    return extra


THOUGHT_TOKENS = "/usage/output_tokens_details"


def _tools(
    rest: dict[str, Any],
    body: dict[str, Any],
    output: dict[str, Any],
    turns: Turns,
    names: Names,
    target: TargetInfo,
    losses: Losses,
    *,
    extra: dict[str, Any],
    claude: bool,
) -> str | None:
    can = target.capabilities
    budgeted = extra.get("thinking", {}).get("type") == "enabled"
    choice = read_choice(rest, losses)
    specs: list[dict[str, Any]] = []
    called: list[str] = []
    for index, tool in enumerate(rest.pop("tools", None) or ()):
        function = tool.get("function")
        if function is None:
            losses.drop(f"tools[{index}]", f"`{tool.get('type')}` runs at another provider")
        elif choice.allows(function["name"]):
            specs.append(_spec(function, names, strict=can.json_schema))
            specs += cache_point(tool)
            called.append(function["name"])
    choice = possible(choice, called, losses)
    one_by_one = rest.pop("parallel_tool_calls", None) is False and bool(specs)
    if one_by_one and not claude:
        losses.drop("parallel_tool_calls", "this model cannot be kept from calling in parallel")
    wanted = rest.pop("response_format", None) or {}
    used: str | None = None
    if wanted.get("type") == "json_schema":
        named = wanted["json_schema"]
        if can.json_schema:
            output["textFormat"] = _text_format(named)
        elif choice.mode != "named":
            used, function = json_tool(named)
            specs.append(_spec(function, names, strict=False))
            choice = with_json_tool(choice, used, is_alone=not called)
    elif wanted.get("type") == "json_object":
        turns.system.append({"text": JSON_HINT})
    if not specs and turns.called:
        # A conversation with tool calls in it is refused without their tools.
        specs = [_spec({"name": name}, names, strict=False) for name in turns.called]
    elif choice.mode == "none" and specs:
        if not turns.called:
            return None
        losses.drop("tool_choice", "tools of earlier calls must be named, and then may be used")
    elif not specs:
        return None
    config: dict[str, Any] = {"tools": specs}
    if choice.mode in {"required", "named"} and (budgeted or not can.forced_tools):
        if used is None:
            losses.drop("tool_choice", "this model cannot be made to use a tool")
        else:
            turns.system.append({"text": f"Answer by calling `{used}`."})
    elif choice.mode == "required":
        config["toolChoice"] = {"any": {}}
    elif choice.mode == "named":
        config["toolChoice"] = {"tool": {"name": names.clean(choice.names[0])}}
    if one_by_one and claude:
        # Converse has no word for it; Claude's own reaches the model. Both may not name a type.
        free = {} if "toolChoice" in config else {"type": "auto"}
        extra["tool_choice"] = free | {"disable_parallel_tool_use": True}
    body["toolConfig"] = config
    return used


def _spec(function: Mapping[str, Any], names: Names, *, strict: bool) -> dict[str, Any]:
    schema = function.get("parameters") or {}
    if schema.get("type") != "object":
        schema = {"type": "object", **schema}
    spec: dict[str, Any] = {"name": names.clean(function["name"])}
    if function.get("description"):
        spec["description"] = function["description"]
    if strict and function.get("strict"):
        spec["strict"] = True
        schema = closed_schema(schema)
    spec["inputSchema"] = {"json": schema}
    return {"toolSpec": spec}


def _text_format(wanted: Mapping[str, Any]) -> dict[str, Any]:
    schema = closed_schema(wanted.get("schema") or {"type": "object"})
    described = {"schema": dumps(schema).decode(), "name": str(wanted.get("name") or "answer")}
    if wanted.get("description"):
        described["description"] = wanted["description"]
    return {"type": "json_schema", "structure": {"jsonSchema": described}}


def _labels(rest: dict[str, Any], body: dict[str, Any], losses: Losses) -> None:
    """Move user, metadata and service tier."""
    metadata = {str(name): str(value) for name, value in (rest.pop("metadata", None) or {}).items()}
    user = rest.pop("safety_identifier", None) or rest.pop("user", None)
    rest.pop("user", None)
    if user:
        plain = str(user)
        metadata["user_id"] = plain if _METADATA.fullmatch(plain) else digest(plain)
    kept = {
        name: value
        for name, value in metadata.items()
        if _METADATA.fullmatch(name) and _METADATA.fullmatch(value)
    }
    if len(kept) < len(metadata) or len(kept) > MAX_METADATA:
        losses.drop("metadata", "Bedrock takes 16 entries of plain characters")
    if kept:
        body["requestMetadata"] = dict(list(kept.items())[:MAX_METADATA])
    tier = rest.pop("service_tier", None)
    if tier in {"default", "flex", "priority"}:
        body["serviceTier"] = {"type": tier}
    elif tier not in {None, "auto"}:
        losses.drop("service_tier", f"Bedrock has no tier `{tier}`")
