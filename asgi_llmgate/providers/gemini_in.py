"""Gemini generateContent as a caller's dialect: requests in, responses and errors out.

Source: google-genai SDK 3.4 (types), ai.google.dev. The model and whether to stream are in the
path. Both spellings of fields are read (`functionCall`, `function_call`): the API takes either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import data_url, leading_choice
from asgi_llmgate.providers.gemini_encoder import (
    GeminiArrayEncoder,
    GeminiStreamEncoder,
    candidate,
    open_signature,
    usage_metadata,
)
from asgi_llmgate.providers.inner import Call, Inner, refuse
from asgi_llmgate.providers.provider_errors import ProviderError, gemini_error

__all__ = ["GeminiIn"]

_RENAMED = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "candidateCount": "n",
    "maxOutputTokens": "max_completion_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}
_EXTENSIONS = {"mp3": "mp3", "mpeg": "mp3", "wav": "wav", "x-wav": "wav"}


class GeminiIn:
    """Callers that speak Gemini."""

    def decode_request(
        self, body: Mapping[str, Any], *, model: str | None = None, stream: bool | None = None
    ) -> Inner:
        rest = _camel(body)
        request: Inner = {"model": model or "", "messages": _messages(rest)}
        if stream:
            request["stream"] = True
        config = rest.pop("generationConfig", None) or {}
        _config(config, request)
        tools = rest.pop("tools", None)
        if tools:
            # Google's JSON reader takes one message where a list is meant.
            tools = [tools] if isinstance(tools, Mapping) else tools
            request["tools"] = [made for tool in tools for made in _tools(tool)]
        calling = _camel(rest.pop("toolConfig", None) or {}).get("functionCallingConfig")
        if calling:
            request["tool_choice"] = _tool_choice(calling)
        labels = rest.pop("labels", None)
        if labels:
            request["metadata"] = labels
        tier = rest.pop("serviceTier", None)
        if tier and tier != "standard":
            request["service_tier"] = tier
        rest.pop("model", None)
        return request | rest

    def encode_response(self, response: Inner, call: Call) -> dict[str, Any]:
        candidates = [
            candidate(choice, number, call)
            for number, choice in enumerate(response.get("choices") or [leading_choice({})])
        ]
        return {
            "candidates": candidates,
            "usageMetadata": usage_metadata(response.get("usage")),
            "modelVersion": response.get("model") or call.model,
            "responseId": response.get("id") or call.id,
        }

    def stream_encoder(self, call: Call) -> GeminiStreamEncoder:
        return GeminiArrayEncoder(call) if call.as_array else GeminiStreamEncoder(call)

    def encode_error(self, error: ProviderError, call_id: str) -> dict[str, Any]:
        return gemini_error(error)


def _camel(value: Mapping[str, Any]) -> dict[str, Any]:
    return {_camel_name(name): inner for name, inner in value.items()}


def _camel_name(name: str) -> str:
    return re.sub(r"_([a-z])", lambda m: m[1].upper(), name) if "_" in name else name


def _messages(rest: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    instruction = rest.pop("systemInstruction", None)
    if instruction:
        texts = [p["text"] for p in _content_parts(instruction) if p.get("text")]
        apart = [{"type": "text", "text": text} for text in texts]
        messages.append({"role": "system", "content": "".join(texts) if len(texts) < 2 else apart})
    open_calls: list[tuple[str, str]] = []
    contents = rest.pop("contents", None) or []
    if isinstance(contents, Mapping):
        contents = [contents]
    for index, content in enumerate(contents):
        where = f"contents[{index}].parts"
        parts = _content_parts(content)
        if _camel(content).get("role") == "model":
            message = _model_turn(parts, index, where)
            open_calls += [
                (call["function"]["name"], call["id"]) for call in message.get("tool_calls", ())
            ]
            messages.append(message)
        else:
            messages += _user_turn(parts, where, open_calls)
    return messages


def _content_parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}]
    parts = content.get("parts") or []
    if isinstance(parts, Mapping):
        parts = [parts]
    return [_camel(part) for part in parts]


def _model_turn(parts: list[dict[str, Any]], index: int, where: str) -> dict[str, Any]:
    texts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    blocks: list[dict[str, Any]] = []
    for position, part in enumerate(parts):
        native, sealed = open_signature(part.get("thoughtSignature"))
        blocks += sealed
        if "functionCall" in part:
            wanted = part["functionCall"]
            call: dict[str, Any] = {
                "id": wanted.get("id") or f"call_{index}_{position}",
                "type": "function",
                "function": {
                    "name": wanted["name"],
                    "arguments": dumps(wanted.get("args") or {}).decode(),
                },
            }
            if native:
                call["extra_content"] = {"google": {"thought_signature": native}}
            calls.append(call)
            continue
        if part.get("thought"):
            thoughts.append(part.get("text") or "")
            if native:
                blocks.append(_gemini_block(part.get("text") or "", native))
            continue
        if native:
            blocks.append(_gemini_block("", native))
        texts += _part(part, f"{where}[{position}]")
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if all(text["type"] == "text" for text in texts):
        message["content"] = "".join(text["text"] for text in texts) or None
    else:
        message["content"] = texts
    if calls:
        message["tool_calls"] = calls
    text = "".join(thoughts) or "".join(block.get("thinking") or "" for block in blocks)
    if text:
        message["reasoning_content"] = text
    if blocks:
        message["thinking_blocks"] = blocks
    return message


def _gemini_block(text: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signature, "origin": "gemini"}


def _user_turn(
    parts: list[dict[str, Any]], where: str, open_calls: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for position, part in enumerate(parts):
        if "functionResponse" in part:
            results.append(_result(part["functionResponse"], open_calls, f"{where}[{position}]"))
        else:
            kept += _part(part, f"{where}[{position}]")
    if kept or not results:
        plain = len(kept) == 1 and kept[0]["type"] == "text"
        results.append({"role": "user", "content": kept[0]["text"] if plain else kept})
    return results


def _result(
    given: Mapping[str, Any], open_calls: list[tuple[str, str]], where: str
) -> dict[str, Any]:
    name, identifier = given.get("name"), given.get("id")
    # Without an id a result answers the oldest open call of its name.
    found = next(
        (call for call in open_calls if call[1] == identifier),
        next((call for call in open_calls if identifier is None and call[0] == name), None),
    )
    if found is not None:
        open_calls.remove(found)
    response = given.get("response")
    content: Any = dumps(response).decode()
    is_error = False
    if isinstance(response, Mapping) and len(response) == 1:
        # `{"result": text}` and `{"output": text}` are how SDKs wrap what a function returned.
        key, value = next(iter(response.items()))
        if key in {"result", "output", "error"}:
            content = value if isinstance(value, str) else dumps(value).decode()
            is_error = key == "error"
    extra = [made for part in given.get("parts") or () for made in _part(_camel(part), where)]
    if extra:
        content = [{"type": "text", "text": content}, *extra]
    message = {
        "role": "tool",
        "tool_call_id": found[1] if found else identifier or str(name),
        "content": content,
    }
    return message | ({"is_error": True} if is_error else {})


def _part(part: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    if "text" in part:
        return [{"type": "text", "text": part["text"]}] if part["text"] else []
    if "inlineData" in part:
        blob = _camel(part["inlineData"])
        mime, payload = blob.get("mimeType", ""), _standard(blob["data"])
        if mime.startswith("image/"):
            return [{"type": "image_url", "image_url": {"url": data_url(mime, payload)}}]
        if mime.startswith("audio/"):
            kind = mime.partition("/")[2]
            audio = {"data": payload, "format": _EXTENSIONS.get(kind, kind)}
            return [{"type": "input_audio", "input_audio": audio}]
        name = blob.get("displayName") or f"file.{mime.rpartition('/')[2]}"
        file = {"file_data": data_url(mime, payload), "filename": name}
        return [{"type": "file", "file": file}]
    if "fileData" in part:
        data = _camel(part["fileData"])
        uri, mime = data["fileUri"], data.get("mimeType") or ""
        if "generativelanguage.googleapis.com" in uri or uri.startswith("gs://"):
            raise refuse(where, "the file is stored at Google; send the data itself")
        if mime.startswith("image/"):
            return [{"type": "image_url", "image_url": {"url": uri}}]
        return [{"type": "file", "file": {"file_url": uri}}]
    if not part.keys() - {"thoughtSignature", "thought", "videoMetadata", "partMetadata"}:
        return []
    kind = next(iter(part))
    if kind in {"executableCode", "codeExecutionResult", "toolCall", "toolResponse"}:
        return []  # Steps of tools that ran at Google; their outcome is in the text.
    raise refuse(where, f"`{kind}` content is known to Gemini only")


def _standard(data: str) -> str:
    """Return base64 in the standard alphabet; Google's SDK writes the URL-safe one."""
    return data.replace("-", "+").replace("_", "/")


def _config(config: Mapping[str, Any], request: Inner) -> None:
    given = _camel(config)
    for theirs, ours in _RENAMED.items():
        if given.get(theirs) is not None:
            request[ours] = given[theirs]
        given.pop(theirs, None)
    thinking = _camel(given.pop("thinkingConfig", None) or {})
    request["include_thoughts"] = bool(thinking.get("includeThoughts"))
    level, budget = thinking.get("thinkingLevel"), thinking.get("thinkingBudget")
    if level and level != "THINKING_LEVEL_UNSPECIFIED":
        request["reasoning_effort"] = str(level).lower()
    elif budget == 0:
        request["reasoning_effort"] = "none"
    elif isinstance(budget, int) and budget > 0:
        request["thinking"] = {"type": "enabled", "budget_tokens": budget}
    elif budget == -1:
        request["thinking"] = {"type": "adaptive"}
    mime = given.pop("responseMimeType", None)
    json_schema = given.pop("responseJsonSchema", None)
    schema = given.pop("responseSchema", None)
    wanted = json_schema or (json_schema_of(schema) if schema else None)
    if wanted:
        named = {"name": "answer", "schema": wanted}
        request["response_format"] = {"type": "json_schema", "json_schema": named}
        if mime == "text/x.enum":  # It comes as JSON: in quotes.
            request["generationConfig.responseMimeType"] = mime
    elif mime == "application/json":
        request["response_format"] = {"type": "json_object"}
    elif mime and mime != "text/plain":
        request["generationConfig.responseMimeType"] = mime
    if given.get("responseModalities") in (["TEXT"], ["Text"], ["text"]):
        del given["responseModalities"]
    request |= {f"generationConfig.{name}": value for name, value in given.items()}


def _tools(tool: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = _camel(tool)
    made: list[dict[str, Any]] = []
    for declaration in given.pop("functionDeclarations", None) or ():
        declared = _camel(declaration)
        schema = declared.get("parametersJsonSchema")
        if schema is None:
            schema = json_schema_of(declared.get("parameters") or {"type": "OBJECT"})
        function = {"name": declared["name"], "parameters": schema}
        if declared.get("description"):
            function["description"] = declared["description"]
        made.append({"type": "function", "function": function})
    return made + [{"type": kind, kind: value} for kind, value in given.items()]


def json_schema_of(schema: Any) -> Any:
    """Return Gemini's OpenAPI subset as JSON schema: lower-case types, `nullable` as a union."""
    if isinstance(schema, list):
        return [json_schema_of(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for raw, value in schema.items():
        name = _camel_name(raw)
        if name == "type":
            made["type"] = str(value).lower()
        elif name == "properties":
            made[name] = {key: json_schema_of(inner) for key, inner in value.items()}
        elif name in {"items", "anyOf", "prefixItems"}:
            made[name] = json_schema_of(value)
        elif name in {"minItems", "maxItems", "minLength", "maxLength"}:
            made[name] = int(value)  # Google writes 64-bit integers as strings.
        elif name == "format" and value in _OPENAPI_FORMATS:
            pass  # Widths of numbers, and `enum`: no JSON schema has them.
        elif name not in {"nullable", "propertyOrdering", "example"}:
            made[name] = value
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


_OPENAPI_FORMATS = frozenset({"enum", "int32", "int64", "float", "double"})


def _tool_choice(config: Mapping[str, Any]) -> Any:
    given = _camel(config)
    mode = str(given.get("mode") or "AUTO").upper()
    allowed = given.get("allowedFunctionNames") or []
    if mode == "NONE":
        return "none"
    if mode == "ANY" and len(allowed) == 1:
        return {"type": "function", "function": {"name": allowed[0]}}
    if allowed:
        tools = [{"type": "function", "function": {"name": name}} for name in allowed]
        named = "required" if mode == "ANY" else "auto"
        return {"type": "allowed_tools", "allowed_tools": {"mode": named, "tools": tools}}
    return "required" if mode == "ANY" else "auto"
