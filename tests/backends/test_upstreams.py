from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from asgi_llmgate.backends.upstreams_shared import SharedHealth
from asgi_llmgate.backends.upstreams_sqlite import UPSTREAMS_FILE, SqliteBoard
from asgi_llmgate.core.breaker import CALL, BreakerPolicy, State
from asgi_llmgate.core.health import CALLERS, Health, Place

POLICY = BreakerPolicy(failures=1, open_s=5, jitter=0)
PLACE = Place("openai", "key-1", "gpt-4o")


class Clock:
    """One time for all workers; their monotonic clocks began at different moments."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self, began_s: float) -> Callable[[], float]:
        return lambda: self.now_s - began_s

    def wall_us(self) -> int:
        return int((1.8e9 + self.now_s) * 1e6)


class Worker:
    def __init__(self, folder: Path, clock: Clock, began_s: float) -> None:
        self.health = Health(POLICY, is_shared=True)
        self.clock = clock.monotonic(began_s)
        board = SqliteBoard(folder, wall_us=clock.wall_us)
        self.shared = SharedHealth(self.health, board, clock=self.clock)

    def fail(self) -> None:
        self.health.record(
            PLACE, CALL, is_good=False, now_s=self.clock(), roll=0.5, reason="status 500"
        )

    def admits(self) -> bool:
        return self.health.admit(PLACE, self.clock()) is not None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workers(tmp_path: Path, clock: Clock) -> list[Worker]:
    return [Worker(tmp_path, clock, began_s) for began_s in (0.0, 700.0, 999.0)]


def exchange(workers: list[Worker]) -> None:
    for _ in range(2):
        for worker in workers:
            worker.shared.exchange()


def test_what_one_worker_finds_out_stops_all(workers: list[Worker]) -> None:
    workers[0].fail()
    exchange(workers)

    assert [worker.admits() for worker in workers] == [False] * 3


def test_one_worker_probes_and_its_success_is_everybodys(
    workers: list[Worker], clock: Clock
) -> None:
    workers[0].fail()
    exchange(workers)
    clock.now_s += 5.1
    exchange(workers)
    tickets = [worker.health.admit(PLACE, worker.clock()) for worker in workers]
    probes = [ticket for ticket in tickets if ticket is not None]

    assert len(probes) == 1
    prober = workers[tickets.index(probes[0])]
    prober.health.record(PLACE, probes[0], is_good=True, now_s=prober.clock())
    exchange(workers)
    assert all(worker.admits() for worker in workers)
    assert all(worker.health.breakers == {} for worker in workers)


def test_a_probe_that_takes_long_stays_the_only_one(workers: list[Worker], clock: Clock) -> None:
    workers[0].fail()
    exchange(workers)
    clock.now_s += 5.1
    exchange(workers)
    first = [worker.admits() for worker in workers]
    others = []
    for _ in range(100):
        clock.now_s += 0.5
        exchange(workers)
        others += [worker.admits() for worker in workers]

    assert sum(first) == 1
    assert not any(others)


def test_a_worker_that_dies_with_the_probe_is_replaced(workers: list[Worker], clock: Clock) -> None:
    workers[0].fail()
    exchange(workers)
    clock.now_s += 5.1
    exchange(workers)
    [dead] = [worker for worker in workers if worker.admits()]
    alive = [worker for worker in workers if worker is not dead]
    clock.now_s += 6
    exchange(alive)

    assert sum(worker.admits() for worker in alive) == 1


def test_a_new_worker_hears_of_it(workers: list[Worker], tmp_path: Path, clock: Clock) -> None:
    workers[0].fail()
    workers[0].shared.exchange()
    late = Worker(tmp_path, clock, 1000.0)
    late.shared.exchange()

    assert not late.admits()


def test_callers_own_keys_are_told_to_nobody(workers: list[Worker], tmp_path: Path) -> None:
    place = Place("openai", f"{CALLERS}byok:0123", "gpt-4o")
    health = workers[0].health
    health.record(place, CALL, is_good=False, now_s=workers[0].clock(), reason="connect")
    exchange(workers)

    assert health.admit(place, workers[0].clock()) is None
    assert workers[1].health.admit(place, workers[1].clock()) is not None
    assert b"byok" not in (tmp_path / UPSTREAMS_FILE).read_bytes()


def test_what_the_file_has_lost_is_probed_all_the_same(
    workers: list[Worker], tmp_path: Path, clock: Clock
) -> None:
    workers[0].fail()
    exchange(workers)
    connection = apsw.Connection(str(tmp_path / UPSTREAMS_FILE))
    connection.execute("DELETE FROM places")
    connection.close()
    clock.now_s += 5.1
    exchange(workers)

    assert sum(worker.admits() for worker in workers) == 1


def test_people_see_what_is_not_called_and_why(
    workers: list[Worker], tmp_path: Path, clock: Clock
) -> None:
    board = SqliteBoard(tmp_path, wall_us=clock.wall_us)
    assert board.troubles() == []
    workers[0].fail()
    workers[0].health.take_out("groq", "key-2", workers[0].clock(), 0.5, "status 401")
    workers[0].shared.exchange()

    shown = board.troubles()

    assert [(trouble.place, trouble.state, trouble.reason) for trouble, _ in shown] == [
        (Place("groq", "key-2", "*"), State.OPEN, "status 401"),
        (PLACE, State.OPEN, "status 500"),
    ]
    assert [round(seconds) for _, seconds in shown] == [300, 5]


def test_without_the_file_each_worker_finds_out_itself(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / UPSTREAMS_FILE).mkdir()
    worker = Worker(tmp_path, clock, 0.0)
    worker.fail()
    assert not worker.admits()
    clock.now_s += 5.1
    worker.shared._work()
    worker.shared._work()

    assert worker.admits()
    assert len([record for record in caplog.records if "cannot be used" in record.message]) == 1
