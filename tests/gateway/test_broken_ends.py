"""How a stream ends that its provider did not end: in the form it began in, or not at all."""

from __future__ import annotations

import gzip
import json

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.core.eventstream import EventStreamDecoder
from asgi_llmgate.errors import UpstreamBrokenError, UpstreamTimeoutError
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.protocols import RawHeaders
from tests import wire
from tests.asgi import CHAT, Exchange, call
from tests.core.answers import frame
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import JSON, SSE, Reply, StubUpstream

GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
FRAMES: RawHeaders = [(b"content-type", b"application/vnd.amazon.eventstream")]
DELTA = frame("contentBlockDelta", b'{"delta":{"text":"Hello"}}')
FIRST = json.dumps(wire.gemini_chunk("gemini-2.5-flash", "Hello", last=False)).encode()


async def converse(gate: LLMGate) -> Exchange:
    path = "/model/amazon.nova-lite-v1:0/converse-stream"
    return await call(gate, CONVERSE, path=path, key="sk-x")


async def test_an_announced_length_does_not_hold_the_error_back(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    events = wire.chat_events("gpt-4o")[:3]
    length = str(len(b"".join(events))).encode()
    upstream.script = [Reply(events, headers=[*SSE, (b"content-length", length)])]

    exchange = await call(make_gate(), {**CHAT, "stream": True}, key="sk-x")

    assert "content-length" not in exchange.headers
    assert b'"code":"upstream_connect"' in exchange.chunks[-1]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"["],
        [b"[" + FIRST],
        [b"[" + FIRST, b"\n,\r\n"],
        [b"[", FIRST, b",", FIRST],
        [b"[\n" + FIRST + b",\n" + FIRST[:10], FIRST[10:] + b"\n"],
    ],
    ids=["nothing", "bracket", "object", "comma", "two objects", "cut inside the second"],
)
async def test_a_broken_array_ends_in_an_error_object(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink, parts: list[bytes]
) -> None:
    upstream.script = [Reply([*parts, UpstreamBrokenError()], headers=JSON)]

    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    exchange = await call(make_gate(), GEMINI, path=path, key="sk-x")

    *before, last = exchange.json()
    assert len(before) == b"".join(parts).count(FIRST)
    assert last["error"]["code"] == 502
    assert log.records[0].error_code == "upstream_connect"
    assert not log.records[0].complete


async def test_an_array_that_breaks_inside_an_object_is_cut_off(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [Reply([b"[" + FIRST[:20], UpstreamTimeoutError("late")], headers=JSON)]

    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    exchange = await call(make_gate(), GEMINI, path=path, key="sk-x")

    # No last message: the server closes the connection, which no client takes for an end.
    assert exchange.messages[-1]["more_body"] is True
    assert exchange.body == b"[" + FIRST[:20]
    assert log.records[0].error_code == "upstream_timeout"


async def test_broken_frames_end_in_an_exception_of_bedrocks(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [Reply([DELTA, UpstreamBrokenError()], headers=FRAMES)]
    url = "https://bedrock-runtime.eu-central-1.amazonaws.com"
    gate = make_gate(providers={"amazon-bedrock": {"base_url": url}})

    exchange = await converse(gate)

    first, last = EventStreamDecoder().feed(exchange.body)
    assert first.headers[":event-type"] == "contentBlockDelta"
    assert last.headers[":message-type"] == "exception"
    assert last.headers[":exception-type"] == "modelStreamErrorException"
    assert json.loads(last.payload) == {"message": "The provider broke off the stream."}
    assert log.records[0].error_code == "upstream_connect"
    assert log.records[0].usage_estimated


async def test_frames_that_break_inside_one_are_cut_off(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [Reply([DELTA, DELTA[:30], UpstreamBrokenError()], headers=FRAMES)]
    url = "https://bedrock-runtime.eu-central-1.amazonaws.com"
    gate = make_gate(providers={"amazon-bedrock": {"base_url": url}})

    exchange = await converse(gate)

    assert exchange.messages[-1]["more_body"] is True
    assert exchange.body == DELTA + DELTA[:30]
    assert log.records[0].error_code == "upstream_connect"


async def test_a_compressed_stream_passes_as_it_is(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    body = gzip.compress(b"".join(wire.chat_events("gpt-4o")))
    upstream.script = [
        Reply([body[:40], body[40:]], headers=[*SSE, (b"content-encoding", b"gzip")])
    ]

    exchange = await call(make_gate(), {**CHAT, "stream": True}, key="sk-x")

    assert exchange.body == body
    assert exchange.headers["content-encoding"] == "gzip"
    assert log.records[0].complete
    assert log.records[0].error_code is None
    assert log.records[0].input_tokens is None
