"""What the official SDKs make of our answers, and the turn a caller would send back.

`whole` and `stream` parse an answer with the SDK's own types and accumulators, failing where the
SDK would, and return the request body whose last turn is that answer: decoded again it must mean
what the provider said.
"""

from __future__ import annotations

import json
from typing import Any

import anthropic.types
import openai.types.chat
import openai.types.responses
from anthropic.lib.streaming._messages import accumulate_event
from google.genai import types as google_types
from openai.lib.streaming.chat import ChatCompletionStreamState
from pydantic import TypeAdapter

from asgi_llmgate.core.sse import EventDecoder

ANTHROPIC_EVENTS: TypeAdapter[Any] = TypeAdapter(anthropic.types.RawMessageStreamEvent)
RESPONSE_EVENTS: TypeAdapter[Any] = TypeAdapter(openai.types.responses.ResponseStreamEvent)
HI = {"role": "user", "content": "Hi"}


def payloads(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    decoder = EventDecoder()
    events = decoder.feed(raw) + decoder.close()
    return [(e.name, json.loads(e.data)) for e in events if not e.data.startswith("[DONE]")]


def whole(dialect: str, answer: dict[str, Any]) -> dict[str, Any]:
    answer = json.loads(json.dumps(answer))
    match dialect:
        case "openai-chat":
            openai.types.chat.ChatCompletion.model_validate(answer)
            return {"messages": [HI, answer["choices"][0]["message"]]}
        case "openai-responses":
            openai.types.responses.Response.model_validate(answer)
            return {"input": [HI, *answer["output"]]}
        case "anthropic-messages":
            anthropic.types.Message.model_validate(answer)
            return {"messages": [HI, {"role": "assistant", "content": answer["content"]}]}
        case "gemini":
            google_types.GenerateContentResponse.model_validate(answer)
            return {"contents": [answer["candidates"][0]["content"]]}
    raise AssertionError(dialect)


def stream(dialect: str, raw: bytes) -> dict[str, Any]:
    match dialect:
        case "openai-chat":
            return {"messages": [HI, _chat(raw)]}
        case "openai-responses":
            return {"input": [HI, *_responses(raw)["output"]]}
        case "anthropic-messages":
            return {"messages": [HI, {"role": "assistant", "content": _anthropic(raw)}]}
        case "gemini":
            return {"contents": [{"role": "model", "parts": _gemini(raw)}]}
    raise AssertionError(dialect)


def _chat(raw: bytes) -> dict[str, Any]:
    assert raw.endswith(b"data: [DONE]\n\n")
    state = ChatCompletionStreamState()
    for _, payload in payloads(raw):
        state.handle_chunk(openai.types.chat.ChatCompletionChunk.model_validate(payload))
    message = state.get_final_completion().choices[0].message
    dumped = message.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in dumped.items() if name != "parsed"}


def _responses(raw: bytes) -> dict[str, Any]:
    last: dict[str, Any] = {}
    items: dict[int, dict[str, Any]] = {}
    for number, (name, payload) in enumerate(payloads(raw)):
        assert name == payload["type"]
        assert payload["sequence_number"] == number
        RESPONSE_EVENTS.validate_python(payload)
        if name == "response.output_item.added":
            assert payload["output_index"] not in items
            items[payload["output_index"]] = payload["item"]
        if name == "response.output_item.done":
            assert items[payload["output_index"]]["id"] == payload["item"]["id"]
            items[payload["output_index"]] = payload["item"]
        last = payload
    assert last["type"] in {"response.completed", "response.incomplete"}
    openai.types.responses.Response.model_validate(last["response"])
    assert last["response"]["output"] == [items[index] for index in sorted(items)]
    response: dict[str, Any] = last["response"]
    return response


def _anthropic(raw: bytes) -> list[dict[str, Any]]:
    snapshot: Any = None
    open_blocks: set[int] = set()
    json_bufs: dict[int, bytes] = {}
    for name, payload in payloads(raw):
        assert name == payload["type"]
        event = ANTHROPIC_EVENTS.validate_python(payload)
        if name == "content_block_start":
            open_blocks.add(payload["index"])
        if name == "content_block_stop":
            open_blocks.remove(payload["index"])
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=json_bufs)
    assert not open_blocks
    assert name == "message_stop"
    content = snapshot.model_dump(mode="json", exclude_none=True)["content"]
    return [{k: v for k, v in block.items() if not k.startswith("_")} for block in content]


def _gemini(raw: bytes) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    finished = False
    for _, payload in payloads(raw):
        google_types.GenerateContentResponse.model_validate(payload)
        candidate = payload["candidates"][0]
        parts += candidate["content"]["parts"]
        finished = bool(candidate.get("finishReason"))
    assert finished
    return parts
