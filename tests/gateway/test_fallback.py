from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.errors import UpstreamBrokenError, UpstreamConnectError, UpstreamTimeoutError
from asgi_llmgate.types import CallRecord
from tests import wire
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import JSON, SSE, Reply, StubUpstream

STREAM = {**CHAT, "stream": True}
POOLED = {
    "openai": {"api_key": "sk-openai"},
    "groq": {"api_key": "sk-groq"},
    "anthropic": {"api_key": "sk-ant"},
}


def failing(status: int, body: bytes = b'{"error":{"message":"no"}}', **headers: str) -> Reply:
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Reply([body], status=status, headers=[*JSON, *extra])


def chain(*entries: object) -> dict[str, str]:
    return {"LLMGate-Fallbacks": json.dumps(entries)}


def hosts(upstream: StubUpstream) -> list[str]:
    return [request.url.split("/")[2] for request in upstream.requests]


def models(upstream: StubUpstream) -> list[str]:
    return [json.loads(body)["model"] for body in upstream.bodies]


def keys(upstream: StubUpstream) -> list[str]:
    found = [dict(request.headers).get(b"authorization", b"") for request in upstream.requests]
    return [value.decode().removeprefix("Bearer ") for value in found]


def reasons(record: CallRecord) -> list[tuple[str, int | None, str | None]]:
    return [(attempt.provider, attempt.status, attempt.reason) for attempt in record.attempts]


GROQ = {"provider": "groq", "model": "llama-3.3-70b"}


@pytest.fixture
def gate(make_gate: MakeGate) -> Any:
    return make_gate(keys="app:lg_app", providers=POOLED)


async def test_the_next_target_answers_where_the_first_fails(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [failing(503), Reply()]

    exchange = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert exchange.status == 200
    assert hosts(upstream) == ["api.openai.com", "api.groq.com"]
    assert models(upstream) == ["gpt-4o", "llama-3.3-70b"]
    assert keys(upstream) == ["sk-openai", "sk-groq"]
    assert exchange.headers["llmgate-attempts"] == "2"
    assert exchange.headers["llmgate-fallback-index"] == "1"
    assert exchange.headers["llmgate-provider"] == "groq"
    [record] = log.records
    assert reasons(record) == [("openai", 503, "status"), ("groq", 200, None)]
    assert (record.provider, record.status, record.error_code) == ("groq", 200, None)


async def test_a_good_first_target_wakes_no_other(gate: Any, upstream: StubUpstream) -> None:
    exchange = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert hosts(upstream) == ["api.openai.com"]
    assert exchange.headers["llmgate-fallback-index"] == "0"


@pytest.mark.parametrize(
    "error",
    [UpstreamConnectError("refused"), UpstreamTimeoutError("no head")],
    ids=["no-connection", "no-first-byte"],
)
async def test_who_cannot_be_reached_is_passed_by(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink, error: Exception
) -> None:
    upstream.script = [error]

    exchange = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert exchange.status == 200
    expected = "connect" if isinstance(error, UpstreamConnectError) else "timeout"
    assert reasons(log.records[0])[0] == ("openai", None, expected)


async def test_a_comma_list_is_a_chain(gate: Any, upstream: StubUpstream) -> None:
    upstream.script = [failing(429)]
    body = {**CHAT, "model": "gpt-4o,groq/llama-3.3-70b"}

    exchange = await call(gate, body, key="lg_app")

    assert exchange.status == 200
    assert models(upstream) == ["gpt-4o", "llama-3.3-70b"]


async def test_an_alias_of_the_settings_is_a_chain(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(
        keys="app:lg_app",
        providers=POOLED,
        models={"fast": {"targets": ["groq/llama-3.3-70b", "gpt-4o-mini"]}},
    )
    upstream.script = [failing(500)]

    exchange = await call(gate, {**CHAT, "model": "fast"}, key="lg_app")

    assert exchange.status == 200
    assert models(upstream) == ["llama-3.3-70b", "gpt-4o-mini"]


async def test_a_bad_request_is_nobody_elses_business(gate: Any, upstream: StubUpstream) -> None:
    upstream.script = [failing(400)]

    exchange = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert exchange.status == 400
    assert len(upstream.requests) == 1
    assert "x-should-retry" not in exchange.headers


async def test_a_prompt_that_is_too_long_goes_to_a_larger_model(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    overflow = b'{"error":{"message":"too long","code":"context_length_exceeded"}}'
    upstream.script = [failing(400, overflow)]
    body = {**CHAT, "model": "gpt-4"}

    exchange = await call(
        gate, body, key="lg_app", headers=chain({"model": "gpt-4-0613"}, {"model": "gpt-4.1"})
    )

    assert exchange.status == 200
    assert models(upstream) == ["gpt-4", "gpt-4.1"]
    assert [reason for _, _, reason in reasons(log.records[0])] == [
        "context_window",
        "context_window",
        None,
    ]


async def test_when_all_fail_the_last_real_answer_is_given(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [
        failing(429, b'{"error":{"message":"slow down"}}'),
        UpstreamConnectError("x"),
    ]

    exchange = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert exchange.status == 429
    assert exchange.json()["error"]["message"] == "slow down"
    assert exchange.headers["x-should-retry"] == "false"
    assert "llmgate-error" not in exchange.headers
    assert exchange.headers["llmgate-provider"] == "openai"
    assert exchange.headers["llmgate-attempts"] == "2"
    assert log.records[0].provider == "openai"


async def test_when_nobody_answers_the_caller_is_told_not_to_retry(
    gate: Any, upstream: StubUpstream
) -> None:
    upstream.script = [UpstreamConnectError("a"), UpstreamConnectError("b")]

    exchange = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert exchange.status == 502
    assert exchange.headers["x-should-retry"] == "false"
    assert exchange.headers["llmgate-error"] == "gateway"


async def test_a_callers_key_never_goes_to_another_provider(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    gate = make_gate(providers=POOLED)
    upstream.script = [failing(503), Reply()]

    exchange = await call(
        gate, CHAT, key="sk-mine", headers=chain(GROQ, {"provider": "openai", "model": "gpt-4.1"})
    )

    assert exchange.status == 200
    assert hosts(upstream) == ["api.openai.com", "api.openai.com"]
    assert keys(upstream) == ["sk-mine", "sk-mine"]
    assert reasons(log.records[0])[1] == ("groq", None, "no_key")
    assert exchange.headers["llmgate-attempts"] == "2"
    assert exchange.headers["llmgate-fallback-index"] == "2"


async def test_helicones_entries_are_the_whole_chain(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    entries = [
        {
            "target-url": "https://api.openai.com",
            "headers": {"Authorization": "Bearer sk-first"},
            "onCodes": [401, {"from": 400, "to": 500}],
        },
        {
            "target-url": "https://api.groq.com/openai",
            "headers": {"Authorization": "Bearer sk-second", "X-Extra": "1"},
            "onCodes": [429],
            "bodyKeyOverride": {"model": "llama-3.3-70b", "temperature": 0},
        },
    ]
    upstream.script = [failing(404)]
    headers = {"Helicone-Fallbacks": json.dumps(entries), "Helicone-Property-Feature": "search"}

    exchange = await call(make_gate(), CHAT, key="sk-own", headers=headers)

    assert exchange.status == 200
    assert keys(upstream) == ["sk-first", "sk-second"]
    assert hosts(upstream) == ["api.openai.com", "api.groq.com"]
    assert json.loads(upstream.bodies[1]) == {**CHAT, "model": "llama-3.3-70b", "temperature": 0}
    assert upstream.header("x-extra") == "1"
    assert exchange.headers["helicone-fallback-index"] == "1"
    assert log.records[0].properties == {"feature": "search"}


async def test_helicones_codes_decide_alone(make_gate: MakeGate, upstream: StubUpstream) -> None:
    entries = [
        {"target-url": "https://api.openai.com", "onCodes": [429]},
        {"target-url": "https://api.openai.com", "onCodes": [429]},
    ]
    upstream.script = [failing(500)]

    exchange = await call(
        make_gate(), CHAT, key="sk-own", headers={"Helicone-Fallbacks": json.dumps(entries)}
    )

    assert exchange.status == 500
    assert len(upstream.requests) == 1


async def test_a_gateway_key_in_an_entry_is_not_sent_anywhere(
    gate: Any, upstream: StubUpstream
) -> None:
    entry = {
        "target-url": "https://api.openai.com",
        "headers": {"Authorization": "Bearer lg_app"},
        "onCodes": [500],
    }

    exchange = await call(gate, CHAT, key="lg_app", headers=chain(entry))

    assert exchange.status == 200
    assert keys(upstream) == ["sk-openai"]


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ([{"provider": "nobody", "model": "x"}], "entry 1"),
        ([GROQ, {"provider": "groq"}], "entry 2"),
        ([GROQ, {"provider": "groq", "model": "x", "extra": 1}], "entry 2"),
        ([{"target-url": "https://evil.example", "onCodes": [500]}], "entry 1"),
        ([{"target-url": "http://api.openai.com", "onCodes": [500]}], "entry 1"),
        ([{"target-url": "https://api.openai.com", "onCodes": ["all"]}], "entry 1"),
        (
            [{"target-url": "https://api.openai.com", "bodyKeyOverride": {"stream": True}}],
            "entry 1",
        ),
        ([GROQ, {"target-url": "https://api.openai.com"}], "entry 2"),
    ],
    ids=[
        "provider",
        "no-model",
        "field",
        "host",
        "http",
        "codes",
        "override",
        "mixed",
    ],
)
async def test_a_wrong_chain_is_a_400_that_names_the_entry(
    gate: Any, upstream: StubUpstream, entries: Sequence[object], named: str
) -> None:
    exchange = await call(gate, CHAT, key="lg_app", headers=chain(*entries))

    assert exchange.status == 400
    assert named in exchange.json()["error"]["message"]
    assert upstream.requests == []


async def test_several_keys_of_a_provider_take_turns_at_once(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_keys": "sk-1,sk-2,sk-3"}})
    upstream.script = [failing(429, retry_after="30"), failing(503)]

    exchange = await call(gate, CHAT, key="lg_app")

    assert exchange.status == 200
    assert sorted(keys(upstream)) == ["sk-1", "sk-2", "sk-3"]
    assert len({attempt.key_id for attempt in log.records[0].attempts}) == 3
    assert "llmgate-fallback-index" not in exchange.headers


async def test_a_key_that_must_wait_is_passed_over(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_keys": "sk-1,sk-2"}})
    upstream.script = [failing(429, retry_after="30")]
    await call(gate, CHAT, key="lg_app")
    limited, other = keys(upstream)

    for _ in range(10):
        await call(gate, CHAT, key="lg_app")

    assert limited not in keys(upstream)[2:]
    assert set(keys(upstream)[2:]) == {other}


async def test_a_key_near_its_limit_is_passed_over_before_it_fails(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_keys": "sk-1,sk-2"}})
    limits = [
        (b"x-ratelimit-limit-requests", b"100"),
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"x-ratelimit-reset-requests", b"6m0s"),
    ]
    upstream.script = [Reply(headers=[*JSON, *limits])]
    await call(gate, CHAT, key="lg_app")

    for _ in range(10):
        await call(gate, CHAT, key="lg_app")

    assert keys(upstream)[0] not in keys(upstream)[1:]


@pytest.mark.parametrize("why", ["near_limit", "key_out"])
async def test_a_target_without_a_good_key_makes_way_for_the_next(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink, why: str
) -> None:
    gate = make_gate(keys="app:lg_app", providers=POOLED)
    limits = [
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]
    first = Reply(headers=[*JSON, *limits]) if why == "near_limit" else failing(401)
    upstream.script = [first]
    await call(gate, CHAT, key="lg_app", headers=chain(GROQ))
    del upstream.requests[:]
    second = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))
    # Where the other one fails, it is asked all the same.
    upstream.script = [failing(500)]
    third = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert second.headers["llmgate-fallback-index"] == "1"
    assert third.headers["llmgate-fallback-index"] == "0"
    assert hosts(upstream) == ["api.groq.com", "api.groq.com", "api.openai.com"]
    assert reasons(log.records[1]) == [("openai", None, why), ("groq", 200, None)]
    assert log.records[1].attempts[0].key_id == "default"


async def test_a_refused_key_is_taken_out_loudly(
    make_gate: MakeGate, upstream: StubUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_keys": "sk-1,sk-2"}})
    upstream.script = [failing(401)]

    first = await call(gate, CHAT, key="lg_app")
    for _ in range(10):
        await call(gate, CHAT, key="lg_app")

    assert first.status == 200
    assert keys(upstream)[0] not in keys(upstream)[1:]
    assert any("refused the key" in record.message for record in caplog.records)
    assert "sk-" not in caplog.text


async def test_a_sole_key_that_is_refused_is_told_as_loudly(
    make_gate: MakeGate, upstream: StubUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    gate = make_gate(keys="app:lg_app", providers={"openai": {"api_key": "sk-1"}})
    upstream.script = [failing(403)]

    assert (await call(gate, CHAT, key="lg_app")).status == 502
    counted = gate.metrics.render().decode()
    await gate.aclose()

    assert 'llmgate_keys_refused_total{provider="openai"} 1' in counted
    assert "(status 403)" in caplog.text


async def test_an_exhausted_quota_is_not_retried_but_falls_back(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    quota = (
        b'{"error":{"message":"no money","type":"insufficient_quota","code":"insufficient_quota"}}'
    )
    upstream.script = [failing(429, quota), Reply()]
    headers = chain(GROQ) | {"LLMGate-Retry-Enabled": "true"}

    exchange = await call(gate, CHAT, key="lg_app", headers=headers)

    assert exchange.status == 200
    assert hosts(upstream) == ["api.openai.com", "api.groq.com"]
    assert reasons(log.records[0])[0] == ("openai", 429, "quota")


async def test_the_same_target_is_asked_again_only_where_that_is_asked(
    gate: Any, upstream: StubUpstream
) -> None:
    upstream.script = [failing(503)]
    plain = await call(gate, CHAT, key="lg_app")
    upstream.script = [failing(503), failing(502)]
    headers = {"Helicone-Retry-Enabled": "true", "Helicone-Retry-Min-Timeout": "1"}

    retried = await call(gate, CHAT, key="lg_app", headers=headers)

    assert plain.status == 503
    assert "x-should-retry" not in plain.headers
    assert retried.status == 200
    assert retried.headers["llmgate-attempts"] == "3"
    assert len(upstream.requests) == 4


async def test_retries_end_when_their_number_is_spent(gate: Any, upstream: StubUpstream) -> None:
    upstream.script = [failing(503)] * 5
    headers = {
        "LLMGate-Retry-Enabled": "true",
        "LLMGate-Retry-Num": "2",
        "LLMGate-Retry-Min-Timeout": "1",
    }

    exchange = await call(gate, CHAT, key="lg_app", headers=headers)

    assert exchange.status == 503
    assert len(upstream.requests) == 2
    assert exchange.headers["x-should-retry"] == "false"


async def test_a_provider_that_says_not_to_retry_is_obeyed(
    gate: Any, upstream: StubUpstream
) -> None:
    upstream.script = [failing(503, x_should_retry="false")]
    headers = {"LLMGate-Retry-Enabled": "true", "LLMGate-Retry-Min-Timeout": "1"}

    exchange = await call(gate, CHAT, key="lg_app", headers=headers)

    assert exchange.status == 503
    assert len(upstream.requests) == 1


async def test_a_wait_longer_than_allowed_is_not_waited_for(
    gate: Any, upstream: StubUpstream
) -> None:
    upstream.script = [failing(429, retry_after="60")]

    exchange = await call(gate, CHAT, key="lg_app", headers={"LLMGate-Retry-Enabled": "true"})

    assert exchange.status == 429
    assert len(upstream.requests) == 1


async def test_a_stream_that_fails_before_its_content_is_replaced(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    good = wire.chat_events("llama-3.3-70b")
    role_only = wire.chat_events("gpt-4o")[:1]
    upstream.script = [
        Reply([*role_only, UpstreamBrokenError()], headers=SSE),
        Reply(good, headers=SSE),
    ]

    exchange = await call(gate, STREAM, key="lg_app", headers=chain(GROQ))

    assert b"gpt-4o" not in exchange.body
    assert exchange.body.rstrip().endswith(b"[DONE]")
    assert b"error" not in exchange.body
    [record] = log.records
    assert reasons(record) == [("openai", 200, "stream_error"), ("groq", 200, None)]
    assert record.complete
    assert record.error_code is None


async def test_an_error_event_before_the_content_is_replaced(
    gate: Any, upstream: StubUpstream
) -> None:
    error = b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'
    upstream.script = [
        Reply([error], headers=SSE),
        Reply(wire.chat_events("llama-3.3-70b"), headers=SSE),
    ]

    exchange = await call(gate, STREAM, key="lg_app", headers=chain(GROQ))

    assert b"overloaded" not in exchange.body
    assert len(upstream.requests) == 2


async def test_a_stream_that_stalls_before_its_content_is_replaced(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    gate = make_gate(keys="app:lg_app", providers=POOLED, fallback={"first_content": 0.05})
    stalled = Reply([*wire.chat_events("gpt-4o")[:1], asyncio.Event()], headers=SSE)
    upstream.script = [stalled, Reply(wire.chat_events("llama-3.3-70b"), headers=SSE)]

    exchange = await call(gate, STREAM, key="lg_app", headers=chain(GROQ))

    assert exchange.body.rstrip().endswith(b"[DONE]")
    assert stalled.closed
    assert reasons(log.records[0])[0] == ("openai", 200, "stalled")


async def test_after_the_first_content_only_the_error_event_follows(
    gate: Any, upstream: StubUpstream
) -> None:
    events = wire.chat_events("gpt-4o")
    upstream.script = [Reply([*events[:3], UpstreamBrokenError()], headers=SSE)]

    exchange = await call(gate, STREAM, key="lg_app", headers=chain(GROQ))

    assert len(upstream.requests) == 1
    assert b'"code":"upstream_connect"' in exchange.chunks[-1]


async def test_a_stream_reaches_the_caller_chunk_by_chunk(
    gate: Any, upstream: StubUpstream
) -> None:
    events = wire.chat_events("gpt-4o")
    waiting = asyncio.Event()
    upstream.script = [Reply([*events[:3], waiting, *events[3:]], headers=SSE)]
    seen: list[bytes] = []

    def look(message: Any) -> None:
        seen.append(message.get("body", b""))
        if len(b"".join(seen)) >= len(b"".join(events[:3])):
            waiting.set()  # The rest is only sent once the first part has arrived.

    exchange = await call(gate, STREAM, key="lg_app", headers=chain(GROQ), on_message=look)

    assert exchange.body == b"".join(events)


async def test_a_provider_that_keeps_failing_is_left_alone_for_a_while(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [failing(500)] * 5
    for _ in range(5):
        await call(gate, CHAT, key="lg_app")

    elsewhere = await call(gate, CHAT, key="lg_app", headers=chain(GROQ))

    assert elsewhere.status == 200
    assert reasons(log.records[-1])[0] == ("openai", None, "breaker_open")
    assert len(upstream.requests) == 6


async def test_a_call_that_nobody_takes_is_recorded_with_what_was_asked(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    mini = {"provider": "openai", "model": "gpt-4o-mini"}
    upstream.script = [failing(500)] * 10
    for _ in range(5):
        await call(gate, STREAM, key="lg_app", headers=chain(mini))

    refused = await call(gate, STREAM, key="lg_app", headers=chain(mini))

    assert refused.status == 503
    assert 1 <= int(refused.headers["retry-after"]) <= 6
    record = log.records[-1]
    assert (record.model_requested, record.is_stream, record.error_code) == (
        CHAT["model"],
        True,
        "overloaded",
    )


async def test_a_sole_target_is_called_although_it_keeps_failing(
    gate: Any, upstream: StubUpstream
) -> None:
    upstream.script = [failing(500)] * 6
    answers = [await call(gate, CHAT, key="lg_app") for _ in range(7)]

    assert [answer.status for answer in answers] == [500] * 6 + [200]
    assert len(upstream.requests) == 7


async def test_one_callers_bad_luck_with_his_own_key_is_not_another_ones(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate()
    upstream.script = [failing(500)] * 5
    for _ in range(5):
        await call(gate, CHAT, key="sk-unlucky")

    own = await call(gate, CHAT, key="sk-unlucky", headers=chain(GROQ))
    other = await call(gate, CHAT, key="sk-other", headers=chain(GROQ))

    assert (own.status, other.status) == (503, 200)
    assert own.json()["error"]["code"] == "overloaded"
    assert 1 <= int(own.headers["retry-after"]) <= 6


async def test_failures_of_one_upstream_do_not_multiply_its_calls(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(
        keys="app:lg_app",
        providers={"openai": {"api_keys": "sk-1,sk-2,sk-3"}},
        breaker={"failures": 1000, "least_calls": 1000},
    )
    upstream.script = [failing(503)] * 1000

    async with asyncio.timeout(20):
        for _ in range(100):
            await call(gate, CHAT, key="lg_app")

    # 100 calls, a fifth of them again, and ten per begun second.
    assert len(upstream.requests) <= 120 + 10 * 3


async def test_a_caller_who_leaves_during_a_pause_ends_the_call(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [failing(503, retry_after="8")]

    await call(gate, CHAT, key="lg_app", headers={"LLMGate-Retry-Enabled": "true"}, leave_after=0)

    assert len(upstream.requests) == 1
    assert log.records[0].client_left


async def test_pauses_fit_into_the_time_that_was_given(gate: Any, upstream: StubUpstream) -> None:
    upstream.script = [failing(503, retry_after="5")]
    headers = {"LLMGate-Retry-Enabled": "true", "LLMGate-Timeout-Ms": "3000"}

    exchange = await call(gate, CHAT, key="lg_app", headers=headers)

    assert exchange.status == 503
    assert len(upstream.requests) == 1


async def test_a_filtered_answer_goes_on_only_where_that_is_wanted(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    filtered = json.loads(wire.chat_body("gpt-4o"))
    filtered["choices"][0]["finish_reason"] = "content_filter"
    body = json.dumps(filtered).encode()
    upstream.script = [Reply([body]), Reply([body])]

    plain = await call(
        make_gate(keys="app:lg_app", providers=POOLED), CHAT, key="lg_app", headers=chain(GROQ)
    )
    wanted = await call(
        make_gate(keys="app:lg_app", providers=POOLED, fallback={"on": "content_filter,500-599"}),
        CHAT,
        key="lg_app",
        headers=chain(GROQ),
    )

    assert plain.json()["choices"][0]["finish_reason"] == "content_filter"
    assert wanted.json()["choices"][0]["finish_reason"] == "stop"


async def test_images_are_not_sent_to_who_cannot_see(
    make_gate: MakeGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    gate = make_gate(
        keys="app:lg_app",
        providers=POOLED,
        models={"eyes": {"targets": [{"target": "groq/llama-3.3-70b", "images": False}, "gpt-4o"]}},
    )
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    body = {"model": "eyes", "messages": [{"role": "user", "content": [image]}]}

    exchange = await call(gate, body, key="lg_app")

    assert exchange.status == 200
    assert models(upstream) == ["gpt-4o"]
    assert reasons(log.records[0])[0] == ("groq", None, "images")


async def test_a_weighted_alias_reaches_all_of_its_targets(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(
        keys="app:lg_app",
        providers=POOLED,
        models={
            "mix": {
                "targets": [{"target": "gpt-4o", "weight": 1}, {"target": "groq/x", "weight": 1}],
                "strategy": "weighted",
            }
        },
    )

    for _ in range(60):
        await call(gate, {**CHAT, "model": "mix"}, key="lg_app")

    assert 10 < models(upstream).count("gpt-4o") < 50


async def test_the_cheapest_target_is_asked_first(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    prices = {"gpt-4o": 9, "x": 3}
    gate = make_gate(
        keys="app:lg_app",
        providers=POOLED,
        models={"cheap": {"targets": ["gpt-4o", "groq/x"], "strategy": "cost"}},
        price=lambda provider, model, usage: prices.get(model),
    )

    await call(gate, {**CHAT, "model": "cheap"}, key="lg_app")

    assert models(upstream) == ["x"]


async def test_a_provider_that_wants_signatures_can_be_the_next(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    aws = {"region": "eu-central-1", "access_key_id": "AKID", "secret_access_key": "secret"}
    gate = make_gate(keys="app:lg_app", providers=POOLED, aws=aws)
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
    }
    upstream.script = [failing(503), Reply([json.dumps(answer).encode()])]
    bedrock = {"provider": "amazon-bedrock", "model": "anthropic.claude-sonnet-4-5-20250929-v1:0"}

    exchange = await call(gate, CHAT, key="lg_app", headers=chain(bedrock))

    assert exchange.status == 200
    assert exchange.json()["choices"][0]["message"]["content"] == "Hello"
    assert (upstream.header("authorization") or "").startswith("AWS4-HMAC-SHA256")
