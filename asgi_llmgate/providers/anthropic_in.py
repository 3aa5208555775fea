"""Anthropic messages as a caller's dialect: requests in, responses and errors out.

Source: anthropic SDK 2.12 (types), platform.claude.com. Claude Code is the main caller: it sends
cache markers everywhere, thinking blocks back, and fields of betas; what only Anthropic knows
keeps its name and is dropped by name on the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import (
    UNSIGNED,
    arguments_object,
    clean_id,
    data_url,
    guess_mime,
    leading_choice,
    open_envelope,
    seal_envelope,
    unsigned_reasoning,
)
from asgi_llmgate.providers.anthropic_encoder import (
    TOOL_ID,
    AnthropicStreamEncoder,
    citations,
    shown_model,
    stop_fields,
    usage_fields,
)
from asgi_llmgate.providers.inner import Call, Inner, refuse
from asgi_llmgate.providers.provider_errors import ProviderError, anthropic_error
from asgi_llmgate.providers.schemas import fits_strict

__all__ = ["AnthropicIn"]


class AnthropicIn:
    """Callers that speak Anthropic messages."""

    def decode_request(
        self, body: Mapping[str, Any], *, model: str | None = None, stream: bool | None = None
    ) -> Inner:
        rest = dict(body)
        system = rest.pop("system", None)
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": _system(system)})
        for index, message in enumerate(rest.pop("messages", None) or ()):
            messages += _message(message, index)
        request: Inner = {"model": model or rest.pop("model", ""), "messages": messages}
        rest.pop("model", None)
        if stream is not None:
            request["stream"] = stream
            rest.pop("stream", None)
        for theirs, ours in (("max_tokens", "max_completion_tokens"), ("stop_sequences", "stop")):
            if theirs in rest:
                request[ours] = rest.pop(theirs)
        metadata = dict(rest.pop("metadata", None) or {})
        user = metadata.pop("user_id", None)
        if user:
            request["safety_identifier"] = user
        if metadata:
            request["metadata"] = metadata
        output = dict(rest.pop("output_config", None) or {})
        if output.get("effort"):
            request["reasoning_effort"] = output.pop("effort")
        wanted = output.pop("format", None)
        if wanted:
            schema = wanted.get("schema")
            named = {"name": "answer", "schema": schema, "strict": fits_strict(schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        request |= {f"output_config.{name}": value for name, value in output.items()}
        if rest.get("service_tier") == "standard_only":
            rest["service_tier"] = "default"
        tools = rest.pop("tools", None)
        if tools:
            request["tools"] = [_tool(tool) for tool in tools]
            for index, tool in enumerate(tools):
                for name in _TOOL_EXTRAS & tool.keys():
                    if tool[name] != ["direct"]:
                        rest[f"tools[{index}].{name}"] = tool[name]
        choice = rest.pop("tool_choice", None)
        if choice:
            if choice.get("disable_parallel_tool_use"):
                request["parallel_tool_calls"] = False
            request["tool_choice"] = _tool_choice(choice)
        if any(_wants_citations(message) for message in body.get("messages") or ()):
            rest["citations"] = {"enabled": True}
        thinking = rest.get("thinking")
        if isinstance(thinking, Mapping) and thinking.get("display") == "omitted":
            request["include_thoughts"] = False
        return request | rest

    def encode_response(self, response: Inner, call: Call) -> dict[str, Any]:
        choice = leading_choice(response)
        message = choice.get("message") or {}
        body = {
            "id": message_id(response, call),
            "type": "message",
            "role": "assistant",
            "model": shown_model(response, call),
            "content": _content(message),
        }
        stop = stop_fields(choice, refused=bool(message.get("refusal")))
        return body | stop | {"usage": usage_fields(response.get("usage"))}

    def stream_encoder(self, call: Call) -> AnthropicStreamEncoder:
        return AnthropicStreamEncoder(call)

    def encode_error(self, error: ProviderError, call_id: str) -> dict[str, Any]:
        return anthropic_error(error, call_id)


# What only Anthropic does with a tool that runs at the caller.
_TOOL_EXTRAS = frozenset({"input_examples", "allowed_callers"})


def message_id(response: Mapping[str, Any], call: Call) -> str:
    """Return the id of an answer; the provider's own where there is one."""
    return str(response.get("id") or f"msg_{call.id}")


def _system(system: Any) -> Any:
    if isinstance(system, str):
        return system
    return [_text_part(block) for block in system]


def _text_part(block: Mapping[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "text", "text": block.get("text", "")}
    if block.get("cache_control"):
        part["cache_control"] = block["cache_control"]
    return part


def _message(message: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    role, content = message["role"], message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = content or []
    where = f"messages[{index}].content"
    if role == "assistant":
        return [_assistant(blocks, where)]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for position, block in enumerate(blocks):
        at = f"{where}[{position}]"
        if block.get("type") == "tool_result":
            results.append(_tool_result(block, at))
        else:
            parts += _parts(block, at)
    # Results answer the turn before, so they come first whatever their place.
    if parts or not results:
        results.append({"role": role, "content": parts})
    return results


def _tool_result(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        content = [part for nested in content for part in _parts(nested, where)]
    result: dict[str, Any] = {
        "role": "tool",
        "tool_call_id": block["tool_use_id"],
        "content": content or "",
    }
    if block.get("is_error"):
        result["is_error"] = True
    if block.get("cache_control"):
        result["cache_control"] = block["cache_control"]
    return result


def _assistant(blocks: list[dict[str, Any]], where: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thinking: list[dict[str, Any]] = []
    signatures: dict[str, str] = {}
    for position, block in enumerate(blocks):
        match block.get("type"):
            case "text":
                parts.append(_text_part(block))
            case "tool_use":
                function = {
                    "name": block["name"],
                    "arguments": dumps(block.get("input") or {}).decode(),
                }
                call = {"id": block["id"], "type": "function", "function": function}
                if block.get("cache_control"):
                    call["cache_control"] = block["cache_control"]
                calls.append(call)
            case "thinking" | "redacted_thinking":
                sealed = open_envelope(block.get("signature") or block.get("data"))
                if sealed is None:
                    kept = {k: v for k, v in block.items() if k != "cache_control"}
                    signed = block.get("signature") or block.get("data")
                    thinking.append(kept | {"origin": "anthropic" if signed else "none"})
                elif sealed.get("type") == "tool_signature":
                    signatures[sealed["id"]] = sealed["signature"]
                elif sealed.get("origin") == "none":
                    thinking.append(sealed | {"thinking": block.get("thinking") or ""})
                elif sealed:
                    thinking.append(sealed)
            case "image" | "document":
                parts += _parts(block, f"{where}[{position}]")
            case _:
                # Steps of tools that ran at Anthropic: of no use elsewhere, kept by name.
                parts.append(dict(block))
    message: dict[str, Any] = {"role": "assistant", "content": _plain(parts)}
    if calls:
        for call in calls:
            if call["id"] in signatures:
                signature = signatures[call["id"]]
                call["extra_content"] = {"google": {"thought_signature": signature}}
        message["tool_calls"] = calls
    text = "".join(block.get("thinking") or "" for block in thinking)
    if text:
        message["reasoning_content"] = text
    if thinking:
        message["thinking_blocks"] = thinking
    return message


def _wants_citations(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(block, Mapping)
        and isinstance(wanted := block.get("citations"), Mapping)
        and wanted.get("enabled") is True
        for block in content
    )


def _plain(parts: list[dict[str, Any]]) -> Any:
    if not parts:
        return None
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts


def _parts(block: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return a content block of a user turn as parts of the inner form."""
    match block.get("type"):
        case "text":
            return [_text_part(block)]
        case "image":
            part = _image(block["source"], where)
        case "document":
            source, context = block["source"], block.get("context")
            if context:
                rest = {name: value for name, value in block.items() if name != "context"}
                return [{"type": "text", "text": context}, *_parts(rest, where)]
            if source.get("type") == "content":
                nested = source.get("content")
                if isinstance(nested, str):
                    return [{"type": "text", "text": nested}]
                return [part for inner in nested for part in _parts(inner, where)]
            part = _document(block, where)
        case "search_result":
            texts = [dict(inner) for inner in block.get("content") or ()]
            title = {"type": "text", "text": f"{block.get('title')} ({block.get('source')}):"}
            return [title, *(_text_part(text) for text in texts)]
        case "tool_reference" | "tool_addition":
            # Elsewhere no tool waits to be found: all are sent at once.
            found = block.get("tool") or block
            name = found.get("tool_name") or found["name"]
            return [{"type": "text", "text": f"The tool `{name}` is available now."}]
        case kind:
            raise refuse(where, f"`{kind}` content is known to Anthropic only")
    if block.get("cache_control"):
        part["cache_control"] = block["cache_control"]
    return [part]


def _image(source: Mapping[str, Any], where: str) -> dict[str, Any]:
    match source.get("type"):
        case "base64":
            url = data_url(source["media_type"], source["data"])
        case "url":
            url = source["url"]
        case _:
            raise refuse(where, "the file is stored at Anthropic; send the image itself")
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    source = block["source"]
    file: dict[str, Any] = {}
    match source.get("type"):
        case "base64":
            file["file_data"] = data_url(source["media_type"], source["data"])
            file["filename"] = block.get("title") or "document.pdf"
        case "url":
            file["file_url"] = source["url"]
            if block.get("title"):
                file["filename"] = block["title"]
            if guess_mime(source["url"], "").startswith("image/"):
                return {"type": "image_url", "image_url": {"url": source["url"]}}
        case "text":
            title = f"{block['title']}:\n" if block.get("title") else ""
            return {"type": "text", "text": title + source["data"]}
        case _:
            raise refuse(where, "the file is stored at Anthropic; send the document itself")
    return {"type": "file", "file": file}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type", "custom") not in {"custom", None}:
        return dict(tool)
    function: dict[str, Any] = {"name": tool["name"], "parameters": tool.get("input_schema") or {}}
    if tool.get("description"):
        function["description"] = tool["description"]
    if "strict" in tool:
        function["strict"] = bool(tool["strict"]) and fits_strict(function["parameters"])
    result: dict[str, Any] = {"type": "function", "function": function}
    if tool.get("cache_control"):
        result["cache_control"] = tool["cache_control"]
    return result


def _tool_choice(choice: Mapping[str, Any]) -> Any:
    match choice.get("type"):
        case "any":
            return "required"
        case "tool":
            return {"type": "function", "function": {"name": choice["name"]}}
        case "none":
            return "none"
        case _:
            return "auto"


def _content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    unsigned = unsigned_reasoning(message)
    if unsigned:
        blocks.append({"type": "thinking", "thinking": unsigned, "signature": UNSIGNED})
    blocks += map(thinking_block, message.get("thinking_blocks") or ())
    text = message.get("content") or message.get("refusal")
    if text:
        block: dict[str, Any] = {"type": "text", "text": text}
        cited = citations(message, text)
        if cited:
            block["citations"] = cited
        blocks.append(block)
    for call in message.get("tool_calls") or ():
        signature = tool_signature(call)
        if signature is not None:
            blocks.append({"type": "thinking", "thinking": "", "signature": signature})
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": clean_id(call["id"], TOOL_ID),
                "name": function["name"],
                "input": arguments_object(function.get("arguments")),
            }
        )
    return blocks


def thinking_block(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a thinking block as Anthropic writes it, other families' signatures sealed."""
    if block.get("origin", "anthropic") == "anthropic":
        return {k: v for k, v in block.items() if k not in {"origin", "id"}}
    sealed = seal_envelope(block)
    return {"type": "thinking", "thinking": block.get("thinking") or "", "signature": sealed}


def tool_signature(call: Mapping[str, Any]) -> str | None:
    """Return Gemini's signature of a tool call, sealed for a thinking block before it."""
    google = (call.get("extra_content") or {}).get("google") or {}
    signature = google.get("thought_signature")
    if not signature:
        return None
    sealed = {
        "type": "tool_signature",
        "id": clean_id(call["id"], TOOL_ID),
        "signature": signature,
        "origin": "gemini",
    }
    return seal_envelope(sealed)
