"""No sequence of events makes the cache tell a lie: a state machine over real stores.

Every answer names the version of the data it was made from, the tenant and the prompt's epoch. An
answer is wrong if it names another tenant or epoch, or a version older than the last one whose
invalidation was acknowledged before the question was asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from starlette.types import Receive, Scope, Send

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
from asgi_llmgate.cache import Cache
from asgi_llmgate.context import SCOPE_KEY, GatewayContext
from asgi_llmgate.core.cache_plan import CachePolicy
from asgi_llmgate.core.routes import find_route
from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.protocols import CacheRead, CacheStore
from asgi_llmgate.types import Principal, PrincipalKind
from tests import wire
from tests.asgi import CHAT, call

TAGS = ("kb:a", "kb:b")
TENANTS = ("acme", "umbrella")


class Losable:
    """A store that may be lost for a while, and come back with or without what it held."""

    is_shared = True

    def __init__(self, inner: CacheStore) -> None:
        self.inner = inner
        self.is_lost = False

    def __getattr__(self, name: str) -> Any:
        if self.is_lost and name != "aclose":
            raise BackendError("lost")
        return getattr(self.inner, name)

    async def read(self, *args: Any, **kwargs: Any) -> CacheRead:
        if self.is_lost:
            raise BackendError("lost")
        return await self.inner.read(*args, **kwargs)


class World:
    """The truth: versions of the data, the epoch of the prompt; and a model that tells them."""

    def __init__(self) -> None:
        self.versions = dict.fromkeys(TAGS, 0)
        self.epoch = 0
        self.calls = 0
        self.before_answer: asyncio.Event | None = None
        self.crashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: GatewayContext = scope[SCOPE_KEY]
        request = await context.body.json()
        assert context.principal is not None
        self.calls += 1
        told = [self.versions[tag] for tag in TAGS]
        text = json.dumps([context.principal.tenant, context.prompt_epoch, told])
        if self.before_answer is not None:
            await self.before_answer.wait()
        answer = wire.answer_to(scope["path"], request)
        parts = answer if isinstance(answer, list) else [answer]
        kind = b"text/event-stream" if isinstance(answer, list) else b"application/json"
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        quoted = json.dumps(text)[1:-1].encode()
        for number, part in enumerate(parts):
            if self.crashes and number == len(parts) - 1:
                raise RuntimeError("the worker dies")
            part = part.replace(b"three.", quoted)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Worker:
    """One process: its own middleware, over a store that it shares."""

    def __init__(self, world: World, store: Any) -> None:
        self.cache = CacheMiddleware(world, store=store, policy=CachePolicy(soft_ttl_s=None))
        self.world = world

    async def ask(self, tenant: str, *, stream: bool, question: int) -> Any:
        """Return tenant, epoch and versions that the answer names; None if there is none."""
        epoch = self.world.epoch

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            route = find_route("POST", scope["path"])
            assert route is not None
            context = scope[SCOPE_KEY] = GatewayContext(scope, receive, route)
            context.principal = Principal(tenant, PrincipalKind.KEY, "k")
            context.prompt_digest, context.prompt_epoch = "d", epoch
            await self.cache(scope, receive, send)

        body = {**CHAT, "stream": stream, "stream_options": {"include_usage": True}}
        headers = {"llmgate-cache-tags": ",".join(TAGS)}
        exchange = await call(app, body | {"seed": question}, headers=headers)
        body_text = exchange.body
        start = body_text.index(b'[\\"')
        told = body_text[start : body_text.index(b"]]", start) + 2].replace(b'\\"', b'"')
        return json.loads(told), epoch


class Machine(RuleBasedStateMachine):
    kind = "memory"

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World()
        # Two connections to one file are two processes, as far as SQLite can tell.
        if self.kind == "memory":
            shared = MemoryCacheStore()
            self.stores = [Losable(shared), Losable(shared)]
        else:
            folder = Path(self.folder.name)
            self.stores = [Losable(SqliteCacheStore(folder)) for _ in range(2)]
        self.workers = [Worker(self.world, store) for store in self.stores]
        self.acknowledged = dict.fromkeys(TAGS, 0)

    def check(self, answer: Any, tenant: str, known: dict[str, int]) -> None:
        (told_tenant, told_epoch, versions), epoch = answer
        assert told_tenant == tenant
        assert told_epoch == epoch
        for tag, version in zip(TAGS, versions, strict=True):
            assert version >= known[tag], f"stale: {tag} is {version}, not {known[tag]}"

    @rule(
        worker=st.integers(0, 1),
        tenant=st.sampled_from(TENANTS),
        stream=st.booleans(),
        question=st.integers(0, 1),
    )
    def ask(self, worker: int, tenant: str, stream: bool, question: int) -> None:
        known = dict(self.acknowledged)
        asked = self.workers[worker].ask(tenant, stream=stream, question=question)
        self.check(self.loop.run_until_complete(asked), tenant, known)

    @rule(tag=st.sampled_from(TAGS), worker=st.integers(0, 1))
    def change(self, tag: str, worker: int) -> None:
        self.loop.run_until_complete(self.changed(tag, worker))

    async def changed(self, tag: str, worker: int) -> None:
        store = self.stores[worker]
        self.world.versions[tag] += 1
        version = self.world.versions[tag]
        cache = Cache(lambda: store, lambda: b"s" * 32)
        try:
            await cache.invalidate(tag)
        except BackendError:
            return  # Not acknowledged.
        self.acknowledged[tag] = version

    @rule(tag=st.sampled_from(TAGS), workers=st.tuples(st.integers(0, 1), st.integers(0, 1)))
    def change_while_it_is_asked(self, tag: str, workers: tuple[int, int]) -> None:
        async def play() -> None:
            self.world.before_answer = gate = asyncio.Event()
            known = dict(self.acknowledged)
            calls = self.world.calls
            first = asyncio.create_task(self.workers[0].ask("acme", stream=False, question=0))
            while not first.done() and self.world.calls == calls:
                await asyncio.sleep(0)
            await self.changed(tag, workers[0])
            later = dict(self.acknowledged)
            second = asyncio.create_task(
                self.workers[workers[1]].ask("acme", stream=True, question=0)
            )
            await asyncio.sleep(0)
            gate.set()
            self.world.before_answer = None
            self.check(await first, "acme", known)
            self.check(await second, "acme", later)

        self.loop.run_until_complete(play())

    @rule()
    def roll_back_the_prompt(self) -> None:
        self.world.epoch += 1

    @rule(worker=st.integers(0, 1))
    def crash(self, worker: int) -> None:
        """A worker dies in the middle of an answer and is started again."""
        self.world.crashes = True
        with pytest.raises(RuntimeError):
            self.loop.run_until_complete(self.workers[worker].ask("acme", stream=True, question=99))
        self.world.crashes = False
        self.workers[worker] = Worker(self.world, self.stores[worker])

    @rule(worker=st.integers(0, 1), is_lost=st.booleans())
    def lose_the_store(self, worker: int, is_lost: bool) -> None:
        self.stores[worker].is_lost = is_lost

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for store in self.stores:
            self.loop.run_until_complete(store.inner.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()


class SqliteMachine(Machine):
    kind = "sqlite"


def run(machine: type[Machine], steps: int) -> None:
    per_example = 50
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=steps // per_example,
            stateful_step_count=per_example,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="CI" in os.environ,
        ),
    )


@pytest.mark.parametrize("machine", [Machine, SqliteMachine], ids=["memory", "sqlite"])
def test_nothing_stale_and_nothing_foreign_in_a_thousand_steps(machine: type[Machine]) -> None:
    run(machine, 1000)


@pytest.mark.soak
@pytest.mark.parametrize("machine", [Machine, SqliteMachine], ids=["memory", "sqlite"])
def test_nothing_stale_and_nothing_foreign_in_fifty_thousand_steps(
    machine: type[Machine],
) -> None:
    run(machine, 50_000)
