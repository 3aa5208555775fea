"""Many who ask the same at once, and one of them in trouble."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.protocols import CacheRead, CacheStore
from tests import wire
from tests.asgi import CHAT, call
from tests.cache.model import Model
from tests.cache.test_cache_middleware import cached, status


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_call_that_hangs_releases_those_who_wait_for_it(
    model: Model, store: CacheStore, stream: bool
) -> None:
    app = cached(model, store, wait_s=0.2)
    gate, began = asyncio.Event(), asyncio.Event()
    calls = 0

    async def first_hangs(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            began.set()
            await gate.wait()
        else:
            # All others are here before it answers.
            while sum(len(running.flight._places) for running in app.flights.values()) < 20:
                await asyncio.sleep(0)
        await model(scope, receive, send)

    app.app = first_hangs
    request = {**CHAT, "stream": stream}
    first = asyncio.create_task(call(app, request))
    await began.wait()
    others = await asyncio.gather(*(call(app, request) for _ in range(20)))

    assert not first.done()
    assert all(wire.WORDS[0].encode() in other.body for other in others)
    assert calls == 2
    gate.set()
    assert (await first).body == others[0].body
    assert {status(other) for other in others} == {"MISS"}


async def test_a_call_that_ends_while_the_store_is_asked_is_not_made_again(model: Model) -> None:
    read, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryCacheStore):
        async def read(self, *args: Any, **kwargs: Any) -> CacheRead:
            found = await super().read(*args, **kwargs)
            if model.calls:
                read.set()
                await go_on.wait()
            return found

    app = cached(model, Slow())
    gate, began = asyncio.Event(), asyncio.Event()
    model.script = [(200, [gate, wire.chat_body("gpt-4o")], b"application/json")]
    model.on_call = began.set
    first = asyncio.create_task(call(app, CHAT))
    await began.wait()
    second = asyncio.create_task(call(app, CHAT))
    await read.wait()
    gate.set()
    await first
    go_on.set()

    assert (await second).body == (await first).body
    assert len(model.calls) == 1


async def test_a_call_that_has_begun_is_waited_for(model: Model, store: CacheStore) -> None:
    """Slow is not the same as hanging: what has sent something is not given up."""
    app = cached(model, store, wait_s=0.1)
    gate, began = asyncio.Event(), asyncio.Event()
    events = wire.chat_events("gpt-4o")
    model.script = [(200, [events[0], gate, *events[1:]], b"text/event-stream")]
    model.on_call = began.set
    request = {**CHAT, "stream": True}
    first = asyncio.create_task(call(app, request))
    await began.wait()
    second = asyncio.create_task(call(app, request))
    done, _ = await asyncio.wait([second], timeout=0.3)

    assert not done
    gate.set()
    assert (await first).body == (await second).body
    assert len(model.calls) == 1
