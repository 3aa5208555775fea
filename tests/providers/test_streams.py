"""Streams as a whole: event by event, broken off, failed, and what comes after the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llmgate.core.eventstream import encode_message
from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import TargetInfo
from asgi_llmgate.providers.translate import INBOUND, OUTBOUND, StreamTranslation, Translation
from tests.providers import sdk


def sse(*payloads: dict[str, Any] | str) -> list[bytes]:
    return [
        b"data: " + (p.encode() if isinstance(p, str) else dumps(p)) + b"\n\n" for p in payloads
    ]


def frames(*events: tuple[str, dict[str, Any]]) -> list[bytes]:
    return [
        encode_message({":message-type": "event", ":event-type": name}, dumps(payload))
        for name, payload in events
    ]


def chat(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


# The same short answer, as each provider streams it: one start, three fragments, the end.
HELLO: dict[str, list[bytes]] = {
    "openai-chat": sse(
        chat({"role": "assistant", "content": ""}),
        chat({"content": "Hel"}),
        chat({"content": "lo"}),
        chat({"content": "!"}),
        chat({}, "stop"),
        "[DONE]",
    ),
    "openai-responses": sse(
        {"type": "response.created", "response": {"id": "r", "model": "m", "created_at": 1}},
        {"type": "response.output_text.delta", "delta": "Hel"},
        {"type": "response.output_text.delta", "delta": "lo"},
        {"type": "response.output_text.delta", "delta": "!"},
        {"type": "response.completed", "response": {"status": "completed"}},
    ),
    "anthropic-messages": sse(
        {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "!"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ),
    "gemini": sse(
        {"candidates": [{"content": {"parts": []}}]},
        {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "lo"}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "!"}]}}]},
        {"candidates": [{"finishReason": "STOP"}]},
    ),
    "bedrock-converse": frames(
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hel"}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "lo"}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "!"}}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": {"inputTokens": 1, "outputTokens": 1}}),
    ),
    "cohere-v2": sse(
        {"type": "message-start", "id": "i"},
        {"type": "content-delta", "delta": {"message": {"content": {"text": "Hel"}}}},
        {"type": "content-delta", "delta": {"message": {"content": {"text": "lo"}}}},
        {"type": "content-delta", "delta": {"message": {"content": {"text": "!"}}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    ),
}
MATRIX = [(source, target) for source in INBOUND for target in OUTBOUND if source != target]
BODIES: dict[str, dict[str, Any]] = {
    "openai-chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "openai-responses": {"input": "Hi"},
    "anthropic-messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
    "gemini": {"contents": [{"parts": [{"text": "Hi"}]}]},
}


def started(source: str, target: str) -> StreamTranslation:
    translation = Translation(source, target, call_id="0198-aa", created=1700000000)
    to = TargetInfo("some-model", "someone", capabilities_of("some-model"))
    translation.request(BODIES[source], to, model="m", stream=True)
    return translation.stream()


@pytest.mark.parametrize(("source", "target"), MATRIX)
def test_each_fragment_is_passed_on_as_it_comes(source: str, target: str) -> None:
    stream = started(source, target)
    out = [stream.feed(event) for event in HELLO[target]]

    for number, text in enumerate(("Hel", "lo", "!"), start=1):
        assert f'"{text}"'.encode() in out[number]
    assert stream.complete or stream.close()
    assert stream.failed is None


@pytest.mark.parametrize(("source", "target"), MATRIX)
def test_nothing_follows_the_end(source: str, target: str) -> None:
    stream = started(source, target)
    raw = b"".join(map(stream.feed, HELLO[target])) + stream.close()

    turn = INBOUND[source].decode_request({"model": "m", **sdk.stream(source, raw)})
    assert turn["messages"][-1]["content"] == "Hello!"
    assert stream.complete
    assert stream.feed(b"".join(HELLO[target])) == b""
    assert stream.close() == b""


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize(("source", "target"), MATRIX)
def test_a_stream_that_breaks_off_ends_in_the_dialects_error(
    source: str, target: str, after: int
) -> None:
    stream = started(source, target)
    raw = b"".join(map(stream.feed, HELLO[target][:after]))
    end = stream.close()

    assert not stream.complete
    assert stream.failed is not None
    assert stream.failed.code == "upstream_connect"
    payloads = [payload for _, payload in sdk.payloads(end)]
    error = next(p for p in payloads if "error" in p or p.get("type") == "error")
    assert "ended the stream before it was complete" in json.dumps(error)
    match source:
        case "openai-chat":
            assert b"[DONE]" not in raw + end
            assert error["error"]["type"] == "server_error"
        case "anthropic-messages":
            assert end.startswith(b"event: error\n")
            assert b"message_stop" not in raw + end
        case "gemini":
            assert error["error"]["status"] == "INTERNAL"
            assert b"finishReason" not in raw + end
        case "openai-responses":
            assert b"response.completed" not in raw + end
            assert [p["type"] for p in payloads[-2:]] == ["error", "response.failed"]


def test_a_half_event_is_no_end() -> None:
    stream = started("openai-chat", "anthropic-messages")
    stream.feed(b"".join(HELLO["anthropic-messages"][:-1])[:-30])

    assert b'"error"' in stream.close()
    assert not stream.complete


def test_a_corrupt_event_stream_is_an_error() -> None:
    stream = started("anthropic-messages", "bedrock-converse")
    broken = bytearray(b"".join(HELLO["bedrock-converse"]))
    broken[9] ^= 255
    end = stream.feed(bytes(broken))

    assert end.startswith(b"event: error\n")
    assert not stream.complete
    assert stream.close() == b""


def test_usage_is_kept_for_the_meter() -> None:
    stream = started("openai-chat", "bedrock-converse")
    b"".join(map(stream.feed, HELLO["bedrock-converse"]))

    assert stream.usage is not None
    assert stream.usage["total_tokens"] == 2


def test_json_that_is_no_event_is_passed_over() -> None:
    stream = started("openai-chat", "anthropic-messages")
    events = [b"data: [1]\n\n", b"data: {broken\n\n", *HELLO["anthropic-messages"]]
    raw = b"".join(map(stream.feed, events)) + stream.close()

    assert stream.complete
    assert b"Hel" in raw


def test_responses_events_come_in_order() -> None:
    tool = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": "{}"}}
    events = sse(
        chat({"reasoning_content": "hm"}),
        chat({"content": "Hi"}),
        chat({"tool_calls": [tool]}),
        chat({"tool_calls": [more]}),
        chat({}, "tool_calls"),
        "[DONE]",
    )
    stream = started("openai-responses", "openai-chat")
    raw = b"".join(map(stream.feed, events)) + stream.close()

    assert [name.removeprefix("response.") for name, _ in sdk.payloads(raw)] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert b"[DONE]" not in raw


def test_fragments_of_two_tool_calls_may_be_mixed() -> None:
    def fragment(index: int, name: str | None, text: str) -> dict[str, Any]:
        call: dict[str, Any] = {"index": index, "function": {"arguments": text}}
        if name:
            call |= {"id": name, "type": "function"}
            call["function"]["name"] = name
        return chat({"tool_calls": [call]})

    events = sse(
        fragment(0, "f", '{"a"'),
        fragment(1, "g", '{"b"'),
        fragment(0, None, ":1}"),
        fragment(1, None, ":2}"),
        chat({}, "tool_calls"),
        "[DONE]",
    )
    for source in ("anthropic-messages", "openai-responses"):
        stream = started(source, "openai-chat")
        raw = b"".join(map(stream.feed, events)) + stream.close()
        said = json.dumps([payload for _, payload in sdk.payloads(raw)])

        assert ":1}" in said.replace('\\"', '"')
        assert stream.complete


def test_a_gemini_caller_without_sse_gets_an_array() -> None:
    translation = Translation("gemini", "anthropic-messages", call_id="0198-aa", created=1)
    to = TargetInfo("some-model", "someone", capabilities_of("some-model"))
    translation.request(BODIES["gemini"], to, model="m", stream=True)
    whole = translation.stream(as_array=True)
    raw = b"".join(map(whole.feed, HELLO["anthropic-messages"])) + whole.close()
    broken = translation.stream(as_array=True)
    half = b"".join(map(broken.feed, HELLO["anthropic-messages"][:3])) + broken.close()

    texts = [r["candidates"][0]["content"]["parts"][0]["text"] for r in json.loads(raw)]
    assert "".join(texts) == "Hello!"
    assert json.loads(half)[-1]["error"]["status"] == "INTERNAL"


def test_an_anthropic_caller_is_told_the_model_that_was_asked_for() -> None:
    stream = started("anthropic-messages", "openai-chat")
    [begun] = sdk.payloads(stream.feed(sse(chat({"content": "Hi"}) | {"model": "other"})[0]))[:1]
    translation = Translation("anthropic-messages", "openai-chat", call_id="0198-aa", created=1)
    to = TargetInfo("some-model", "someone", capabilities_of("some-model"))
    translation.request(BODIES["anthropic-messages"] | {"model": "google/g"}, to)
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    answer = translation.response({"model": "other", "choices": [choice]})

    assert begun[1]["message"]["model"] == "m"
    assert answer["model"] == "google/g"
