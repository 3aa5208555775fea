"""Gemini generateContent as a provider's format: requests out, responses in.

Source: google-genai SDK 3.4 (types), ai.google.dev. Schemas go out as JSON schema
(`parametersJsonSchema`, `responseJsonSchema`): Gemini's own subset knows no `$ref`, `const` or
unions with null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from asgi_llmgate.providers._parts import (
    EFFORT_BUDGETS,
    Names,
    budget_of,
    effort_of,
    nearest_effort,
    stop_list,
)
from asgi_llmgate.providers.gemini_contents import Contents
from asgi_llmgate.providers.gemini_decoder import GeminiStreamDecoder, read_response
from asgi_llmgate.providers.inner import Call, Encoded, Inner, Losses, TargetInfo
from asgi_llmgate.providers.provider_errors import decode_error
from asgi_llmgate.providers.tool_choice import (
    JSON_HINT,
    Choice,
    json_tool,
    possible,
    read_choice,
    with_json_tool,
)

__all__ = ["GeminiOut"]

_TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]*")

# Google's own mapping of efforts for its OpenAI-compatible endpoint.
_BUDGETS = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576}
_MAX_BUDGET = {"gemini-2.5-pro": 32_768}
_MIN_BUDGET = {"gemini-2.5-pro": 128, "gemini-2.5-flash-lite": 512}
MAX_STOPS = 5


class GeminiOut:
    """Providers that speak Gemini."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        rest = dict(request)
        losses = Losses(target.strict)
        names = Names(_TOOL_NAME, 64)
        contents = Contents(names, losses, signs=target.capabilities.thinking == "level")
        for index, message in enumerate(rest.pop("messages")):
            contents.add(message, index)
        contents.finish()
        stream = bool(rest.pop("stream", None))
        for name in ("model", "stream_options", "cache_control"):
            rest.pop(name, None)
        config: dict[str, Any] = {}
        _sampling(rest, config, losses)
        _thinking(rest, config, target, losses)
        body: dict[str, Any] = {"contents": contents.contents}
        used = _tools(rest, body, config, contents, names, target, losses)
        if contents.system:
            body["systemInstruction"] = {"parts": [{"text": text} for text in contents.system]}
        if config:
            body["generationConfig"] = config
        tier = rest.pop("service_tier", None)
        if tier in {"flex", "priority"}:
            body["serviceTier"] = tier
        elif tier not in {None, "auto", "default"}:
            losses.drop("service_tier", f"Gemini has no tier `{tier}`")
        losses.drop_rest(rest)
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        path = f"/models/{quote(target.model, safe='/')}:{verb}"
        return Encoded(path, body, {}, losses.names, used, names.changed)

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner:
        return read_response(body, call)

    def stream_decoder(self, call: Call) -> GeminiStreamDecoder:
        return GeminiStreamDecoder(call)

    decode_error = staticmethod(decode_error)


def _sampling(rest: dict[str, Any], config: dict[str, Any], losses: Losses) -> None:
    older, newer = rest.pop("max_tokens", None), rest.pop("max_completion_tokens", None)
    limit = older if newer is None else newer
    fields = {
        "temperature": rest.pop("temperature", None),
        "topP": rest.pop("top_p", None),
        "topK": rest.pop("top_k", None),
        "candidateCount": rest.pop("n", None),
        "maxOutputTokens": limit,
        "seed": rest.pop("seed", None),
        "presencePenalty": rest.pop("presence_penalty", None),
        "frequencyPenalty": rest.pop("frequency_penalty", None),
        "responseLogprobs": rest.pop("logprobs", None) or None,
        "logprobs": rest.pop("top_logprobs", None) or None,
    }
    if fields["candidateCount"] == 1:
        fields["candidateCount"] = None
    stops = stop_list(rest.pop("stop", None))
    if len(stops) > MAX_STOPS:
        losses.drop("stop", f"Gemini takes {MAX_STOPS} stop sequences")
    if stops:
        fields["stopSequences"] = stops[:MAX_STOPS]
    config |= {name: value for name, value in fields.items() if value is not None}


def _thinking(
    rest: dict[str, Any], config: dict[str, Any], target: TargetInfo, losses: Losses
) -> None:
    can = target.capabilities
    effort, budget = effort_of(rest), budget_of(rest)
    asked = rest.pop("thinking", None)
    rest.pop("reasoning_effort", None)
    named = "thinking" if asked else "reasoning_effort"
    shown = rest.pop("include_thoughts", None)
    if effort is None:
        if shown and can.thinking in {"budget", "level"}:
            config["thinkingConfig"] = {"includeThoughts": True}
        return
    if can.known and can.thinking == "none":
        if effort != "none":
            losses.drop(named, "this model does not think")
        return
    sent: dict[str, Any] = {}
    if can.thinking == "level":
        if effort == "none":
            losses.drop(named, "this model cannot stop thinking")
            sent["thinkingLevel"] = nearest_effort("minimal", can.efforts).upper()
        elif not (asked and asked.get("type") == "adaptive"):
            sent["thinkingLevel"] = nearest_effort(effort, can.efforts).upper()
    else:
        sent["thinkingBudget"] = _budget(effort, budget, asked, target, losses, named)
    if effort != "none" and shown is not False:
        sent["includeThoughts"] = True
    config["thinkingConfig"] = sent


def _budget(
    effort: str,
    budget: int | None,
    asked: Any,
    target: TargetInfo,
    losses: Losses,
    named: str,
) -> int:
    model = target.model.rpartition("/")[2]
    least = next((n for name, n in _MIN_BUDGET.items() if model.startswith(name)), 0)
    most = next((n for name, n in _MAX_BUDGET.items() if model.startswith(name)), 24_576)
    if effort == "none":
        if target.capabilities.thinking_off:
            return 0
        losses.drop(named, "this model cannot stop thinking")
        return least
    if asked and asked.get("type") == "adaptive":
        return -1
    explicit = bool(asked) and budget is not None and budget not in EFFORT_BUDGETS.values()
    wanted = budget if explicit and budget is not None else _BUDGETS.get(effort, most)
    return max(least, min(wanted, most))


def _tools(
    rest: dict[str, Any],
    body: dict[str, Any],
    config: dict[str, Any],
    contents: Contents,
    names: Names,
    target: TargetInfo,
    losses: Losses,
) -> str | None:
    can = target.capabilities
    choice = read_choice(rest, losses)
    declarations: list[dict[str, Any]] = []
    called: list[str] = []
    for index, tool in enumerate(rest.pop("tools", None) or ()):
        function = tool.get("function")
        if function is None:
            losses.drop(f"tools[{index}]", f"`{tool.get('type')}` runs at another provider")
            continue
        declarations.append(_declaration(function, names))
        called.append(function["name"])
    choice = possible(choice, called, losses)
    if rest.pop("parallel_tool_calls", None) is False and declarations:
        losses.drop("parallel_tool_calls", "Gemini cannot be kept from calling in parallel")
    wanted = rest.pop("response_format", None) or {}
    used: str | None = None
    if wanted.get("type") == "json_schema":
        schema = wanted["json_schema"].get("schema")
        if declarations and not can.json_schema_with_tools:
            # Before Gemini 3 a JSON answer and tools exclude each other.
            if choice.mode != "named":
                used, function = json_tool(wanted["json_schema"])
                declarations.append(_declaration(function, names))
                choice = with_json_tool(choice, used, is_alone=False)
        else:
            config["responseMimeType"] = "application/json"
            if schema:
                config["responseJsonSchema"] = schema
    elif wanted.get("type") == "json_object":
        if declarations and not can.json_schema_with_tools:
            contents.system.append(JSON_HINT)
        else:
            config["responseMimeType"] = "application/json"
    if not declarations:
        return None
    body["tools"] = [{"functionDeclarations": declarations}]
    calling: dict[str, Any] = {}
    match choice.mode:
        case "required" | "named":
            calling["mode"] = "ANY"
        case "none":
            calling["mode"] = "NONE"
        case "auto" if choice.names:
            # Only ANY takes a set of names; leaving the others out says the same.
            body["tools"] = [
                {"functionDeclarations": [d for d in declarations if _in(d, choice, names)]}
            ]
    if choice.names and choice.mode in {"required", "named"}:
        calling["allowedFunctionNames"] = [names.clean(name) for name in choice.names]
    if calling:
        body["toolConfig"] = {"functionCallingConfig": calling}
    return used


def _in(declaration: Mapping[str, Any], choice: Choice, names: Names) -> bool:
    return declaration["name"] in {names.clean(name) for name in choice.names}


def _declaration(function: Mapping[str, Any], names: Names) -> dict[str, Any]:
    sent: dict[str, Any] = {"name": names.clean(function["name"])}
    if function.get("description"):
        sent["description"] = function["description"]
    schema = {k: v for k, v in (function.get("parameters") or {}).items() if k != "$schema"}
    if schema and (schema.get("properties") or schema.keys() - {"type", "properties"}):
        sent["parametersJsonSchema"] = schema
    return sent
