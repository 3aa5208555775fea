"""The application's own code calls models through its gateway, without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from asgi_llmgate import LLMGate, Principal, PrincipalKind
from asgi_llmgate.auth import HostRequestMiddleware, acting_as
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.context import ACTING
from tests import wire
from tests.asgi import call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import SSE, Reply, StubUpstream

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def who(request: HTTPConnection) -> Principal | None:
    user = request.headers.get("x-user")
    return Principal("shop", PrincipalKind.HOST, user, user_id=user) if user else None


@pytest.fixture
def gate(make_gate: MakeGate) -> LLMGate:
    pooled = {"api_key": "sk-pooled"}
    return make_gate(authenticate=who, providers={"openai": pooled, "anthropic": pooled})


async def test_an_sdk_calls_for_whom_the_host_answers(
    gate: LLMGate, log: MemoryLogSink, upstream: StubUpstream
) -> None:
    client = openai.AsyncOpenAI(api_key="-", http_client=gate.http_client())

    async def view(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert answer.choices[0].message.content == wire.TEXT
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    app = HostRequestMiddleware(view)
    await asyncio.gather(*(call(app, path="/ask", headers={"x-user": f"u{n}"}) for n in range(5)))
    await client.close()

    assert sorted(str(record.user_id) for record in log.records) == ["u0", "u1", "u2", "u3", "u4"]
    assert {(record.tenant, record.user_trust) for record in log.records} == {("shop", "verified")}
    assert upstream.header("authorization") == "Bearer sk-pooled"


async def test_outside_of_a_request_it_is_the_application_or_whom_it_acts_as(
    gate: LLMGate, log: MemoryLogSink
) -> None:
    async with anthropic.AsyncAnthropic(api_key="-", http_client=gate.http_client()) as client:
        for principal in (None, Principal("shop", PrincipalKind.HOST, "job", user_id="ada")):
            with acting_as(principal) if principal else acting_as(None):  # type: ignore[arg-type]  # nobody
                await client.messages.create(model="claude-x", max_tokens=9, messages=MESSAGES)

    assert [(record.tenant, record.user_id) for record in log.records] == [
        ("app", "svc:app"),
        ("shop", "ada"),
    ]


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_a_stream_arrives_piece_by_piece(
    gate: LLMGate, upstream: StubUpstream, library: Any
) -> None:
    first, *rest = wire.chat_events("gpt-4o")
    go_on = asyncio.Event()
    upstream.script = [Reply([first, go_on, *rest], headers=SSE)]
    body = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}
    async with (
        gate.http_client(library=library) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        pieces = answer.aiter_bytes()
        received = await anext(pieces)
        assert received == first
        go_on.set()
        received += b"".join([piece async for piece in pieces])

    assert received == b"".join([first, *rest])


async def test_who_leaves_a_stream_ends_it_upstream(
    gate: LLMGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    first, *_ = wire.chat_events("gpt-4o")
    reply = Reply([first, asyncio.Event()], headers=SSE)
    upstream.script = [reply]
    client = openai.AsyncOpenAI(api_key="-", http_client=gate.http_client())
    async with client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True
        )
        await anext(aiter(stream))
        await stream.close()

    assert reply.closed
    assert log.records[0].client_left


async def test_a_silent_provider_runs_into_the_timeout_of_the_client(
    gate: LLMGate, upstream: StubUpstream, log: MemoryLogSink
) -> None:
    upstream.script = [Reply([asyncio.Event()])]
    async with gate.http_client() as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(
                "/v1/chat/completions", json={"model": "gpt-4o", "messages": []}, timeout=0.05
            )

    assert log.records[0].client_left


async def test_refusals_are_those_of_the_gateway(gate: LLMGate) -> None:
    async with openai.AsyncOpenAI(api_key="-", http_client=gate.http_client()) as client:
        with pytest.raises(openai.BadRequestError, match="LLMGate-Usr-Id"):
            await client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, extra_headers={"LLMGate-Usr-Id": "x"}
            )


async def test_an_upload_is_passed_on(gate: LLMGate, upstream: StubUpstream) -> None:
    upstream.script = [Reply([b'{"text":"hi"}'])]
    async with openai.AsyncOpenAI(api_key="-", http_client=gate.http_client()) as client:
        await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF" * 9000))

    assert b"RIFF" * 9000 in upstream.bodies[0]


async def test_no_header_makes_a_stranger_a_caller_of_this_process(gate: LLMGate) -> None:
    exchange = await call(gate, headers={ACTING: "root", "llmgate-principal": "root"})

    assert exchange.status in (400, 401)
