"""A provider of each format that can be told what to do: it says `wire.TEXT`, calls a tool if it
was given one whose result it has not seen, and writes JSON if it was given a schema.

The shapes are those of recorded answers: ids, usage, empty first fragments and paddings included.
A model with `refused` in its name is refused with 429 in the format's own words; one with
`breaks` begins a stream that ends too early.
"""

from __future__ import annotations

import json
from typing import Any

from asgi_llmgate.core.eventstream import encode_message
from tests import wire
from tests.provider import SSE, Answer, Asked

CITY = {"city": "Paris"}
PLACE = {"city": "Paris", "degrees": 21}
TOOL = "get_weather"
RETRY_AFTER_S = 7
EVENTSTREAM = {"Content-Type": "application/vnd.amazon.eventstream"}

FORMATS = {
    "openai-chat": "/v1",
    "openai-responses": "/v1",
    "anthropic-messages": "/v1",
    "gemini": "/v1beta",
    "bedrock-converse": "",
    "cohere-v2": "/v2",
}
"""Formats to the path of their base URL."""

PROVIDERS = {
    "openai-chat": "chatty",
    "openai-responses": "responsive",
    "anthropic-messages": "claudish",
    "gemini": "geminish",
    "bedrock-converse": "rocky",
    "cohere-v2": "coherent",
}
"""Formats to the id of a provider that speaks nothing else."""

MODELS = {
    "openai-chat": "gpt-4o",
    "openai-responses": "gpt-4o",
    "anthropic-messages": "claude-sonnet-4-6",
    "gemini": "gemini-2.5-flash",
    "bedrock-converse": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "cohere-v2": "command-a-03-2025",
}


def settings(url: str) -> dict[str, str]:
    """Return the settings that make a provider of each format out of the one at `url`."""
    found = {}
    for wire_format, path in FORMATS.items():
        name = f"LLMGATE_PROVIDERS__{PROVIDERS[wire_format].upper()}"
        formats = {wire_format: url + path}
        if wire_format == "cohere-v2":
            formats["openai-rerank"] = url + path
        found[f"{name}__FORMATS"] = json.dumps(formats)
        found[f"{name}__STREAM_USAGE"] = "true"
    return found


def speak(asked: Asked) -> Answer:
    """Answer one request in the format of its path."""
    path = asked.target.partition("?")[0]
    request = asked.json()
    for end, answer in _ENDS.items():
        if path.endswith(end):
            return answer(request, path)
    return Answer([wire.dumps({"message": f"nobody speaks {path}"})], status=404)


def _events(events: list[bytes], model: str) -> Answer:
    if "breaks" in model:
        events = events[: len(events) // 2]
    return Answer(events, headers=SSE)


def _input_for(tools: Any) -> dict[str, Any]:
    """Return what a model would call the tool with; one may stand for a schema of places."""
    return PLACE if "degrees" in json.dumps(tools) else CITY


def _refused(body: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    given = {"Content-Type": "application/json", "Retry-After": str(RETRY_AFTER_S)}
    return Answer([wire.dumps(body)], 429, given | (headers or {}))


# -- OpenAI chat


def chat(request: dict[str, Any], path: str) -> Answer:
    model = request["model"]
    if "refused" in model:
        error = {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}
        return _refused({"error": {**error, "param": None}})
    wants_json = (request.get("response_format") or {}).get("type") == "json_schema"
    is_answered = request["messages"][-1]["role"] == "tool"
    if request.get("tools") and not is_answered:
        return _chat_tool(request, model)
    if wants_json:
        words = [json.dumps(PLACE)]
        if request.get("stream"):
            return _events(wire.chat_events(model, words=words, usage=True), model)
        body = wire.loads(wire.chat_body(model))
        body["choices"][0]["message"]["content"] = words[0]
        return Answer([wire.dumps(body)])
    if request.get("stream"):
        return _events(wire.chat_events(model, usage=True), model)
    return Answer([wire.chat_body(model)])


def _chat_tool(request: dict[str, Any], model: str) -> Answer:
    name = request["tools"][0]["function"]["name"]
    call = {"id": "call_abc", "type": "function"}
    arguments = json.dumps(_input_for(request["tools"]))
    if not request.get("stream"):
        body = wire.loads(wire.chat_body(model))
        function = {"name": name, "arguments": arguments}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**call, "function": function}],
        }
        body["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
        return Answer([wire.dumps(body)])
    head, *_, end, usage, done = wire.chat_events(model, usage=True)
    chunk = wire.loads(head.removeprefix(b"data: "))

    def delta(tool_call: dict[str, Any]) -> bytes:
        choice = {"index": 0, "delta": {"tool_calls": [tool_call]}, "finish_reason": None}
        return wire.data_event({**chunk, "choices": [choice]})

    first = {"index": 0, **call, "function": {"name": name, "arguments": ""}}
    pieces = [
        delta({"index": 0, "function": {"arguments": a}}) for a in (arguments[:5], arguments[5:])
    ]
    end = end.replace(b'"stop"', b'"tool_calls"')
    return _events([head, delta(first), *pieces, end, usage, done], model)


# -- OpenAI Responses


def responses(request: dict[str, Any], path: str) -> Answer:
    model = request["model"]
    if "refused" in model:
        error = {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}
        return _refused({"error": {**error, "param": None}})
    given = request["input"]
    is_answered = isinstance(given, list) and given[-1].get("type") == "function_call_output"
    if request.get("tools") and not is_answered:
        return _responses_tool(request, model)
    wants_json = ((request.get("text") or {}).get("format") or {}).get("type") == "json_schema"
    text = json.dumps(PLACE) if wants_json else wire.TEXT
    if request.get("stream"):
        events = wire.response_events(model)
        if wants_json:
            events = [_replaced(event, text) for event in events if b'"delta":"two' not in event]
            events = [event for event in events if b'"delta":"three' not in event]
        return _events(events, model)
    body = wire.response_object(model)
    body["output"][0]["content"][0]["text"] = text
    return Answer([wire.dumps(body)])


def _replaced(event: bytes, text: str) -> bytes:
    quoted = json.dumps(text).encode()
    event = event.replace(b'"delta":"One "', b'"delta":' + quoted)
    return event.replace(json.dumps(wire.TEXT).encode(), quoted)


def _responses_tool(request: dict[str, Any], model: str) -> Answer:
    name, arguments = request["tools"][0]["name"], json.dumps(_input_for(request["tools"]))
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_abc", "name": name}
    item |= {"arguments": arguments, "status": "completed"}
    whole = wire.response_object(model) | {"output": [item]}
    if not request.get("stream"):
        return Answer([wire.dumps(whole)])
    place = {"output_index": 0, "item_id": "fc_1"}
    begun = item | {"arguments": "", "status": "in_progress"}
    kind = "response.function_call_arguments"
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": wire.response_object(model, done=False)},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": f"{kind}.delta", **place, "delta": arguments[:5]},
        {"type": f"{kind}.delta", **place, "delta": arguments[5:]},
        {"type": f"{kind}.done", **place, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    numbered = [event | {"sequence_number": number} for number, event in enumerate(events)]
    return _events([wire.named_event(event) for event in numbered], model)


# -- Anthropic messages


def messages(request: dict[str, Any], path: str) -> Answer:
    model = request["model"]
    if "refused" in model:
        error = {"type": "rate_limit_error", "message": "Slow down."}
        return _refused({"type": "error", "error": error, "request_id": "req_1"})
    content = request["messages"][-1]["content"]
    is_answered = isinstance(content, list) and content[0]["type"] == "tool_result"
    wants_json = "format" in (request.get("output_config") or {})
    if request.get("tools") and not is_answered:
        name = request["tools"][0]["name"]
        made = _input_for(request["tools"])
        block = {"type": "tool_use", "id": "toolu_abc", "name": name, "input": made}
        return _message(model, block, "tool_use", stream=bool(request.get("stream")))
    text = json.dumps(PLACE) if wants_json else wire.TEXT
    block = {"type": "text", "text": text}
    if request.get("stream") and not wants_json:
        return _events(wire.message_events(model), model)
    return _message(model, block, "end_turn", stream=bool(request.get("stream")))


def _message(model: str, block: dict[str, Any], reason: str, *, stream: bool) -> Answer:
    message = wire.loads(wire.message_body(model))
    if not stream:
        return Answer([wire.dumps(message | {"content": [block], "stop_reason": reason})])
    usage = {"input_tokens": wire.INPUT_TOKENS, "output_tokens": 1}
    begun = message | {"content": [], "stop_reason": None, "usage": usage}
    if block["type"] == "text":
        empty: dict[str, Any] = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": block["text"]}]
    else:
        empty = block | {"input": {}}
        written = json.dumps(block["input"])
        pieces = ("", written[:5], written[5:])
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": {"output_tokens": wire.OUTPUT_TOKENS},
        },
        {"type": "message_stop"},
    ]
    return _events([wire.named_event(event) for event in events], model)


# -- Gemini


def gemini(request: dict[str, Any], path: str) -> Answer:
    model = path.rpartition("/")[2].partition(":")[0]
    is_stream = path.endswith(":streamGenerateContent")
    if "refused" in model:
        delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
        error = {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}
        body = {"error": {**error, "details": [delay]}}
        return Answer([wire.dumps(body)], 429)
    is_answered = any("functionResponse" in part for part in request["contents"][-1]["parts"])
    declared = [d for tool in request.get("tools") or () for d in tool["functionDeclarations"]]
    if declared and not is_answered:
        chunk = wire.gemini_chunk(model, "", last=True)
        call = {"functionCall": {"name": declared[0]["name"], "args": _input_for(declared)}}
        chunk["candidates"][0]["content"]["parts"] = [call]
        if is_stream:
            return _events([b"data: " + wire.dumps(chunk) + b"\r\n\r\n"], model)
        return Answer([wire.dumps(chunk)])
    if "responseJsonSchema" in (request.get("generationConfig") or {}):
        chunk = wire.gemini_chunk(model, json.dumps(PLACE), last=True)
        if is_stream:
            return _events([b"data: " + wire.dumps(chunk) + b"\r\n\r\n"], model)
        return Answer([wire.dumps(chunk)])
    if is_stream:
        return _events(wire.gemini_events(model), model)
    return Answer([wire.gemini_body(model)])


# -- Bedrock Converse


def converse(request: dict[str, Any], path: str) -> Answer:
    model = path.split("/")[-2]
    is_stream = path.endswith("-stream")
    if "refused" in model:
        return _refused({"message": "Slow down."}, {"x-amzn-ErrorType": "ThrottlingException"})
    is_answered = any("toolResult" in part for part in request["messages"][-1]["content"])
    tools = (request.get("toolConfig") or {}).get("tools") or []
    wants_json = "textFormat" in (request.get("outputConfig") or {})
    block: dict[str, Any] = {"text": json.dumps(PLACE) if wants_json else wire.TEXT}
    reason = "end_turn"
    if tools and not is_answered:
        forced = ((request["toolConfig"].get("toolChoice") or {}).get("tool") or {}).get("name")
        name = forced or tools[0]["toolSpec"]["name"]
        made = _input_for(tools)
        block = {"toolUse": {"toolUseId": "tooluse_abc", "name": name, "input": made}}
        reason = "tool_use"
    total = wire.INPUT_TOKENS + wire.OUTPUT_TOKENS
    usage = {"inputTokens": wire.INPUT_TOKENS, "outputTokens": wire.OUTPUT_TOKENS}
    usage["totalTokens"] = total
    if not is_stream:
        message = {"role": "assistant", "content": [block]}
        body = {"output": {"message": message}, "stopReason": reason, "usage": usage}
        return Answer([wire.dumps(body | {"metrics": {"latencyMs": 12}})])
    events: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    if "toolUse" in block:
        made = block["toolUse"]
        start = {"toolUse": {"toolUseId": made["toolUseId"], "name": made["name"]}}
        events.append(("contentBlockStart", {"contentBlockIndex": 0, "start": start}))
        written = json.dumps(made["input"])
        deltas: list[dict[str, Any]] = [
            {"toolUse": {"input": piece}} for piece in (written[:5], written[5:])
        ]
    else:
        words = [block["text"]] if wants_json else wire.WORDS
        deltas = [{"text": word} for word in words]
    events += [("contentBlockDelta", {"contentBlockIndex": 0, "delta": d}) for d in deltas]
    events.append(("contentBlockStop", {"contentBlockIndex": 0}))
    events.append(("messageStop", {"stopReason": reason}))
    events.append(("metadata", {"usage": usage, "metrics": {"latencyMs": 12}}))
    frames = [
        encode_message(
            {":message-type": "event", ":event-type": name, ":content-type": "application/json"},
            wire.dumps(payload | {"p": "abcdefgh"}),
        )
        for name, payload in events
    ]
    answer = _events(frames, model)
    return Answer(answer.parts, headers=EVENTSTREAM)


# -- Cohere v2


def cohere(request: dict[str, Any], path: str) -> Answer:
    model = request["model"]
    if "refused" in model:
        return _refused({"id": "c1", "message": "Slow down."})
    tokens = {"input_tokens": wire.INPUT_TOKENS, "output_tokens": wire.OUTPUT_TOKENS}
    usage = {"billed_units": tokens, "tokens": tokens}
    is_answered = request["messages"][-1]["role"] == "tool"
    calls: list[dict[str, Any]] = []
    text = wire.TEXT
    if request.get("tools") and not is_answered:
        function = {
            "name": request["tools"][0]["function"]["name"],
            "arguments": json.dumps(_input_for(request["tools"])),
        }
        calls = [{"id": f"{TOOL}_k5pr4trwbbfd", "type": "function", "function": function}]
    elif "response_format" in request:
        text = json.dumps(PLACE)
    reason = "TOOL_CALL" if calls else "COMPLETE"
    if not request.get("stream"):
        message: dict[str, Any] = {"role": "assistant"}
        message |= {"tool_calls": calls} if calls else {"content": [{"type": "text", "text": text}]}
        body = {"id": "c1", "finish_reason": reason, "message": message, "usage": usage}
        return Answer([wire.dumps(body)])
    events: list[dict[str, Any]] = [
        {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}}
    ]
    if calls:
        [call] = calls
        function = call["function"]
        begun = {**call, "function": {**function, "arguments": ""}}
        events.append(_cohere_event("tool-call-start", {"tool_calls": begun}))
        events += [
            _cohere_event("tool-call-delta", {"tool_calls": {"function": {"arguments": piece}}})
            for piece in (function["arguments"][:5], function["arguments"][5:])
        ]
        events.append({"type": "tool-call-end", "index": 0})
    else:
        events.append(_cohere_event("content-start", {"content": {"type": "text", "text": ""}}))
        words = wire.WORDS if text == wire.TEXT else [text]
        events += [_cohere_event("content-delta", {"content": {"text": word}}) for word in words]
        events.append({"type": "content-end", "index": 0})
    events.append({"type": "message-end", "delta": {"finish_reason": reason, "usage": usage}})
    named = [wire.named_event(event) for event in events]
    return _events([*named, b"data: [DONE]\n\n"], model)


def _cohere_event(kind: str, message: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "index": 0, "delta": {"message": message}}


# -- Embeddings

VECTOR = [0.25, -0.5, 0.125]


def cohere_embed(request: dict[str, Any], path: str) -> Answer:
    vectors = [VECTOR for _ in request["texts"]]
    meta = {"billed_units": {"input_tokens": wire.INPUT_TOKENS}}
    return Answer([wire.dumps({"id": "e1", "embeddings": {"float": vectors}, "meta": meta})])


def gemini_embed(request: dict[str, Any], path: str) -> Answer:
    return Answer([wire.dumps({"embeddings": [{"values": VECTOR} for _ in request["requests"]]})])


def openai_embed(request: dict[str, Any], path: str) -> Answer:
    rows = [
        {"object": "embedding", "index": number, "embedding": VECTOR}
        for number, _ in enumerate(request["input"])
    ]
    usage = {"prompt_tokens": wire.INPUT_TOKENS, "total_tokens": wire.INPUT_TOKENS}
    body = {"object": "list", "model": request["model"], "data": rows, "usage": usage}
    return Answer([wire.dumps(body)])


def titan_embed(request: dict[str, Any], path: str) -> Answer:
    body = {"embedding": VECTOR, "inputTextTokenCount": wire.INPUT_TOKENS}
    assert isinstance(request["inputText"], str)
    return Answer([wire.dumps(body)])


_ENDS = {
    "/chat/completions": chat,
    "/responses": responses,
    "/messages": messages,
    ":generateContent": gemini,
    ":streamGenerateContent": gemini,
    ":batchEmbedContents": gemini_embed,
    "/converse": converse,
    "/converse-stream": converse,
    "/v2/chat": cohere,
    "/embed": cohere_embed,
    "/embeddings": openai_embed,
    "/invoke": titan_embed,
}
