"""A provider in this process, so that a person without any key can see a call go through.

It speaks chat completions, Anthropic messages and Gemini, streamed or not, and answers with
what it was asked. Its token counts are words, so that they can be checked by eye.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from asgi_llmgate.core.json import dumps, loads
from asgi_llmgate.protocols import RawHeaders, Upstream, UpstreamRequest, UpstreamResponse

__all__ = ["DEMO_BASE_URL", "DemoUpstream"]

DEMO_HOST = "demo.invalid"
DEMO_BASE_URL = f"https://{DEMO_HOST}/v1"

# Slow enough that one sees a stream arrive word by word.
WORD_PAUSE_S = 0.04


class DemoUpstream:
    """An `Upstream` that answers for `demo.invalid` itself and leaves the rest to `inner`."""

    def __init__(self, inner: Upstream) -> None:
        self._inner = inner

    async def open(self, request: UpstreamRequest, /) -> UpstreamResponse:
        url = urlsplit(request.url)
        if url.hostname != DEMO_HOST:
            return await self._inner.open(request)
        body = loads(request.body) if isinstance(request.body, bytes) and request.body else {}
        return answer(url.path, body)

    async def aclose(self) -> None:
        await self._inner.aclose()


class DemoResponse:
    def __init__(self, status: int, content_type: bytes, chunks: AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers: RawHeaders = [(b"content-type", content_type)]
        self._chunks = chunks

    async def read(self) -> bytes:
        return await anext(self._chunks, b"")

    async def aclose(self) -> None:
        pass


def answer(path: str, body: dict[str, Any]) -> DemoResponse:
    question = last_question(body)
    reply = f"This is the demo provider. You said: {question}" if question else "Say something."
    tokens = len(question.split()), len(reply.split())
    model = str(body.get("model", "echo"))
    if path.endswith("/chat/completions"):
        events, whole = chat(model, reply, tokens, wants_usage(body))
    elif path.endswith("/messages"):
        events, whole = messages(model, reply, tokens)
    elif "enerateContent" in path:
        events, whole = gemini(reply, tokens)
    else:
        error = {"error": {"message": "The demo provider has no such path.", "code": "not_found"}}
        return DemoResponse(404, b"application/json", once(dumps(error)))
    if body.get("stream") is True or path.endswith(":streamGenerateContent"):
        return DemoResponse(200, b"text/event-stream", paced(events))
    return DemoResponse(200, b"application/json", once(dumps(whole)))


def last_question(body: dict[str, Any]) -> str:
    """Return the text of the last turn, in any of the three dialects."""
    turns = body.get("messages") or body.get("contents")
    turn = turns[-1] if isinstance(turns, list) and isinstance(turns[-1], dict) else {}
    content: Any = turn.get("content", turn.get("parts"))
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text", "") for part in content if isinstance(part, dict)]
    return " ".join(part for part in parts if isinstance(part, str))


def wants_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def words(reply: str) -> list[str]:
    return [word + " " for word in reply.split(" ")[:-1]] + [reply.split(" ")[-1]]


def event(data: Any, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + dumps(data) + b"\n\n"


def chat(
    model: str, reply: str, tokens: tuple[int, int], usage_asked: bool
) -> tuple[list[bytes], Any]:
    head = {"id": "chatcmpl-demo", "created": 0, "model": model}
    usage = {
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "total_tokens": sum(tokens),
    }
    chunk = {**head, "object": "chat.completion.chunk"}

    def choice(delta: dict[str, Any], reason: str | None = None) -> bytes:
        return event({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    events = [choice({"role": "assistant", "content": ""})]
    events += [choice({"content": word}) for word in words(reply)]
    events.append(choice({}, "stop"))
    if usage_asked:
        events.append(event({**chunk, "choices": [], "usage": usage}))
    events.append(b"data: [DONE]\n\n")
    message = {"role": "assistant", "content": reply, "refusal": None}
    answered = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return events, {**head, "object": "chat.completion", "choices": [answered], "usage": usage}


def messages(model: str, reply: str, tokens: tuple[int, int]) -> tuple[list[bytes], Any]:
    usage = {"input_tokens": tokens[0], "output_tokens": tokens[1]}
    whole = {
        "id": "msg_demo",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": reply}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    start = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    block = {"type": "text", "text": ""}
    plan: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
            for word in words(reply)
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]
    return [event(item, item["type"]) for item in plan], whole


def gemini(reply: str, tokens: tuple[int, int]) -> tuple[list[bytes], Any]:
    usage = {
        "promptTokenCount": tokens[0],
        "candidatesTokenCount": tokens[1],
        "totalTokenCount": sum(tokens),
    }

    def candidate(text: str, reason: str | None) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": text}]}
        finish = {"finishReason": reason} if reason else {}
        return {
            "candidates": [{"content": content, "index": 0, **finish}],
            "usageMetadata": usage,
            "modelVersion": "echo",
        }

    parts = words(reply)
    events = [
        event(candidate(word, "STOP" if number == len(parts) else None))
        for number, word in enumerate(parts, 1)
    ]
    return events, candidate(reply, "STOP")


async def once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def paced(events: list[bytes]) -> AsyncIterator[bytes]:
    for item in events:
        yield item
        await asyncio.sleep(WORD_PAUSE_S)
