"""What is special about limits in SQLite: dead workers, restarts, forks, a folder that goes bad."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path

import pytest

from asgi_llmgate.backends import limits_sqlite
from asgi_llmgate.backends.limits_shared import SharedLimitStore, Want
from asgi_llmgate.backends.limits_sqlite import DEAD_AFTER_NS, LIMITS_FILE, SqliteMeters
from asgi_llmgate.core.budgets import Budget
from asgi_llmgate.core.meters import Claim, Kind, Meter
from tests.limits.conftest import take

SECOND = 10**9
SLOTS = Meter("slots", Kind.CONCURRENT, 2)
RATE = Meter("rate", Kind.RATE, 10, 3600 * SECOND)


class Clock:
    def __init__(self, now_ns: int = 1000 * SECOND) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


async def draw(meters: SqliteMeters, meter: Meter, amount: int = 1) -> int:
    [grant] = await meters.draw([Want(meter, amount, amount)])
    return grant.amount


async def test_what_a_dead_worker_held_comes_back_and_a_living_one_keeps_it(
    tmp_path: Path,
) -> None:
    clock = Clock()
    living, dead = (SqliteMeters(tmp_path, clock_ns=clock) for _ in range(2))
    first = await draw(living, SLOTS), await draw(dead, SLOTS)
    refused = await draw(living, SLOTS)
    for _ in range(8):
        clock.now_ns += DEAD_AFTER_NS // 6
        await living.post([])
    back, full = await draw(living, SLOTS), await draw(living, SLOTS)
    for one in (living, dead):
        await one.aclose()

    assert first == (1, 1)
    assert (refused, back, full) == (0, 1, 0)


async def test_the_number_of_living_workers_is_known(tmp_path: Path) -> None:
    clock = Clock()
    workers = [SqliteMeters(tmp_path, clock_ns=clock) for _ in range(3)]
    for worker in workers:
        await worker.post([])
    clock.now_ns += 6 * SECOND
    await workers[0].post([])
    all_there = workers[0].workers
    clock.now_ns += DEAD_AFTER_NS
    await workers[0].post([])
    alone = workers[0].workers
    for worker in workers:
        await worker.aclose()

    assert (all_there, alone) == (3, 1)


async def test_a_restart_of_the_machine_keeps_what_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steady clock begins at zero again; half an hour passed on the wall."""
    wall = Clock(1_700_000_000 * SECOND)
    before = SqliteMeters(tmp_path, clock_ns=Clock(500_000 * SECOND), wall_clock_ns=wall)
    assert await draw(before, RATE, 10) == 10
    await before.aclose()
    wall.now_ns += 1800 * SECOND
    monkeypatch.setattr(limits_sqlite, "_boot", lambda: "another")
    after = SqliteMeters(tmp_path, clock_ns=Clock(10 * SECOND), wall_clock_ns=wall)
    too_many, what_came_back = await draw(after, RATE, 6), await draw(after, RATE, 5)
    await after.aclose()

    assert (too_many, what_came_back) == (0, 5)


async def test_a_folder_that_cannot_be_written_leaves_each_worker_its_share(
    tmp_path: Path,
) -> None:
    (tmp_path / LIMITS_FILE).mkdir()
    store = SharedLimitStore(SqliteMeters(tmp_path), workers=5)
    taken = [await take(store, Claim(RATE, 1, 1)) for _ in range(4)]
    await store.aclose()

    assert [one.hold is not None for one in taken] == [True, True, False, False]
    assert store.degraded == 4


def in_a_child(folder: Path, store: SharedLimitStore, count: int) -> None:
    async def run() -> int:
        taken = [await take(store, Claim(RATE, 1, 1)) for _ in range(count)]
        await store.aclose()
        return sum(one.hold is not None for one in taken)

    (folder / "child").write_text(str(asyncio.run(run())))


def test_a_store_that_was_used_before_a_fork_works_after_it(tmp_path: Path) -> None:
    store = SharedLimitStore(SqliteMeters(tmp_path))

    async def run(count: int) -> int:
        taken = [await take(store, Claim(RATE, 1, 1)) for _ in range(count)]
        return sum(one.hold is not None for one in taken)

    before = asyncio.run(run(4))
    child = multiprocessing.get_context("fork").Process(
        target=in_a_child, args=(tmp_path, store, 20)
    )
    child.start()
    child.join(20)
    inside = int((tmp_path / "child").read_text())

    async def rest() -> int:
        number = await run(20)
        await store.aclose()
        return number

    assert (before, inside, asyncio.run(rest())) == (4, 6, 0)


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    meters = SqliteMeters(tmp_path / "data")
    await draw(meters, RATE)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    await meters.aclose()

    assert modes == {0o600}


async def test_the_first_call_after_a_pause_is_held_to_budgets_of_meanwhile(tmp_path: Path) -> None:
    clock = Clock()
    one = SharedLimitStore(SqliteMeters(tmp_path), clock_ns=clock)
    other = SharedLimitStore(SqliteMeters(tmp_path))
    assert await one.load_budgets() == ()
    new = Budget("new", "all", 1)
    await other.set_budget(new)
    at_once = one.budgets()
    clock.now_ns += 3 * SECOND
    later = one.budgets()
    loaded = [*await asyncio.gather(one.load_budgets(), one.load_budgets())]
    after = one.budgets()
    for store in (one, other):
        await store.aclose()

    assert at_once == ()
    assert later is None  # so the call has to wait
    assert loaded == [(new,), (new,)]
    assert after == (new,)


async def test_a_busy_worker_asks_for_budgets_behind_its_calls(tmp_path: Path) -> None:
    clock = Clock()
    one = SharedLimitStore(SqliteMeters(tmp_path), clock_ns=clock)
    other = SharedLimitStore(SqliteMeters(tmp_path))
    await one.load_budgets()
    new = Budget("new", "all", 1)
    await other.set_budget(new)
    clock.now_ns += 3 * SECOND // 2
    before = one.budgets()
    while one.budgets() == ():
        await asyncio.sleep(0)
    after = one.budgets()
    for store in (one, other):
        await store.aclose()

    assert before == ()
    assert after == (new,)
