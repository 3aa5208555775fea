"""Redis that is restricted, slow, frozen, killed, and back again. All of it real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_llmgate.backends.limits_redis import SLOT_NS, RedisMeters
from asgi_llmgate.backends.limits_shared import SharedLimitStore
from asgi_llmgate.core.meters import Claim, Kind, Meter
from asgi_llmgate.protocols import Taken
from tests.cache.redis_server import RedisServer
from tests.conftest import requires
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


def url(server: RedisServer) -> str:
    return server.url.replace("redis://", f"redis://{USER}:{PASSWORD}@")


async def all_of(store: SharedLimitStore, meter: Meter, count: int) -> list[Taken]:
    return [await take(store, Claim(meter, 1, 1)) for _ in range(count)]


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
    started = time.perf_counter()
    first = await take(store, Claim(meter, 1, 1))
    first_s = time.perf_counter() - started
    started = time.perf_counter()
    others = await all_of(store, meter, 20)
    others_s = time.perf_counter() - started

    assert first.hold is not None
    assert first_s < 0.2  # 0.1 and what the machine is busy with
    assert others_s < 0.05
    assert sum(one.hold is not None for one in [first, *others]) == 10
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
    took: list[float] = []

    async def one() -> None:
        started = time.perf_counter()
        taken = await take(store, Claim(meter, 1, 1))
        took.append(time.perf_counter() - started)
        assert taken.hold is not None
        store.settle(taken.hold, [1])

    async def load(seconds: float) -> None:
        begun, tasks = time.perf_counter(), []
        while time.perf_counter() - begun < seconds:
            tasks.append(asyncio.ensure_future(one()))
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)

    await load(0.5)
    server.freeze()
    await load(1)
    server.thaw()
    await load(1.5)
    healthy = len(took)
    server.kill()
    await load(1)
    server.start()
    await load(1.5)
    slow = [seconds for seconds in took if seconds > 0.05]
    await store.aclose()

    assert len(took) > 600
    assert healthy > 300
    # Those who were on their way when it stopped waited, nobody else.
    assert len(slow) < 0.1 * len(took)
    assert max(took) < 0.4


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
    from asgi_llmgate.backends.limits_shared import Want

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
    from asgi_llmgate.backends.limits_shared import Want

    meter = Meter("rate", Kind.RATE, 10, 60 * 10**9)
    grants = [
        (await one.draw([Want(meter, 1, 1)]))[0].amount for _ in range(10) for one in (right, wrong)
    ]
    for one in (right, wrong):
        await one.aclose()

    assert sum(grants) in (10, 11)  # 11 if the minute turned meanwhile
