"""Streams arrive chunk by chunk, unchanged, and stop on both sides when one side stops."""

from __future__ import annotations

import socket
import statistics
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests import wire
from tests.e2e.conftest import Calls
from tests.lag import machine_lag
from tests.provider import SSE, Answer, Gate, Provider
from tests.servers import Gateway, all_at, running_gateway

MESSAGES = [{"role": "user", "content": "hello"}]
CHAT = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}
CHAT_WITH_USAGE = CHAT | {"stream_options": {"include_usage": True}}
MESSAGE = {
    "model": "claude-sonnet-4-6",
    "messages": MESSAGES,
    "max_tokens": 100,
    "stream": True,
}
GEMINI = {"contents": [{"parts": [{"text": "hello"}]}]}
GEMINI_PATH = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
STREAMS = {
    "openai-chat": (
        "/v1/chat/completions",
        CHAT_WITH_USAGE,
        wire.chat_events("gpt-4o", usage=True),
    ),
    "openai-responses": (
        "/v1/responses",
        {"model": "gpt-4o", "input": "hello", "stream": True},
        wire.response_events("gpt-4o"),
    ),
    "anthropic": ("/v1/messages", MESSAGE, wire.message_events("claude-sonnet-4-6")),
    "gemini": (GEMINI_PATH, GEMINI, wire.gemini_events("gemini-2.5-flash")),
    "pass-through": ("/providers/openai/chat/completions", CHAT, wire.chat_events("gpt-4o")),
}


@pytest.mark.parametrize("name", STREAMS)
def test_each_event_arrives_before_the_provider_sends_the_next(
    http: httpx.Client, calls: Calls, provider: Provider, name: str
) -> None:
    path, body, events = STREAMS[name]
    gates = [Gate() for _ in events]
    parts = [part for pair in zip(events, gates, strict=True) for part in pair]
    provider.script(Answer(parts, headers=SSE))
    received = b""
    with http.stream("POST", path, json=body) as answer:
        arriving = answer.iter_raw()
        for number, gate in enumerate(gates, 1):
            expected = b"".join(events[:number])
            while len(received) < len(expected):  # Blocks for ever if something holds it back.
                received += next(arriving)
            assert received == expected
            gate.open()
        received += b"".join(arriving)
    record = calls.one()

    assert received == b"".join(events)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert "llmgate-cost-usd" not in answer.headers
    assert provider.last.header("accept-encoding") == "identity"
    assert (record["complete"], record["is_stream"]) == (True, True)
    assert record["response_bytes"] == len(received)
    assert record["first_byte_ms"] < record["duration_ms"]


def test_an_sdk_sees_each_chunk_as_it_comes(gateway: Gateway, provider: Provider) -> None:
    events = wire.chat_events("gpt-4o")
    gates = [Gate() for _ in events]
    parts = [part for pair in zip(events, gates, strict=True) for part in pair]
    provider.script(Answer(parts, headers=SSE))
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-mine") as client,
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hello"}], stream=True
        ) as stream,
    ):
        for number, _ in enumerate(stream):
            assert not gates[number].opened.done()
            gates[number].open()
        gates[-1].open()  # The one behind [DONE].

    assert number == len(events) - 2


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_the_usage_chunk_is_withheld_wherever_the_network_cuts_it(
    http: httpx.Client, calls: Calls, provider: Provider, cut: int
) -> None:
    sent = b": comment\n\n" + b"".join(wire.chat_events("gpt-4o", words=["caf\u00e9 "], usage=True))
    parts = [sent[start : start + cut] for start in range(0, len(sent), cut)]
    provider.script(Answer(parts, headers=SSE))
    answer = http.post("/v1/chat/completions", json=CHAT)
    events = wire.chat_events("gpt-4o", words=["caf\u00e9 "], usage=True)

    assert answer.content == b": comment\n\n" + b"".join(events[:-2] + events[-1:])
    assert calls.one()["input_tokens"] == wire.INPUT_TOKENS


def test_a_stream_of_odd_pieces_is_not_changed_by_a_byte(
    http: httpx.Client, provider: Provider
) -> None:
    sent = (
        b": OPENROUTER PROCESSING\r\n\r\n"
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"\xf0\x9f\x98\x80"}}]}  \r\n\r\n'
        b'event: unknown\ndata: {"choices":[],  "obfuscation":"abc"}\n\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_new":1}\n\n'
        b"data: [DONE]\n\n"
    )
    provider.script(Answer([sent[:30], sent[30:95], sent[95:]], headers=SSE))
    answer = http.post("/v1/chat/completions", json=CHAT_WITH_USAGE)

    assert answer.content == sent


def start_stream(gateway: Gateway, path: str, body: bytes) -> socket.socket:
    """Send a request by hand and return once the first bytes of the answer's body are there."""
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-mine\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    received = b""
    while b"data: " not in received:
        received += connection.recv(65536)
    return connection


def test_the_provider_is_left_as_soon_as_the_caller_leaves(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    """50 ms at the 99th percentile is the budget; the bound here allows for a busy machine.

    Nor does the time count in which this process itself got no processor.

    `pytest -rP` shows what was measured.
    """
    trials = 100
    body = wire.dumps(CHAT)
    first, *_ = wire.chat_events("gpt-4o")
    took_ms = []
    for _ in range(trials):
        provider.script(Answer([first, Gate()], headers=SSE))
        connection = start_stream(gateway, "/v1/chat/completions", body)
        asked = provider.last
        with machine_lag() as lag:
            left_at = time.perf_counter()
            connection.close()
            took_s = provider.wait(lambda asked=asked: asked.left_at) - left_at  # type: ignore[misc]
        took_ms.append((took_s - lag.late_s) * 1e3)
    p99 = statistics.quantiles(took_ms, n=100)[98]
    print(f"left after {statistics.median(took_ms):.2f} ms (p50), {p99:.2f} ms (p99)")
    records = calls.new(trials)

    assert p99 < 250
    assert {(record["client_left"], record["complete"]) for record in records} == {(True, False)}


def ask_and_leave(gateway: Gateway, provider: Provider) -> float:
    """Leave while the provider still thinks; return when, in seconds of `time.perf_counter`."""
    provider.script(Answer([Gate(), wire.chat_body("gpt-4o")], status=0))
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    body = wire.dumps({"model": "gpt-4o", "messages": MESSAGES})
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-mine\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    provider.wait(lambda: provider.asked and provider.last.complete)
    left_at = time.perf_counter()
    connection.close()
    return left_at


def test_who_leaves_before_the_answer_starts_is_noticed(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    ask_and_leave(gateway, provider)
    record = calls.one()  # The provider is still silent.

    assert (record["client_left"], record["complete"]) == (True, False)
    assert (record["status"], record["first_byte_ms"]) == (499, None)


@pytest.mark.parametrize(
    "transport",
    [
        "h1",
        "httpx",
        pytest.param(
            "pyreqwest",
            marks=pytest.mark.xfail(
                reason="pyreqwest 0.15 leaves a request running until its head is there",
                raises=AssertionError,
                strict=True,
            ),
        ),
    ],
)
def test_the_provider_is_left_even_before_its_answer_starts(
    provider: Provider, tmp_path: Path, transport: str
) -> None:
    env = all_at(provider.url) | {"LLMGATE_UPSTREAM__CLIENT": transport}
    with running_gateway(tmp_path, env) as gateway, machine_lag() as lag:
        left_at = ask_and_leave(gateway, provider)
        took_s = provider.wait(lambda: provider.last.left_at, timeout_s=1) - left_at

    assert took_s - lag.late_s < 0.25


def test_what_arrived_before_the_caller_left_is_counted_and_marked(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    events = wire.message_events("claude-sonnet-4-6")
    first_word = next(i for i, event in enumerate(events) if b"text_delta" in event)
    provider.script(Answer([b"".join(events[: first_word + 1]), Gate()], headers=SSE))
    connection = start_stream(gateway, "/v1/messages", wire.dumps(MESSAGE))
    connection.close()
    record = calls.one()

    assert record["input_tokens"] == wire.INPUT_TOKENS  # message_start has told it
    assert 0 < record["output_tokens"] < wire.OUTPUT_TOKENS
    assert record["usage_estimated"] is True
    assert record["client_left"] is True
    assert record["complete"] is False
    assert record["cost_nanousd"] > 0
