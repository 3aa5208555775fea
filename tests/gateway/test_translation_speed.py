"""What translation adds to a call and to an event of a stream, through dispatch, in CPU time.

Compared with the same gateway relaying the same answer to a caller of the same dialect. Budgets of
issue 4. `scripts/test -m bench`.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.gateway import LLMGate
from tests import wire
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import SSE, Reply, StubUpstream

pytestmark = pytest.mark.bench

CALL_BUDGET_US = 150.0
EVENT_BUDGET_US = 25.0
EVENTS = 200

PROVIDERS = {
    "chatty": {"formats": {"openai-chat": "https://chat.example/v1"}, "stream_usage": True},
    "claudish": {"formats": {"anthropic-messages": "https://claude.example/v1"}},
}
HEADERS = {"authorization": "Bearer sk-x"}
MESSAGE = {"max_tokens": 99, "messages": CHAT["messages"]}


async def cpu_us(
    gate: LLMGate, upstream: StubUpstream, reply: Reply, rounds: int, **request: Any
) -> float:
    """Return microseconds of CPU per call, the best of seven rounds."""
    best = float("inf")
    for _ in range(7):
        upstream.script = [reply] * rounds
        before = time.process_time()
        for _ in range(rounds):
            exchange = await call(gate, headers=HEADERS, **request)
        best = min(best, (time.process_time() - before) / rounds * 1e6)
        upstream.requests.clear()
        upstream.bodies.clear()
    assert exchange.status == 200
    return best


@pytest.mark.parametrize("is_stream", [False, True], ids=["call", "event"])
@pytest.mark.parametrize("source", ["openai-chat", "anthropic-messages"])
async def test_translation_is_cheap(
    make_gate: MakeGate,
    upstream: StubUpstream,
    log: MemoryLogSink,
    source: str,
    is_stream: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate = make_gate(providers=PROVIDERS)
    words = [f"word{number} " for number in range(EVENTS)]
    chat_stream = wire.chat_events("gpt-4o", words=words, usage=True)
    text = wire.loads(wire.message_events("c")[3].partition(b"data: ")[2])
    message_stream = wire.message_events("c")
    message_stream[3:6] = [
        wire.named_event(text | {"delta": {"type": "text_delta", "text": word}}) for word in words
    ]
    replies = {
        "chatty": Reply(chat_stream, headers=SSE) if is_stream else Reply(),
        "claudish": Reply(message_stream, headers=SSE)
        if is_stream
        else Reply([wire.message_body("c")]),
    }
    home, other = ("chatty", "claudish") if source == "openai-chat" else ("claudish", "chatty")
    path = "/v1/chat/completions" if source == "openai-chat" else "/v1/messages"
    ask = {**(CHAT if source == "openai-chat" else MESSAGE), "stream": is_stream}
    rounds = 10 if is_stream else 200
    spent = {
        name: await cpu_us(
            gate, upstream, replies[name], rounds, body=ask | {"model": f"{name}/m"}, path=path
        )
        for name in (home, other)
    }
    added = (spent[other] - spent[home]) / (EVENTS if is_stream else 1)
    budget = EVENT_BUDGET_US if is_stream else CALL_BUDGET_US
    kind = "event" if is_stream else "call"
    with capsys.disabled():
        print(f"\n{source} to {other}: {added:.1f} µs more per {kind} than relayed")

    assert added < budget
