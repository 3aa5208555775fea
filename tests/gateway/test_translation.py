"""What dispatch does for a provider of another format: requests, answers, streams, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.errors import UpstreamBrokenError, UpstreamTimeoutError
from tests import wire
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import JSON, SSE, Reply, StubUpstream

CLAUDE = {"claudish": {"formats": {"anthropic-messages": "https://claude.example/v1"}}}
POOLED = {
    "claudish": {
        "formats": {"anthropic-messages": "https://claude.example/v1"},
        "api_key": "pooled-key",
        "auth": "x-api-key",
    }
}
ASK = CHAT | {"model": "claudish/claude-sonnet-4-6"}
STREAM = ASK | {"stream": True}


def answered(upstream: StubUpstream, *events: bytes | Exception) -> None:
    upstream.script = [Reply(events, headers=SSE)]


async def test_a_call_reaches_the_provider_in_its_own_format(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [Reply([wire.message_body("claude-sonnet-4-6")])]
    exchange = await call(make_gate(providers=CLAUDE), ASK, key="sk-x", query="a=b")

    assert upstream.last.url == "https://claude.example/v1/messages"
    assert upstream.header("anthropic-version") == "2023-06-01"
    assert upstream.header("content-type") == "application/json"
    body = json.loads(upstream.bodies[0])
    assert body["model"] == "claude-sonnet-4-6"
    assert body["max_tokens"] > 0
    assert exchange.json()["choices"][0]["message"]["content"] == wire.TEXT
    assert exchange.headers["llmgate-provider"] == "claudish"
    [record] = log.records
    assert (record.format, record.provider) == ("openai-chat", "claudish")
    assert record.model == "claude-sonnet-4-6"
    assert (record.input_tokens, record.output_tokens) == (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
    assert record.complete


async def test_headers_of_the_callers_dialect_stay_here(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([wire.message_body("c")])]
    headers = {
        "openai-organization": "org-1",
        "openai-beta": "x",
        "anthropic-beta": "y",
        "x-stainless-lang": "python",
        "x-goog-user-project": "p",
        "accept": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    await call(make_gate(providers=CLAUDE), ASK, key="sk-x", headers=headers)

    sent = {name for name, _ in upstream.last.headers}
    assert sent & {name.encode() for name in headers} == {b"traceparent"}


async def test_a_pooled_key_is_sent_as_the_provider_takes_it(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([wire.message_body("c")])]
    gate = make_gate(providers=POOLED, keys={"app": "lg_the-gateway-key"})
    await call(gate, ASK, key="lg_the-gateway-key")

    assert upstream.header("x-api-key") == "pooled-key"
    assert upstream.header("authorization") is None


async def test_what_cannot_be_translated_is_dropped_and_named(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([wire.message_body("c")])]
    body = ASK | {"seed": 1, "logit_bias": {"5": 1}, "sp\ném": 1}
    exchange = await call(make_gate(providers=CLAUDE), body, key="sk-x")

    assert exchange.status == 200
    named = exchange.headers["llmgate-dropped-params"].split(", ")
    assert {"seed", "logit_bias", "sp??m"} == set(named)


@pytest.mark.parametrize("how", ["setting", "header"])
async def test_strict_translation_refuses_and_names_the_field(
    make_gate: MakeGate, upstream: StubUpstream, how: str
) -> None:
    gate = make_gate(providers=CLAUDE, **({"translation": "strict"} if how == "setting" else {}))
    headers = {"llmgate-translation": "strict"} if how == "header" else {}
    exchange = await call(gate, ASK | {"seed": 1}, key="sk-x", headers=headers)

    assert exchange.status == 400
    error = exchange.json()["error"]
    assert (error["code"], error["param"]) == ("translation_unavailable", "seed")
    assert not upstream.requests


async def test_a_route_can_be_strict_by_policy(make_gate: MakeGate, upstream: StubUpstream) -> None:
    policy = {"path": "/v1/chat/completions", "force": {"translation": "strict"}}
    gate = make_gate(providers=CLAUDE, policies=[policy])
    exchange = await call(gate, ASK | {"seed": 1}, key="sk-x")

    assert exchange.status == 400
    assert exchange.json()["error"]["param"] == "seed"


async def test_a_stream_is_translated_event_by_event(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    answered(upstream, *wire.message_events("claude-sonnet-4-6"))
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x")

    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert exchange.headers["x-accel-buffering"] == "no"
    said = [chunk for chunk in exchange.chunks if any(w.encode() in chunk for w in wire.WORDS)]
    assert len(said) == len(wire.WORDS)
    assert exchange.body.endswith(b"data: [DONE]\n\n")
    # Not asked for, so not sent.
    assert b'"usage":{' not in exchange.body
    [record] = log.records
    assert (record.input_tokens, record.output_tokens) == (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
    assert record.is_stream
    assert record.complete


async def test_usage_is_sent_to_who_asks_by_header(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    answered(upstream, *wire.message_events("c"))
    headers = {"llmgate-stream-usage": "true"}
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x", headers=headers)

    assert f'"prompt_tokens":{wire.INPUT_TOKENS}'.encode() in exchange.body


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (UpstreamBrokenError(), "upstream_connect"),
        (UpstreamTimeoutError("The provider was silent."), "upstream_timeout"),
        (None, "upstream_connect"),
    ],
    ids=["broken", "timer", "ended"],
)
async def test_a_stream_that_breaks_off_ends_in_the_callers_error_event(
    make_gate: MakeGate,
    upstream: StubUpstream,
    log: MemoryLogSink,
    broken: Exception | None,
    code: str,
) -> None:
    events: list[Any] = wire.message_events("claude-sonnet-4-6")[:4]
    answered(upstream, *events, *([broken] if broken else []))
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x")

    last = exchange.body.strip().rpartition(b"\n\n")[2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code
    [record] = log.records
    assert record.error_code == code
    assert not record.complete
    assert record.attempts[0].reason == code


async def test_a_break_after_the_end_is_none(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    answered(upstream, *wire.message_events("c"), UpstreamBrokenError())
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x")

    assert exchange.body.endswith(b"data: [DONE]\n\n")
    assert log.records[0].complete


async def test_a_stream_that_breaks_before_it_began_is_a_502(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    answered(upstream, UpstreamBrokenError())
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x")

    assert exchange.status == 502
    assert exchange.json()["error"]["code"] == "upstream_connect"


async def test_an_error_as_the_first_event_is_told_by_a_status(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    answered(upstream, wire.named_event(error))
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x")

    assert exchange.status == 503
    assert exchange.json()["error"]["message"] == "Overloaded"


async def test_an_error_inside_a_stream_ends_it(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    answered(upstream, *wire.message_events("c")[:4], wire.named_event(error), b"data: {}\n\n")
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x")

    assert exchange.status == 200
    last = exchange.body.strip().rpartition(b"\n\n")[2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["message"] == "Overloaded"
    assert not log.records[0].complete


async def test_a_refusal_keeps_status_and_retry_after(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow"}}
    headers = [*JSON, (b"retry-after", b"9"), (b"x-should-retry", b"true")]
    upstream.script = [Reply([wire.dumps(error)], status=429, headers=headers)]
    exchange = await call(make_gate(providers=CLAUDE), ASK, key="sk-x")

    assert exchange.status == 429
    assert exchange.json()["error"]["type"] == "rate_limit_error"
    assert exchange.headers["retry-after"] == "9"
    assert exchange.headers["x-should-retry"] == "true"
    assert "llmgate-error" not in exchange.headers


async def test_a_refusal_that_is_no_json_has_the_dialects_shape(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    html = [(b"content-type", b"text/html")]
    upstream.script = [Reply([b"<h1>Bad gateway</h1>"], status=502, headers=html)]
    exchange = await call(make_gate(providers=CLAUDE), ASK, key="sk-x")

    assert exchange.status == 502
    assert exchange.json()["error"]["message"]


async def test_a_pooled_key_that_is_refused_is_not_told_to_the_caller(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    error = {"type": "error", "error": {"type": "authentication_error", "message": "bad pooled"}}
    upstream.script = [Reply([wire.dumps(error)], status=401)]
    gate = make_gate(providers=POOLED, keys={"app": "lg_the-gateway-key"})
    exchange = await call(gate, ASK, key="lg_the-gateway-key")

    assert exchange.status == 502
    assert exchange.json()["error"]["code"] == "upstream_auth"
    assert b"bad pooled" not in exchange.body


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"content": 3}'])
async def test_an_answer_that_cannot_be_read_is_a_502(
    make_gate: MakeGate, upstream: StubUpstream, body: bytes
) -> None:
    upstream.script = [Reply([body])]
    exchange = await call(make_gate(providers=CLAUDE), ASK, key="sk-x")

    assert exchange.status == 502


@pytest.mark.parametrize(
    ("query", "is_array"), [("", True), ("alt=sse", False), ("key=mine", True)]
)
async def test_gemini_callers_get_an_array_unless_they_ask_for_events(
    make_gate: MakeGate, upstream: StubUpstream, query: str, is_array: bool
) -> None:
    answered(upstream, *wire.message_events("c"))
    exchange = await call(
        make_gate(providers=CLAUDE),
        {"contents": [{"parts": [{"text": "Hi"}]}]},
        path="/v1beta/models/claudish/c:streamGenerateContent",
        query=query,
        headers={"x-goog-api-key": "mine"},
    )

    assert exchange.body.startswith(b"[") == is_array
    content_type = exchange.headers["content-type"]
    assert content_type.startswith("application/json" if is_array else "text/event-stream")
    if is_array:
        assert len(exchange.json()) >= len(wire.WORDS)


async def test_signatures_of_other_families_are_not_relayed_home(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    sealed = {"type": "thinking", "thinking": "hm", "signature": "llmgate.eyJ0eXBlIjoiYSJ9"}
    said = {"role": "assistant", "content": [sealed, {"type": "text", "text": "Hi"}]}
    ask = {"role": "user", "content": "Go on"}
    body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [ask, said, ask]}
    upstream.script = [Reply([wire.message_body("c")])]
    await call(make_gate(), body, path="/v1/messages", headers={"x-api-key": "mine"})

    assert b"llmgate." not in upstream.bodies[0]
    assert b'"Hi"' in upstream.bodies[0]


async def test_embeddings_are_translated(make_gate: MakeGate, upstream: StubUpstream) -> None:
    only = {"co": {"formats": {"cohere-v2": "https://cohere.example/v2"}}}
    answer = {"embeddings": {"float": [[0.5, 1.0]]}, "meta": {"billed_units": {"input_tokens": 3}}}
    upstream.script = [Reply([wire.dumps(answer)])]
    exchange = await call(
        make_gate(providers=only),
        {"model": "co/embed-v4.0", "input": "Hi", "encoding_format": "base64"},
        path="/v1/embeddings",
        key="sk-x",
    )

    assert upstream.last.url == "https://cohere.example/v2/embed"
    assert exchange.json()["data"][0]["embedding"] == "AAAAPwAAgD8="
    assert exchange.json()["usage"]["prompt_tokens"] == 3


BOTH: dict[str, Any] = {"openai": {"api_key": "sk-1"}, "claudish": POOLED["claudish"]}
KEY = "lg_the-gateway-key"


async def test_a_chain_may_cross_formats(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    """The first refuses in its own format, the second answers in another; the caller sees his."""
    busy = {"error": {"message": "busy", "type": "server_error"}}
    upstream.script = [
        Reply([wire.dumps(busy)], status=503),
        Reply([wire.message_body("claude-sonnet-4-6")]),
    ]
    gate = make_gate(providers=BOTH, keys={"app": KEY})
    body = CHAT | {"model": "openai/gpt-4o, claudish/claude-sonnet-4-6"}
    exchange = await call(gate, body, key=KEY)

    assert exchange.status == 200
    assert exchange.json()["choices"][0]["message"]["content"] == wire.TEXT
    assert [request.url for request in upstream.requests] == [
        "https://api.openai.com/v1/chat/completions",
        "https://claude.example/v1/messages",
    ]
    [record] = log.records
    assert [attempt.provider for attempt in record.attempts] == ["openai", "claudish"]
    assert record.input_tokens == wire.INPUT_TOKENS


async def test_a_stream_falls_back_across_formats(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [
        Reply([UpstreamBrokenError()], headers=SSE),
        Reply(wire.message_events("c"), headers=SSE),
    ]
    gate = make_gate(providers=BOTH, keys={"app": KEY})
    body = STREAM | {"model": "openai/gpt-4o, claudish/claude-sonnet-4-6"}
    exchange = await call(gate, body, key=KEY)

    assert all(word.encode() in exchange.body for word in wire.WORDS)
    assert exchange.body.endswith(b"data: [DONE]\n\n")


async def test_a_translated_stream_that_fails_at_once_falls_back(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    upstream.script = [
        Reply([wire.named_event(error)], headers=SSE),
        Reply(wire.chat_events("gpt-4o", usage=True), headers=SSE),
    ]
    gate = make_gate(providers=BOTH, keys={"app": KEY})
    body = STREAM | {"model": "claudish/claude-sonnet-4-6, openai/gpt-4o"}
    exchange = await call(gate, body, key=KEY)

    assert exchange.status == 200
    assert all(word.encode() in exchange.body for word in wire.WORDS)


async def test_a_stream_that_nobody_calls_one_is_translated(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply(wire.message_events("claude-sonnet-4-6"), headers=[])]
    exchange = await call(make_gate(providers=CLAUDE), STREAM, key="sk-x")

    assert exchange.headers["content-type"].startswith("text/event-stream")
    assert exchange.body.endswith(b"data: [DONE]\n\n")
