"""OpenAI Responses as a caller's dialect: requests in, responses and errors out.

Source: openai SDK 3.54 (types/responses). Only the stateless use: the whole conversation comes
with the request, as Codex and the agents SDK send it with `store: false`. What lies at OpenAI
(`previous_response_id`, conversations, stored prompts, item references) cannot go elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import leading_choice, open_envelope
from asgi_llmgate.providers.inner import Call, Inner, refuse
from asgi_llmgate.providers.provider_errors import ProviderError, openai_error
from asgi_llmgate.providers.responses_encoder import ResponsesStreamEncoder
from asgi_llmgate.providers.responses_items import envelope, finish_fields, output_items

__all__ = ["ResponsesIn"]

_STORED = ("previous_response_id", "conversation", "prompt")
_SAME = (
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
    "stream",
    "top_logprobs",
)


class ResponsesIn:
    """Callers that speak OpenAI Responses."""

    def decode_request(
        self, body: Mapping[str, Any], *, model: str | None = None, stream: bool | None = None
    ) -> Inner:
        rest = dict(body)
        for name in _STORED:
            if rest.pop(name, None):
                raise refuse(name, "it names something stored at OpenAI; send the items themselves")
        if rest.get("background"):
            raise refuse("background", "answers are not kept to be fetched later")
        messages = _Conversation()
        instructions = rest.pop("instructions", None)
        if isinstance(instructions, str):
            messages.add_message({"role": "system", "content": instructions}, "instructions")
        elif instructions:
            messages.add_items(instructions, "instructions")
        given = rest.pop("input", None)
        if isinstance(given, str):
            messages.add_message({"role": "user", "content": given}, "input")
        else:
            messages.add_items(given or [], "input")
        request: Inner = {
            "model": model or rest.pop("model", ""),
            "messages": messages.messages,
        }
        rest.pop("model", None)
        rest.pop("stream_options", None)
        for name in _SAME:
            if rest.get(name) is not None:
                request[name] = rest[name]
            rest.pop(name, None)
        if stream is not None:
            request["stream"] = stream
        limit = rest.pop("max_output_tokens", None)
        if limit is not None:
            request["max_completion_tokens"] = limit
        if request.get("top_logprobs"):
            request["logprobs"] = True
        _reasoning(rest, request)
        _text(rest, request)
        if messages.tools:
            rest["tools"] = [*(rest.get("tools") or ()), *messages.tools]
        _tools(rest, request)
        included = [
            name for name in rest.pop("include", None) or () if name not in _INCLUDED_ANYWAY
        ]
        if included:
            request["include"] = included
        return request | rest

    def encode_response(self, response: Inner, call: Call) -> dict[str, Any]:
        choice = leading_choice(response)
        output = output_items(choice, call)
        head = envelope(call, response_id(response, call), response.get("model"))
        return head | finish_fields(choice, response.get("usage"), call) | {"output": output}

    def stream_encoder(self, call: Call) -> ResponsesStreamEncoder:
        return ResponsesStreamEncoder(call)

    def encode_error(self, error: ProviderError, call_id: str) -> dict[str, Any]:
        return openai_error(error)


# Reasoning is always given back sealed, and logprobs follow `top_logprobs`.
_INCLUDED_ANYWAY = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs"})


def response_id(response: Mapping[str, Any], call: Call) -> str:
    """Return the id of an answer; the provider's own where there is one."""
    return str(response.get("id") or f"resp_{call.id}")


class _Conversation:
    """Items as messages: what an assistant says between two turns becomes one message.

    `tools` are those that were added on the way.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.tools: list[dict[str, Any]] = []
        self._assistant: dict[str, Any] | None = None
        self._signatures: dict[str, str] = {}

    def add_items(self, items: list[dict[str, Any]], where: str) -> None:
        for index, item in enumerate(items):
            self._item(item, f"{where}[{index}]")

    def add_message(self, item: Mapping[str, Any], where: str) -> None:
        content = item.get("content")
        if item["role"] == "assistant":
            self._say(content, where)
            return
        self._assistant = None
        if isinstance(content, list):
            content = [part(given, f"{where}.content[{i}]") for i, given in enumerate(content)]
        self.messages.append({"role": item["role"], "content": content})

    def _item(self, item: Mapping[str, Any], where: str) -> None:
        match item.get("type", "message"):
            case "message":
                self.add_message(item, where)
            case "function_call":
                function = {"name": item["name"], "arguments": item.get("arguments") or ""}
                self._calls(item, {"type": "function", "function": function})
            case "custom_tool_call":
                custom = {"name": item["name"], "input": item.get("input") or ""}
                self._calls(item, {"type": "custom", "custom": custom})
            case "local_shell_call":
                self._calls(item, {"type": "local_shell", "local_shell": item["action"]})
            case "function_call_output" | "custom_tool_call_output" | "local_shell_call_output":
                self._assistant = None
                output = item.get("output")
                if isinstance(output, list):
                    output = [part(given, where) for given in output]
                identifier = item.get("call_id") or item["id"]
                self.messages.append(
                    {"role": "tool", "tool_call_id": identifier, "content": output or ""}
                )
            case "reasoning":
                self._reason(item)
            case "item_reference":
                raise refuse(where, "it names an item stored at OpenAI; send the item itself")
            case kind if kind.endswith("_call"):
                # A step of a tool that ran at OpenAI; its outcome is in the text.
                self._parts().append(dict(item))
            case "additional_tools":
                self.tools += item.get("tools") or ()
            case kind if kind in {"tool_search_output", "mcp_list_tools"}:
                self._parts().append(dict(item))
                if kind == "tool_search_output":
                    self.tools += item.get("tools") or ()
            case kind:
                raise refuse(where, f"items of type `{kind}` are known to OpenAI only")

    def _calls(self, item: Mapping[str, Any], call: dict[str, Any]) -> None:
        call["id"] = item.get("call_id") or item["id"]
        if item.get("namespace"):
            call["namespace"] = item["namespace"]
        signature = self._signatures.pop(call["id"], None)
        if signature:
            call["extra_content"] = {"google": {"thought_signature": signature}}
        self._turn().setdefault("tool_calls", []).append(call)

    def _turn(self) -> dict[str, Any]:
        if self._assistant is None:
            self._assistant = {"role": "assistant", "content": None}
            self.messages.append(self._assistant)
        return self._assistant

    def _parts(self) -> list[dict[str, Any]]:
        turn = self._turn()
        content = turn["content"]
        if not isinstance(content, list):
            turn["content"] = [{"type": "text", "text": content}] if content else []
        parts: list[dict[str, Any]] = turn["content"]
        return parts

    def _say(self, content: Any, where: str) -> None:
        turn = self._turn()
        if isinstance(content, str):
            texts = content
        else:
            refusals = [p["refusal"] for p in content or () if p.get("type") == "refusal"]
            if refusals:
                turn["refusal"] = "".join(refusals)
            texts = "".join(p.get("text") or "" for p in content or ())
        if isinstance(turn["content"], list):
            self._parts().append({"type": "text", "text": texts})
        else:
            turn["content"] = (turn["content"] or "") + texts or None

    def _reason(self, item: Mapping[str, Any]) -> None:
        turn = self._turn()
        texts = [p.get("text") or "" for p in item.get("summary") or ()]
        texts = texts or [p.get("text") or "" for p in item.get("content") or ()]
        text = "\n\n".join(texts)
        signature = item.get("encrypted_content")
        sealed = open_envelope(signature)
        if sealed and sealed.get("type") == "tool_signature":
            self._signatures[sealed["id"]] = sealed["signature"]
        elif sealed and sealed.get("origin") != "none":
            turn.setdefault("thinking_blocks", []).append(sealed)
        elif sealed is None and signature:
            turn.setdefault("thinking_blocks", []).append(
                {
                    "type": "thinking",
                    "thinking": text,
                    "signature": signature,
                    "id": item.get("id"),
                    "origin": "openai",
                }
            )
        if text:
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text


def part(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a content part of an item in the inner form."""
    match given.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": given.get("text") or ""}
        case "input_image":
            if not given.get("image_url"):
                raise refuse(where, "the file is stored at OpenAI; send the image itself")
            image = {"url": given["image_url"]}
            if given.get("detail"):
                image["detail"] = given["detail"]
            return {"type": "image_url", "image_url": image}
        case "input_file":
            names = ("file_data", "file_url", "filename")
            file = {name: given[name] for name in names if given.get(name)}
            if not file.keys() & {"file_data", "file_url"}:
                raise refuse(where, "the file is stored at OpenAI; send its data")
            return {"type": "file", "file": file}
        case "input_audio":
            return {"type": "input_audio", "input_audio": given["input_audio"]}
        case "refusal":
            return {"type": "refusal", "refusal": given["refusal"]}
        case kind:
            raise refuse(where, f"`{kind}` content is known to OpenAI only")


def _reasoning(rest: dict[str, Any], request: Inner) -> None:
    reasoning = dict(rest.pop("reasoning", None) or {})
    effort = reasoning.pop("effort", None)
    if effort:
        request["reasoning_effort"] = effort
    summary = reasoning.pop("summary", None) or reasoning.pop("generate_summary", None)
    reasoning.pop("generate_summary", None)
    request["include_thoughts"] = bool(summary)
    request |= {f"reasoning.{name}": value for name, value in reasoning.items()}


def _text(rest: dict[str, Any], request: Inner) -> None:
    text = dict(rest.pop("text", None) or {})
    wanted = text.pop("format", None) or {}
    if text.get("verbosity"):
        request["verbosity"] = text.pop("verbosity")
    if wanted.get("type") == "json_schema":
        named = {name: value for name, value in wanted.items() if name != "type"}
        request["response_format"] = {"type": "json_schema", "json_schema": named}
    elif wanted.get("type") == "json_object":
        request["response_format"] = {"type": "json_object"}


def _tools(rest: dict[str, Any], request: Inner) -> None:
    tools = []
    for tool in rest.pop("tools", None) or ():
        if tool.get("type") == "function":
            names = ("name", "description", "parameters", "strict")
            function = {name: tool[name] for name in names if tool.get(name) is not None}
            tools.append({"type": "function", "function": function})
        elif tool.get("type") == "custom":
            custom = {name: value for name, value in tool.items() if name != "type"}
            tools.append({"type": "custom", "custom": custom})
        else:
            tools.append(dict(tool))
    if tools:
        request["tools"] = tools
    choice = rest.pop("tool_choice", None)
    if isinstance(choice, Mapping):
        match choice.get("type"):
            case "function" | "custom":
                choice = _named(choice)
            case "allowed_tools":
                allowed = [
                    _named(tool)
                    for tool in choice.get("tools") or ()
                    if tool.get("type") in {"function", "custom"}
                ]
                chosen = {"mode": choice.get("mode") or "auto", "tools": allowed}
                choice = {"type": "allowed_tools", "allowed_tools": chosen}
            case _:
                choice = dict(choice)
    if choice is not None:
        request["tool_choice"] = choice


def _named(tool: Mapping[str, Any]) -> dict[str, Any]:
    rest = {"namespace": tool["namespace"]} if tool.get("namespace") else {}
    return {"type": tool["type"], tool["type"]: {"name": tool["name"]}, **rest}
