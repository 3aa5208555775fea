"""The bytes that every subject relays, so that all of them do the same work."""

from __future__ import annotations

import json

__all__ = ["ANSWER", "CHAT_PATH", "MODEL", "PROMPT", "chat_request", "stream_chunk", "stream_end"]

CHAT_PATH = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
ANSWER_BYTES = 549
PROMPT = "In one paragraph, tell a curious child of seven whether Santa Claus is real. " * 2
PROMPT = PROMPT[:150]


def chat_request(*, is_stream: bool = False) -> bytes:
    """Return a chat request with a user message of 150 bytes."""
    request: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    if is_stream:
        request["stream"] = True
        # Asked for by the caller, so that no gateway has to add it and cut it out again.
        request["stream_options"] = {"include_usage": True}
    return json.dumps(request, separators=(",", ":")).encode()


def _answer() -> bytes:
    usage = {"prompt_tokens": 33, "completion_tokens": 48, "total_tokens": 81}
    message: dict[str, object] = {"role": "assistant", "content": "", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {
        "id": "chatcmpl-BenchBenchBenchBenchBenchBench",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [choice],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": "fp_benchbench",
    }
    empty = len(json.dumps(body, separators=(",", ":")))
    text = "Santa lives in every kindness that is done without being seen. " * 8
    message["content"] = text[: ANSWER_BYTES - empty]
    return json.dumps(body, separators=(",", ":")).encode()


ANSWER = _answer()
"""A chat completion of 549 bytes, as `peers` are usually measured with."""

_CHUNK = (
    '{"id":"chatcmpl-BenchBenchBenchBenchBenchBench","object":"chat.completion.chunk",'
    '"created":1760000000,"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
    '"system_fingerprint":"fp_benchbench","choices":[%s],"usage":%s}'
)


def stream_chunk(index: int) -> bytes:
    """Return the event that carries token number `index` of a stream."""
    delta = '{"role":"assistant","content":""}' if index == 0 else f'{{"content":" tok{index}"}}'
    choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}'
    return b"data: " + (_CHUNK % (choice, "null")).encode() + b"\n\n"


def stream_end(tokens: int) -> bytes:
    """Return the events that end a stream of `tokens` tokens: finish, usage, done."""
    finish = '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'
    usage = (
        f'{{"prompt_tokens":33,"completion_tokens":{tokens},"total_tokens":{33 + tokens},'
        '"prompt_tokens_details":{"cached_tokens":0}}'
    )
    events = (_CHUNK % (finish, "null"), _CHUNK % ("", usage), "[DONE]")
    return b"".join(b"data: " + event.encode() + b"\n\n" for event in events)
