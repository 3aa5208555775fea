from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.middleware.idempotency import IdempotencyMiddleware
from tests import wire
from tests.asgi import CHAT, Exchange, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import SSE, Reply, StubUpstream

KEY = {"Idempotency-Key": "order-7"}


@pytest.fixture
def gate(make_gate: MakeGate) -> Any:
    return make_gate(keys="a:lg_a,b:lg_b", providers={"openai": {"api_key": "sk-1"}})


async def test_a_hundred_at_once_are_one_call(gate: Any, upstream: StubUpstream) -> None:
    held = asyncio.Event()
    upstream.script = [Reply([held, wire.chat_body("gpt-4o")])]
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(call(gate, CHAT, key="lg_a", headers=KEY)) for _ in range(100)]
        while not upstream.requests:
            await asyncio.sleep(0)
        held.set()
    answers = [task.result() for task in calls]

    assert len(upstream.requests) == 1
    assert {answer.body for answer in answers} == {wire.chat_body("gpt-4o")}
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 99


async def test_a_later_one_gets_the_same_stream_and_costs_nothing(
    gate: Any, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [Reply(wire.chat_events("gpt-4o"), headers=SSE)]
    first = await call(gate, {**CHAT, "stream": True}, key="lg_a", headers=KEY)
    again = await call(gate, {**CHAT, "stream": True}, key="lg_a", headers=KEY)

    assert again.body == first.body
    assert len(upstream.requests) == 1
    one, other = log.records
    assert other.original_id == one.id
    assert other.cost_nanousd is None
    assert other.attempts == ()


async def test_another_body_is_a_422(gate: Any, upstream: StubUpstream) -> None:
    await call(gate, CHAT, key="lg_a", headers=KEY)

    answer = await call(gate, {**CHAT, "model": "gpt-4.1"}, key="lg_a", headers=KEY)

    assert answer.status == 422
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert len(upstream.requests) == 1


async def test_keys_belong_to_a_tenant(gate: Any, upstream: StubUpstream) -> None:
    await call(gate, CHAT, key="lg_a", headers=KEY)
    answer = await call(gate, {**CHAT, "model": "gpt-4.1"}, key="lg_b", headers=KEY)

    assert answer.status == 200
    assert len(upstream.requests) == 2


async def test_a_failure_is_not_kept(gate: Any, upstream: StubUpstream) -> None:
    upstream.script = [Reply([b"{}"], status=500)]
    failed = await call(gate, CHAT, key="lg_a", headers=KEY)
    answer = await call(gate, CHAT, key="lg_a", headers=KEY)

    assert (failed.status, answer.status) == (500, 200)


async def test_when_the_first_caller_leaves_the_next_one_calls(
    gate: Any, upstream: StubUpstream
) -> None:
    request = {**CHAT, "stream": True}
    events = wire.chat_events("gpt-4o")
    upstream.script = [
        Reply([*events[:2], asyncio.Event()], headers=SSE),
        Reply(events, headers=SSE),
    ]
    left = await call(gate, request, key="lg_a", headers=KEY, leave_after=2)
    answer = await call(gate, request, key="lg_a", headers=KEY)

    assert events[-1] not in left.body
    assert answer.body == b"".join(events)
    assert len(upstream.requests) == 2


async def test_who_waited_for_one_that_left_calls(gate: Any, upstream: StubUpstream) -> None:
    request = {**CHAT, "stream": True}
    events = wire.chat_events("gpt-4o")
    upstream.script = [
        Reply([*events[:2], asyncio.Event()], headers=SSE),
        Reply(events, headers=SSE),
    ]
    waiting: list[asyncio.Task[Exchange]] = []

    def begin(_: Any) -> None:
        if not waiting:
            waiting.append(asyncio.create_task(call(gate, request, key="lg_a", headers=KEY)))

    await call(gate, request, key="lg_a", headers=KEY, leave_after=2, on_message=begin)

    assert (await waiting[0]).body == b"".join(events)
    assert len(upstream.requests) == 2


async def test_after_ten_minutes_a_key_is_new() -> None:
    now_s = [0.0]
    calls = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(calls)})

    gate = IdempotencyMiddleware(app, clock=lambda: now_s[0])
    bodies = []
    for moment in (0, 599, 600):
        now_s[0] = moment
        bodies.append((await call(gate, CHAT, headers=KEY)).body)

    assert bodies == [b"1", b"1", b"2"]
