"""Short, complete answers in the providers' formats, as one body or as the events of a stream.

All say `TEXT` and report `INPUT_TOKENS` and `OUTPUT_TOKENS`, so that a test can tell exactly what a
record must say, whatever the format.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable
from typing import Any

WORDS = ("One ", "two ", "three.")
TEXT = "".join(WORDS)
INPUT_TOKENS = 1_000
OUTPUT_TOKENS = 200


def loads(data: bytes) -> Any:
    return json.loads(data)


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def data_event(value: Any) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


def named_event(value: dict[str, Any]) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + data_event(value)


def answer_to(path: str, request: dict[str, Any]) -> bytes | list[bytes]:
    """Return the answer of a provider: one body, or a list of events if a stream was asked for."""
    model = request.get("model", "gpt-4o")
    is_stream = bool(request.get("stream"))
    if path.endswith("/chat/completions"):
        wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        return chat_events(model, usage=wants_usage) if is_stream else chat_body(model)
    if path.endswith("/messages/count_tokens"):
        return dumps({"input_tokens": INPUT_TOKENS})
    if path.endswith("/messages"):
        return message_events(model) if is_stream else message_body(model)
    if path.endswith("/responses"):
        return response_events(model) if is_stream else response_body(model)
    if path.endswith("/embeddings"):
        return embeddings_body(model, base64_floats=request.get("encoding_format") == "base64")
    if path.endswith(":generateContent"):
        return gemini_body(path.rpartition("/")[2].partition(":")[0])
    if path.endswith(":streamGenerateContent"):
        return gemini_events(path.rpartition("/")[2].partition(":")[0])
    if path.endswith(":batchEmbedContents"):
        return dumps({"embeddings": [{"values": [0.25, -0.5]} for _ in request["requests"]]})
    if path.endswith("/models"):
        return dumps({"object": "list", "data": [{"id": "gpt-4o", "object": "model"}]})
    return dumps({"path": path})


def chat_usage() -> dict[str, Any]:
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }


def chat_body(model: str) -> bytes:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return dumps(
        {
            "id": "chatcmpl-test",
            "object": "chat.completion",
            "created": 1_780_000_000,
            "model": model,
            "choices": [choice],
            "usage": chat_usage(),
        }
    )


def chat_events(model: str, *, words: Iterable[str] = WORDS, usage: bool = False) -> list[bytes]:
    def chunk(choices: list[dict[str, Any]], usage_now: dict[str, Any] | None = None) -> bytes:
        value: dict[str, Any] = {
            "id": "chatcmpl-test",
            "object": "chat.completion.chunk",
            "created": 1_780_000_000,
            "model": model,
            "choices": choices,
        }
        if usage:
            value["usage"] = usage_now
        return data_event(value)

    def choice(delta: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    return [
        chunk(choice({"role": "assistant", "content": ""})),
        *(chunk(choice({"content": word})) for word in words),
        chunk(choice({}, "stop")),
        *([chunk([], chat_usage())] if usage else []),
        b"data: [DONE]\n\n",
    ]


def message_body(model: str) -> bytes:
    return dumps(
        {
            "id": "msg_test",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": TEXT}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
        }
    )


def message_events(model: str) -> list[bytes]:
    message = loads(message_body(model))
    message |= {"content": [], "stop_reason": None}
    message["usage"] = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
    block = {"type": "text", "text": ""}
    return [
        named_event({"type": "message_start", "message": message}),
        named_event({"type": "content_block_start", "index": 0, "content_block": block}),
        named_event({"type": "ping"}),
        *(
            named_event(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": word},
                }
            )
            for word in WORDS
        ),
        named_event({"type": "content_block_stop", "index": 0}),
        named_event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": OUTPUT_TOKENS},
            }
        ),
        named_event({"type": "message_stop"}),
    ]


def response_object(model: str, *, done: bool = True) -> dict[str, Any]:
    content = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {
        "id": "msg_test",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }
    usage = {
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    return {
        "id": "resp_test",
        "object": "response",
        "created_at": 1_780_000_000,
        "status": "completed" if done else "in_progress",
        "model": model,
        "output": [item] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def response_body(model: str) -> bytes:
    return dumps(response_object(model))


def response_events(model: str) -> list[bytes]:
    whole = response_object(model)
    item = whole["output"][0]
    part = item["content"][0]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response_object(model, done=False)},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": item | {"status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": part | {"text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": word} for word in WORDS),
        {"type": "response.output_text.done", **place, "text": TEXT},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return [named_event(event | {"sequence_number": number}) for number, event in enumerate(events)]


def embeddings_body(model: str, *, base64_floats: bool) -> bytes:
    vector = [0.25, -0.5, 0.125]
    packed = base64.b64encode(struct.pack("<3f", *vector)).decode()
    embedding = packed if base64_floats else vector
    usage = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
    item = {"object": "embedding", "index": 0, "embedding": embedding}
    return dumps({"object": "list", "model": model, "data": [item], "usage": usage})


def gemini_chunk(model: str, text: str, *, last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": [{"text": text}]},
        "index": 0,
    }
    if last:
        candidate["finishReason"] = "STOP"
    output_tokens = OUTPUT_TOKENS if last else 1
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": INPUT_TOKENS,
            "candidatesTokenCount": output_tokens,
            "totalTokenCount": INPUT_TOKENS + output_tokens,
        },
        "modelVersion": model,
        "responseId": "gemini-test",
    }


def gemini_body(model: str) -> bytes:
    return dumps(gemini_chunk(model, TEXT, last=True))


def gemini_events(model: str) -> list[bytes]:
    chunks = [gemini_chunk(model, word, last=word == WORDS[-1]) for word in WORDS]
    return [b"data: " + dumps(chunk) + b"\r\n\r\n" for chunk in chunks]
