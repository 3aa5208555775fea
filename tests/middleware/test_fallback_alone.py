"""The middleware around an endpoint that knows nothing of us."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from asgi_llmgate.core.retry import RetryPolicy
from asgi_llmgate.middleware.fallback import FallbackMiddleware
from tests import wire
from tests.asgi import CHAT, call


@dataclass
class FakeModel:
    """Answers with the next status of `script`, then with 200; streams if it is asked to."""

    script: list[int] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        declared = dict(scope["headers"])[b"content-length"]
        assert int(declared) == len(message["body"])
        request = json.loads(message["body"])
        self.requests.append(request)
        status = self.script.pop(0) if self.script else 200
        if status >= 400:
            kind, chunks = b"application/json", [b'{"error":{"message":"no"}}']
        elif request.get("stream"):
            kind, chunks = b"text/event-stream", wire.chat_events(request["model"])
        else:
            kind, chunks = b"application/json", [wire.chat_body(request["model"])]
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    @property
    def models(self) -> list[str]:
        return [request["model"] for request in self.requests]


def sleeps(taken: list[float]) -> Callable[[float], Awaitable[None]]:
    async def sleep(seconds: float) -> None:
        taken.append(seconds)

    return sleep


async def test_a_failing_model_is_replaced_by_the_next() -> None:
    model = FakeModel([503, 503])
    app = FallbackMiddleware(model, models=["big", "middle", "small"])

    exchange = await call(app)

    assert exchange.status == 200
    assert model.models == ["big", "middle", "small"]
    assert exchange.json()["model"] == "small"


async def test_each_model_is_asked_as_often_as_the_policy_says() -> None:
    model, taken = FakeModel([503, 503]), list[float]()
    app = FallbackMiddleware(
        model,
        models=["big", "small"],
        retry=RetryPolicy(attempts=2, min_s=0.25),
        sleep=sleeps(taken),
        roll=lambda: 0.999,
    )

    exchange = await call(app)

    assert exchange.status == 200
    assert model.models == ["big", "big", "small"]
    assert [round(seconds, 2) for seconds in taken] == [0.25]


async def test_a_comma_list_in_the_body_is_tried_in_order() -> None:
    model = FakeModel([500])

    exchange = await call(FallbackMiddleware(model), {**CHAT, "model": "a, b"})

    assert exchange.status == 200
    assert model.models == ["a", "b"]


async def test_fallbacks_of_the_header_follow_the_requests_own_model() -> None:
    model = FakeModel([429])
    headers = {"LLMGate-Fallbacks": '[{"provider": "any", "model": "b"}, "c"]'}

    await call(FallbackMiddleware(model), {**CHAT, "model": "a"}, headers=headers)

    assert model.models == ["a", "b"]


async def test_a_stream_goes_through_as_it_comes() -> None:
    model = FakeModel([503])
    app = FallbackMiddleware(model, models=["big", "small"])

    exchange = await call(app, {**CHAT, "stream": True})

    assert exchange.body == b"".join(wire.chat_events("small"))
    assert len(exchange.chunks) > 3


async def test_the_last_answer_is_given_when_all_fail() -> None:
    exchange = await call(FallbackMiddleware(FakeModel([500, 503]), models=["big", "small"]))

    assert exchange.status == 503
    assert exchange.headers["x-should-retry"] == "false"


async def test_a_plain_request_is_passed_on_as_it_is() -> None:
    model = FakeModel([503])

    exchange = await call(FallbackMiddleware(model))

    assert exchange.status == 503
    assert model.requests == [CHAT]
    assert "x-should-retry" not in exchange.headers


async def test_other_paths_are_nobodys_business() -> None:
    model = FakeModel([503])

    exchange = await call(FallbackMiddleware(model, models=["big", "small"]), path="/other")

    assert exchange.status == 503
    assert len(model.requests) == 1
