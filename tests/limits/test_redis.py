"""Redis that is restricted, slow, frozen, killed, and back again. All of it real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from asgi_llmgate.backends.limits_redis import SLOT_NS, RedisMeters
from asgi_llmgate.backends.limits_shared import Grant, SharedLimitStore, Want
from asgi_llmgate.core.meters import Claim, Kind, Meter
from asgi_llmgate.core.purse import Posting
from asgi_llmgate.protocols import Taken
from tests.cache.redis_server import RedisServer
from tests.conftest import requires
from tests.lag import Lag, loop_lag
from tests.limits.conftest import take

pytestmark = requires("redis-server")

HOUR = 3600 * 10**9
USER, PASSWORD = "limits", "not-a-secret-of-anybody"
ACL = f"{USER} on >{PASSWORD} ~llmgate:* +@all -@scripting -@dangerous -@admin"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that a test may maltreat, whose user has few rights."""
    server = RedisServer(tmp_path, "--user", *ACL.split())
    yield server
    server.stop()


# A time limit of 100 ms is five slices that were on time; such a one may last 30 ms.
MOST_WAITED_S = 0.2


class Timed(NamedTuple):
    """A call, and how long it waited for the store, not for the processor."""

    taken: Taken
    was_down: bool
    is_awaited: bool
    waited_s: float


async def timed_take(store: SharedLimitStore, meter: Meter, lag: Lag) -> Timed:
    was_down, started_s, late_s = store.is_down, time.perf_counter(), lag.late_s
    answer = store.take([Claim(meter, 1, 1)])
    taken = answer if isinstance(answer, Taken) else await answer
    took_s, late_s = time.perf_counter() - started_s, lag.late_s - late_s
    # The store does not count a slice of 20 ms that ended 10 ms late or more, so that much
    # lateness lengthens its time limit by three times as much.
    return Timed(taken, was_down, not isinstance(answer, Taken), took_s - 3 * late_s)


def url(server: RedisServer) -> str:
    return server.url.replace("redis://", f"redis://{USER}:{PASSWORD}@")


async def test_a_user_without_scripts_and_dangerous_commands_is_enough(
    server: RedisServer,
) -> None:
    store = SharedLimitStore(RedisMeters.from_url(url(server)))
    rate = Meter("rate", Kind.RATE, 3, HOUR)
    ends_ns = time.time_ns() + HOUR
    budget = Meter("budget|b|now|ada", Kind.BUDGET, 100, ends_ns=ends_ns)
    taken = [await take(store, Claim(rate, 1, 1), Claim(budget, 10, 10)) for _ in range(4)]
    for one in taken[:3]:
        assert one.hold is not None
        store.settle(one.hold, [1, 5])
    spent = await store.spent("budget|b|")
    await store.reset_budget("budget|b|", "ada")
    keys = server.command("KEYS", "*")
    after_reset = await store.spent("")
    await store.aclose()

    assert [one.hold is not None for one in taken] == [True, True, True, False]
    assert spent == {"budget|b|now|ada": 15}
    assert after_reset == {}
    assert store.degraded == 0
    # Everything has an end, and is where the user may be.
    for line in keys.split(b"\r\n"):
        if line.startswith(b"llmgate:"):
            assert not server.command("TTL", line.decode()).startswith(b":-1")


async def test_a_frozen_redis_costs_100_ms_once_and_then_each_worker_has_its_share(
    server: RedisServer,
) -> None:
    counted: list[str] = []
    store = SharedLimitStore(
        RedisMeters.from_url(url(server)), workers=4, count=lambda name: counted.append(name)
    )
    meter = Meter("rate", Kind.RATE, 40, HOUR)
    await take(store, Claim(meter, 1, 1))
    server.freeze()
    async with loop_lag() as lag:
        first = await timed_take(store, meter, lag)
    others = [store.take([Claim(meter, 1, 1)]) for _ in range(20)]

    assert first.taken.hold is not None
    assert first.waited_s < MOST_WAITED_S
    # Nobody else has to wait at all.
    assert all(isinstance(one, Taken) for one in others)
    holds = [first.taken.hold, *(one.hold for one in others if isinstance(one, Taken))]
    assert sum(hold is not None for hold in holds) == 10
    assert counted == ["llmgate_limits_degraded_total"] * 21
    assert store.is_down
    server.thaw()
    while store.is_down:
        await asyncio.sleep(0.05)
    await store.aclose()


async def test_what_was_spent_while_it_was_dead_is_told_when_it_is_back(
    server: RedisServer,
) -> None:
    store = SharedLimitStore(RedisMeters.from_url(url(server)))
    budget = Meter("budget|b|now|ada", Kind.BUDGET, 100, ends_ns=time.time_ns() + HOUR)
    server.kill()
    taken = await take(store, Claim(budget, 30, 30))
    assert taken.hold is not None
    store.settle(taken.hold, [40])
    server.start()
    while store.is_down:
        await asyncio.sleep(0.05)
    spent = await store.spent("budget|b|")
    await store.aclose()

    assert spent == {"budget|b|now|ada": 40}


async def test_under_200_calls_a_second_no_call_fails_when_it_freezes_or_dies(
    server: RedisServer,
) -> None:
    store = SharedLimitStore(RedisMeters.from_url(url(server)))
    meter = Meter("rate", Kind.RATE, 10**6, 10 * 10**9 - 1)  # no leases: a round trip per call
    calls: list[Timed] = []

    async def one(lag: Lag) -> None:
        call = await timed_take(store, meter, lag)
        calls.append(call)
        assert call.taken.hold is not None
        store.settle(call.taken.hold, [1])

    async def load(count: int) -> None:
        async with loop_lag() as lag, asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one(lag))
                await asyncio.sleep(0.005)

    async def recover() -> None:
        while store.is_down:
            await load(20)

    await load(100)
    server.freeze()
    await load(200)
    frozen = store.is_down
    server.thaw()
    await recover()
    await load(100)
    server.kill()
    await load(200)
    dead = store.is_down
    server.start()
    await recover()
    await load(100)
    await store.aclose()

    assert (frozen, dead) == (True, True)
    assert len(calls) >= 700
    # Those who were on their way when it stopped waited, and only once; nobody else.
    assert max(call.waited_s for call in calls) < MOST_WAITED_S
    assert any(call.was_down for call in calls)
    assert not any(call.is_awaited for call in calls if call.was_down)


async def test_who_comes_while_others_wait_for_a_silent_store_does_not_wait_as_long_again(
    server: RedisServer,
) -> None:
    asked: list[Sequence[Want]] = []

    class Silent(RedisMeters):
        async def draw(self, wants: Sequence[Want]) -> list[Grant]:
            asked.append(wants)
            await asyncio.Event().wait()
            raise AssertionError

    meters = Silent.from_url(url(server))
    store = SharedLimitStore(meters)
    meter = Meter("rate", Kind.RATE, 10, HOUR)
    first = asyncio.ensure_future(take(store, Claim(meter, 1, 1)))
    while not asked:
        await asyncio.sleep(0)
    second = await take(store, Claim(meter, 1, 1))

    assert (await first).hold is not None
    assert second.hold is not None
    assert len(asked) == 1
    await store.aclose()


async def test_a_redis_that_lost_its_memory_keeps_nothing_for_ever_and_is_owed_nothing(
    server: RedisServer,
) -> None:
    meters = RedisMeters.from_url(url(server))
    rate, slots = Meter("rate", Kind.RATE, 10, HOUR), Meter("calls", Kind.CONCURRENT, 10)
    await meters.draw([Want(rate, 1, 8), Want(slots, 1, 8)])
    server.command("FLUSHALL")
    await meters.post([Posting(rate, 1, 7), Posting(slots, 0, 8)])
    keys = [line for line in server.command("KEYS", "llmgate:*").split(b"\r\n") if b":" in line]
    lives = [server.command("TTL", key.decode()) for key in keys if key.startswith(b"llmgate:")]
    grants = await meters.draw([Want(rate, 1, 11), Want(slots, 1, 11)])
    await meters.aclose()

    assert lives
    assert not [life for life in lives if life.startswith(b":-1")]
    assert [grant.amount for grant in grants] == [10, 10]


async def test_what_a_dead_worker_held_comes_back_and_a_living_one_keeps_it(
    server: RedisServer,
) -> None:
    now = [time.monotonic_ns()]

    def clock() -> int:
        return now[0]

    def meters() -> RedisMeters:
        made = RedisMeters.from_url(url(server))
        made._clock_ns = clock
        return made

    living, dead = meters(), meters()
    slots = Meter("calls", Kind.CONCURRENT, 2)
    for one in (living, dead):
        [grant] = await one.draw([Want(slots, 1, 1)])
        assert grant.amount == 1
    [refused] = await living.draw([Want(slots, 1, 1)])
    # The server's clock is not moved, so what each of them thinks it says is.
    offset_ns = living._offset_ns
    for _ in range(3):
        now[0] += SLOT_NS
        living._offset_ns = dead._offset_ns = offset_ns
        living._timed_at_ns = dead._timed_at_ns = now[0]
        await living.post([])
    [back] = await living.draw([Want(slots, 1, 1)])
    [full] = await living.draw([Want(slots, 1, 1)])
    for one in (living, dead):
        await one.aclose()

    assert (refused.amount, back.amount, full.amount) == (0, 1, 0)


async def test_times_are_the_servers_so_a_worker_with_a_wrong_clock_counts_in_the_same_window(
    server: RedisServer,
) -> None:
    right, wrong = RedisMeters.from_url(url(server)), RedisMeters.from_url(url(server))
    wrong._clock_ns = lambda: time.monotonic_ns() + 5 * 60 * 10**9
    meter = Meter("rate", Kind.RATE, 10, 60 * 10**9)
    grants = [
        (await one.draw([Want(meter, 1, 1)]))[0].amount for _ in range(10) for one in (right, wrong)
    ]
    for one in (right, wrong):
        await one.aclose()

    assert sum(grants) in (10, 11)  # 11 if the minute turned meanwhile
