"""The pieces of an OpenAI response object, made from the inner form.

Items keep the order in which a stream would bring them: reasoning, message, function calls; a
signature of Gemini's stands, sealed in a reasoning item, before the call it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import (
    UNSIGNED,
    annotations_of,
    seal_envelope,
    unsigned_reasoning,
)
from asgi_llmgate.providers.inner import Call

__all__ = [
    "call_item",
    "envelope",
    "finish_fields",
    "item_id",
    "message_item",
    "output_items",
    "reasoning_item",
    "sealed_signature",
    "text_part",
    "usage_fields",
]


def envelope(call: Call, identifier: str, model: str | None) -> dict[str, Any]:
    """Return a response object before it has output: what was asked for, mostly."""
    request = call.request
    wanted = request.get("response_format") or {"type": "text"}
    if wanted.get("type") == "json_schema":
        wanted = {"type": "json_schema", **wanted["json_schema"]}
    return {
        "id": identifier,
        "object": "response",
        "created_at": call.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": request.get("max_completion_tokens"),
        "metadata": request.get("metadata") or {},
        "model": model or call.model,
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": request.get("reasoning_effort"), "summary": None},
        "store": False,
        "temperature": request.get("temperature"),
        "text": {"format": wanted},
        "tool_choice": _tool_choice(request.get("tool_choice")),
        "tools": [_tool(tool) for tool in request.get("tools") or ()],
        "top_p": request.get("top_p"),
        "truncation": "disabled",
        "usage": None,
    }


def item_id(prefix: str, call: Call, index: int) -> str:
    """Return the id of the output item at `index`: the same whether streamed or not."""
    return f"{prefix}_{call.id.replace('-', '')}_{index}"


def output_items(choice: Mapping[str, Any], call: Call) -> list[dict[str, Any]]:
    """Return the items of a whole answer."""
    message = choice.get("message") or {}
    items: list[dict[str, Any]] = []
    unsigned = unsigned_reasoning(message)
    if unsigned:
        items.append(reasoning_item(call, 0, unsigned, None))
    for block in message.get("thinking_blocks") or ():
        text = block.get("thinking") or ""
        items.append(reasoning_item(call, len(items), text, block))
    text, refusal = message.get("content"), message.get("refusal")
    if text or refusal:
        content = []
        if text:
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            content.append(text_part(text, annotations_of(message), logprobs))
        if refusal:
            content.append({"type": "refusal", "refusal": refusal})
        items.append(message_item(call, len(items), content))
    for made in message.get("tool_calls") or ():
        signature = sealed_signature(made)
        if signature is not None:
            items.append(reasoning_item(call, len(items), "", signature))
        items.append(call_item(call, len(items), made))
    return items


def reasoning_item(
    call: Call, index: int, text: str, block: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return reasoning: its text as the summary, its signature as encrypted content."""
    item: dict[str, Any] = {
        "id": item_id("rs", call, index),
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}] if text else [],
    }
    if block is None:
        item["encrypted_content"] = UNSIGNED
    elif block.get("origin") == "openai":
        item["encrypted_content"] = block["signature"]
        item["id"] = block.get("id") or item["id"]
    else:
        item["encrypted_content"] = seal_envelope(block)
    return item


def message_item(call: Call, index: int, content: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a finished message."""
    return {
        "id": item_id("msg", call, index),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": content,
    }


def call_item(call: Call, index: int, made: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finished call of a tool."""
    kind = made.get("type") or "function"
    given = made.get(kind) or {}
    item: dict[str, Any] = {
        "id": item_id(_CALL_PREFIX[kind], call, index),
        "type": _CALL_TYPE[kind],
        "status": "completed",
        "call_id": made["id"],
    }
    match kind:
        case "custom":
            item |= {"name": given["name"], "input": given["input"]}
        case "local_shell":
            item["action"] = given
        case _:
            item["name"] = given.get("name") or ""
            item["arguments"] = given.get("arguments") or "{}"
    if made.get("namespace"):
        item["namespace"] = made["namespace"]
    return item


_CALL_PREFIX = {"function": "fc", "custom": "ctc", "local_shell": "lsh"}
_CALL_TYPE = {
    "function": "function_call",
    "custom": "custom_tool_call",
    "local_shell": "local_shell_call",
}


def sealed_signature(made: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return Gemini's signature of a tool call as a block to be sealed."""
    google = (made.get("extra_content") or {}).get("google") or {}
    if not google.get("thought_signature"):
        return None
    return {
        "type": "tool_signature",
        "id": made["id"],
        "signature": google["thought_signature"],
        "origin": "gemini",
    }


def text_part(
    text: str, citations: list[dict[str, Any]], logprobs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a text with what it cites."""
    annotations = [{"type": "url_citation", **citation} for citation in citations]
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def finish_fields(
    choice: Mapping[str, Any], usage: Mapping[str, Any] | None, call: Call
) -> dict[str, Any]:
    """Return the fields of a response that its end decides."""
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(
        choice.get("finish_reason") or "stop"
    )
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "completed_at": None if reason else call.created,
        "usage": usage_fields(usage),
    }


def usage_fields(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return usage as the Responses API writes it."""
    if not usage:
        return None
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    details = usage.get("prompt_tokens_details") or {}
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": details.get("cached_tokens") or 0,
            "cache_write_tokens": details.get("cache_write_tokens") or 0,
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    for kind in ("function", "custom"):
        if isinstance(tool.get(kind), Mapping):
            flat = {"type": kind, **tool[kind]}
            if kind == "function":
                flat.setdefault("strict", None)
                flat.setdefault("parameters", None)
            return flat
    return dict(tool)


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return choice or "auto"
    allowed = choice.get("allowed_tools")
    if isinstance(allowed, Mapping):
        tools = list(map(_tool_choice, allowed["tools"]))
        return {"type": "allowed_tools", "mode": allowed["mode"], "tools": tools}
    given = choice.get(str(choice.get("type")))
    return {"type": choice["type"], "name": given["name"]} if given else dict(choice)
