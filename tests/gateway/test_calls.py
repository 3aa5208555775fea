"""What becomes of a call: the gateway whole, with a scripted provider in the place of sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from starlette.types import Message

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.backends.request_ids import REQUEST_IDS_FILE
from asgi_llmgate.errors import UpstreamBrokenError, UpstreamConnectError, UpstreamTimeoutError
from tests import wire
from tests.asgi import CHAT, call, http_scope
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import SSE, Reply, StubUpstream

STREAM = {**CHAT, "stream": True}


async def test_a_call_goes_through_and_leaves_one_exact_record(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    exchange = await call(make_gate(), CHAT, key="sk-callers-own")

    assert exchange.body == wire.chat_body("gpt-4o")
    assert upstream.last.url == "https://api.openai.com/v1/chat/completions"
    assert upstream.header("authorization") == "Bearer sk-callers-own"
    [record] = log.records
    assert (record.input_tokens, record.output_tokens) == (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
    assert (record.provider, record.model, record.status) == ("openai", "gpt-4o", 200)
    assert record.complete
    assert not record.usage_estimated
    assert record.response_body == exchange.body
    assert record.id == exchange.headers["llmgate-id"]


async def test_the_callers_bytes_go_out_as_they_came(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    body = b'{ "model" : "gpt-4o", "messages":[], "big": 123456789012345678901234567890 }'

    await call(make_gate(), body, key="sk-x")

    assert upstream.bodies == [body]


async def test_a_provider_in_the_model_is_cut_off_on_the_way(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    await call(make_gate(), {**CHAT, "model": "groq/llama-3.3-70b"}, key="gsk-x")

    assert json.loads(upstream.bodies[0])["model"] == "llama-3.3-70b"
    assert upstream.last.url.startswith("https://api.groq.com/")


async def test_a_name_without_end_is_cut_off_in_the_response_head(make_gate: MakeGate) -> None:
    exchange = await call(make_gate(), {**CHAT, "model": "groq/" + "ü" * 5000}, key="sk-x")

    assert exchange.status == 200
    assert len(exchange.headers["llmgate-model"]) <= 6 * 256


async def test_the_cost_stands_in_the_response_head(make_gate: MakeGate) -> None:
    gate = make_gate(price=lambda provider, model, usage: usage.input_tokens * 1000)

    exchange = await call(gate, CHAT, key="sk-x")

    assert exchange.headers["llmgate-cost-usd"] == "0.001"


async def test_a_stream_is_relayed_chunk_by_chunk_and_its_usage_chunk_withheld(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    events = wire.chat_events("gpt-4o", usage=True)
    upstream.script = [Reply(events, headers=SSE)]

    exchange = await call(make_gate(), STREAM, key="sk-x")

    assert json.loads(upstream.bodies[0])["stream_options"] == {"include_usage": True}
    usage_event = events[-2]
    assert exchange.chunks == [event for event in events if event != usage_event]
    [record] = log.records
    assert (record.input_tokens, record.output_tokens) == (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
    assert record.is_stream
    assert record.complete
    assert exchange.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("content_type", [None, b"text/plain", b"Text/Event-Stream"])
async def test_a_stream_is_one_whatever_its_provider_calls_it(
    make_gate: MakeGate,
    upstream: StubUpstream,
    log: MemoryLogSink,
    content_type: bytes | None,
) -> None:
    headers = [] if content_type is None else [(b"content-type", content_type)]
    upstream.script = [Reply(wire.chat_events("gpt-4o", usage=True), headers=headers)]

    exchange = await call(make_gate(), STREAM, key="sk-x")

    assert b'"usage": {' not in exchange.body
    assert exchange.body.endswith(b"data: [DONE]\n\n")
    assert log.records[0].output_tokens == wire.OUTPUT_TOKENS
    assert log.records[0].complete


async def test_a_caller_who_asked_for_usage_gets_it(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    events = wire.chat_events("gpt-4o", usage=True)
    upstream.script = [Reply(events, headers=SSE)]
    body = {**STREAM, "stream_options": {"include_usage": True}}

    exchange = await call(make_gate(), body, key="sk-x")

    assert exchange.chunks == events


async def test_a_stream_that_breaks_off_ends_in_an_error_event(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    events = wire.chat_events("gpt-4o")
    upstream.script = [Reply([*events[:3], UpstreamBrokenError()], headers=SSE)]

    exchange = await call(make_gate(), STREAM, key="sk-x")

    last = exchange.body.strip().rpartition(b"\n\n")[2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_connect"
    [record] = log.records
    assert not record.complete
    assert record.error_code == "upstream_connect"
    assert record.usage_estimated
    assert record.output_tokens is not None
    assert record.output_tokens > 0
    assert record.attempts[0].reason == "upstream_connect"


async def test_a_stream_without_its_end_marker_ends_in_an_error_event(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [Reply(wire.chat_events("gpt-4o")[:3], headers=SSE)]

    exchange = await call(make_gate(), STREAM, key="sk-x")

    assert b'"code":"upstream_connect"' in exchange.chunks[-1]
    assert not log.records[0].complete


async def test_an_anthropic_stream_that_stalls_ends_in_its_dialects_error_event(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    events = wire.message_events("claude-sonnet-4-5")[:3]
    upstream.script = [Reply([*events, UpstreamTimeoutError("Nothing for 120 s.")], headers=SSE)]
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [], "stream": True}

    exchange = await call(make_gate(), body, path="/v1/messages", key="sk-ant-x")

    name, data = exchange.chunks[-1].strip().split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["message"] == "Nothing for 120 s."


async def test_a_json_answer_that_breaks_off_is_a_502(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([b'{"id":', UpstreamBrokenError()])]

    exchange = await call(make_gate(), CHAT, key="sk-x")

    assert exchange.status == 502
    assert exchange.json()["error"]["code"] == "upstream_connect"
    assert exchange.headers["llmgate-error"] == "gateway"


async def test_a_caller_who_leaves_cancels_the_provider_and_is_counted(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    never = asyncio.Event()
    reply = Reply([*wire.chat_events("gpt-4o")[:4], never], headers=SSE)
    upstream.script = [reply]

    await call(make_gate(), STREAM, key="sk-x", leave_after=3)

    assert reply.closed
    [record] = log.records
    assert record.client_left
    assert not record.complete
    assert record.usage_estimated
    assert record.attempts[0].reason == "client_left"


async def test_a_caller_who_leaves_before_an_answer_is_logged_as_499(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    reply = Reply([asyncio.Event()])
    upstream.script = [reply]

    await call(make_gate(), CHAT, key="sk-x", leave_after=0)

    assert log.records[0].status == 499
    assert reply.closed


async def test_a_redirect_is_a_502_and_is_not_followed(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply(status=302, headers=[(b"location", b"https://evil.example")])]

    exchange = await call(make_gate(), CHAT, key="sk-x")

    assert exchange.status == 502
    assert "location" not in exchange.headers
    assert len(upstream.requests) == 1


async def test_a_pooled_key_that_is_refused_shows_nothing_of_the_answer(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([b'{"error":"bad key sk-pooled"}'], status=401)]
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_key": "sk-pooled"}})

    exchange = await call(gate, CHAT, key="lg_app")

    assert exchange.status == 502
    assert exchange.json()["error"]["code"] == "upstream_auth"
    assert b"sk-pooled" not in exchange.body


async def test_the_callers_own_key_that_is_refused_passes_as_it_is(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([b'{"error":"bad key"}'], status=401)]

    exchange = await call(make_gate(), CHAT, key="sk-x")

    assert exchange.status == 401
    assert exchange.body == b'{"error":"bad key"}'
    assert "llmgate-error" not in exchange.headers


async def test_rate_limits_of_a_pooled_key_stay_here(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    limits = [(b"x-ratelimit-remaining-requests", b"7"), (b"content-type", b"application/json")]
    upstream.script = [Reply(headers=limits), Reply(headers=limits)]
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_key": "sk-pooled"}})

    pooled = await call(gate, CHAT, key="lg_app")
    own = await call(
        gate, CHAT, key="sk-own", headers={"LLMGate-Auth": "lg_app", "authorization": "Bearer sk-x"}
    )

    assert "x-ratelimit-remaining-requests" not in pooled.headers
    assert own.headers["x-ratelimit-remaining-requests"] == "7"


async def test_nobody_gets_a_pooled_key_without_a_gateway_key(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(providers={"openai": {"api_key": "sk-pooled"}})

    exchange = await call(gate, CHAT)

    assert exchange.status == 401
    assert exchange.json()["error"]["code"] == "provider_key_missing"
    assert upstream.requests == []


async def test_tenants_do_not_share_the_files_of_a_pooled_key(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(keys="a:lg_a,b:lg_b", providers={"openai": {"api_key": "sk-pooled"}})

    listed = await call(gate, b"", path="/v1/files", method="GET", key="lg_a")
    passed = await call(gate, b"", path="/providers/openai/v1/x", method="GET", key="lg_a")
    own = await call(
        gate,
        b"",
        path="/v1/files",
        method="GET",
        headers={"LLMGate-Auth": "lg_a", "authorization": "Bearer sk-x"},
    )

    assert (listed.status, passed.status) == (403, 403)
    assert own.status == 200
    assert len(upstream.requests) == 1


async def test_no_connection_is_a_502_in_the_callers_dialect(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [UpstreamConnectError("The provider cannot be reached.")]
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": []}

    exchange = await call(make_gate(), body, path="/v1/messages", key="sk-ant-x")

    assert exchange.status == 502
    assert exchange.json()["type"] == "error"
    [attempt] = log.records[0].attempts
    assert (attempt.status, attempt.reason) == (None, "upstream_connect")


async def test_a_bug_is_a_500_that_says_nothing(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [ZeroDivisionError("sk-secret")]

    exchange = await call(make_gate(), CHAT, key="sk-x")

    assert exchange.status == 500
    assert b"sk-secret" not in exchange.body
    assert log.records[0].error_code == "internal_error"


async def test_an_upload_is_streamed_through(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    pieces = [b"--b\r\n", b"x" * 100_000, b"\r\n--b--"]

    exchange = await call(
        make_gate(),
        pieces,
        path="/v1/files",
        headers={"content-type": "multipart/form-data; boundary=b", "authorization": "Bearer sk-x"},
    )

    assert exchange.status == 200
    assert upstream.bodies == [b"".join(pieces)]
    assert upstream.header("content-length") == str(sum(map(len, pieces)))
    assert log.records[0].request_bytes == sum(map(len, pieces))


async def test_tags_come_from_headers_under_both_names(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    await call(
        make_gate(),
        CHAT,
        key="sk-x",
        headers={
            "LLMGate-User-Id": "ada",
            "Helicone-User-Id": "grace",
            "Helicone-Session-Id": "s-1",
            "Helicone-Property-Feature": "search",
            "LLMGate-Omit-Request": "true",
        },
    )

    [record] = log.records
    assert (record.user_id, record.user_source, record.user_trust) == ("ada", "header", "asserted")
    assert record.session_id == "s-1"
    assert record.properties == {"feature": "search"}
    assert record.request_body is None
    assert record.request_bytes > 0


async def test_a_request_id_is_taken_once_per_tenant(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    gate = make_gate()
    headers = {"LLMGate-Request-Id": "order-7"}

    await call(gate, CHAT, key="sk-x", headers=headers)
    again = await call(gate, CHAT, key="sk-x", headers=headers)
    await call(gate, CHAT, key="sk-other", headers=headers)

    first, second, third = (record.id for record in log.records)
    assert (first, third) == ("order-7", "order-7")
    assert second != "order-7"
    assert "Request-Id" in again.headers["llmgate-warnings"]


async def test_a_request_id_is_taken_once_by_all_workers_of_a_folder(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    one, other = make_gate(), make_gate()
    headers = {"LLMGate-Request-Id": "order-7"}

    await call(one, CHAT, key="sk-x", headers=headers)
    again = await call(other, CHAT, key="sk-x", headers=headers)

    first, second = (record.id for record in log.records)
    assert first == "order-7" != second
    assert again.headers["llmgate-id"] == second
    assert "Request-Id" in again.headers["llmgate-warnings"]
    for gate in (one, other):
        await gate.aclose()


async def test_a_request_id_is_taken_although_nobody_can_be_asked(
    make_gate: MakeGate, log: MemoryLogSink, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / REQUEST_IDS_FILE).mkdir()
    exchange = await call(make_gate(), CHAT, key="sk-x", headers={"LLMGate-Request-Id": "order-7"})

    assert exchange.status == 200
    assert log.records[0].id == "order-7"


async def test_a_timeout_may_be_tightened_but_not_loosened(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate()

    await call(gate, CHAT, key="sk-x", headers={"LLMGate-Timeout-Ms": "1500"})
    tight = upstream.last.timeouts
    await call(gate, CHAT, key="sk-x", headers={"LLMGate-Timeout-Ms": "5000000"})

    assert (tight.first_byte_s, tight.total_s) == (1.5, 1.5)
    assert (upstream.last.timeouts.first_byte_s, upstream.last.timeouts.total_s) == (600, 900)


async def test_a_model_override_is_priced_instead_of_the_model(
    make_gate: MakeGate, log: MemoryLogSink
) -> None:
    asked: list[str] = []

    def price(provider: str, model: str, usage: object) -> int:
        asked.append(model)
        return 5

    await call(
        make_gate(price=price), CHAT, key="sk-x", headers={"LLMGate-Model-Override": "gpt-4.1"}
    )

    assert asked == ["gpt-4.1"]
    assert log.records[0].cost_nanousd == 5


async def test_an_upload_that_its_caller_abandons_is_no_shorter_upload(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError("nobody is there")

    headers = [
        (b"host", b"x"),
        (b"content-type", b"multipart/form-data; boundary=b"),
        (b"authorization", b"Bearer sk-x"),
    ]
    await make_gate()(http_scope("/v1/files", headers), receive, send)

    assert upstream.bodies == []
    assert log.records[0].client_left


async def test_attempts_are_counted_the_same_with_a_cache_in_between(make_gate: MakeGate) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_key": "sk-pooled"}})
    headers = {"LLMGate-Cache-Enabled": "true"}

    miss = await call(gate, CHAT, key="lg_app", headers=headers)
    hit = await call(gate, CHAT, key="lg_app", headers=headers)
    plain = await call(gate, CHAT, key="lg_app")

    assert (miss.headers["llmgate-cache"], miss.headers["llmgate-attempts"]) == ("MISS", "1")
    assert (hit.headers["llmgate-cache"], hit.headers["llmgate-attempts"]) == ("HIT", "0")
    assert plain.headers["llmgate-attempts"] == "1"
