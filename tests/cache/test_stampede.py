"""Many who ask the same at once, and one of them in trouble."""

from __future__ import annotations

import asyncio

import pytest

from asgi_llmgate.protocols import CacheStore
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

    async def hanging(scope: object, receive: object, send: object) -> None:
        began.set()
        await gate.wait()

    calls = 0
    inner = app.app

    async def first_hangs(scope: object, receive: object, send: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await hanging(scope, receive, send)
        await inner(scope, receive, send)  # type: ignore[arg-type]  # as given

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
    assert {status(other) for other in others} <= {"MISS", "HIT"}


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
