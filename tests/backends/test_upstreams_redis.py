"""What workers of several machines tell each other through a real Redis."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_llmgate.backends.upstreams_redis import RedisBoard
from asgi_llmgate.backends.upstreams_shared import SharedHealth
from asgi_llmgate.core.breaker import CALL, BreakerPolicy, State
from asgi_llmgate.core.health import CALLERS, Health, Place
from asgi_llmgate.errors import BackendError
from tests.cache.redis_server import RedisServer

PLACE = Place("openai", "key-1", "gpt-4o")
# Due at once, so that nothing here waits; and never due while a test lasts.
AT_ONCE = BreakerPolicy(failures=1, open_s=0, max_open_s=0, jitter=0)
FOR_LONG = BreakerPolicy(failures=1, open_s=600, max_open_s=600, jitter=0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


class Worker:
    """One process. Their clocks have nothing in common, as on several machines."""

    def __init__(self, url: str, policy: BreakerPolicy, began_s: float) -> None:
        self.health = Health(policy, is_shared=True)
        self.clock: Callable[[], float] = lambda: time.monotonic() - began_s
        self.shared = SharedHealth(self.health, RedisBoard(url), clock=self.clock)

    def fail(self) -> None:
        now_s = self.clock()
        self.health.record(PLACE, CALL, is_good=False, now_s=now_s, reason="status 500")

    def admits(self) -> bool:
        return self.health.admit(PLACE, self.clock()) is not None


def workers_of(url: str, policy: BreakerPolicy) -> list[Worker]:
    return [Worker(url, policy, began_s) for began_s in (0.0, -1e6, -5.0)]


def exchange(workers: list[Worker]) -> None:
    for _ in range(2):
        for worker in workers:
            worker.shared.exchange()


def test_what_one_machine_finds_out_stops_all(server: RedisServer) -> None:
    workers = workers_of(server.url, FOR_LONG)
    workers[0].fail()
    exchange(workers)

    assert [worker.admits() for worker in workers] == [False] * 3
    [(trouble, seconds)] = RedisBoard(server.url).troubles()
    assert (trouble.place, trouble.state, trouble.reason) == (PLACE, State.OPEN, "status 500")
    assert 590 < seconds <= 600


def test_one_machine_probes_and_its_success_is_everybodys(server: RedisServer) -> None:
    workers = workers_of(server.url, AT_ONCE)
    workers[0].fail()
    exchange(workers)
    tickets = [worker.health.admit(PLACE, worker.clock()) for worker in workers]
    probes = [ticket for ticket in tickets if ticket is not None]

    assert len(probes) == 1
    [(trouble, _)] = RedisBoard(server.url).troubles()
    assert trouble.state is State.HALF_OPEN
    prober = workers[tickets.index(probes[0])]
    prober.health.record(PLACE, probes[0], is_good=True, now_s=prober.clock())
    exchange(workers)
    assert all(worker.admits() for worker in workers)
    assert RedisBoard(server.url).troubles() == []


def test_a_probe_ends_with_the_machine_that_has_it(server: RedisServer) -> None:
    workers = workers_of(server.url, AT_ONCE)
    workers[0].fail()
    exchange(workers)
    [dead] = [worker for worker in workers if worker.admits()]
    alive = [worker for worker in workers if worker is not dead]
    exchange(alive)
    assert not any(worker.admits() for worker in alive)
    probe = RedisBoard(server.url)._probe(PLACE)
    life = int(server.command("PTTL", probe).strip()[1:])
    assert 0 < life <= 5000  # so that it ends by itself
    server.command("DEL", probe)
    exchange(alive)

    assert sum(worker.admits() for worker in alive) == 1


def test_a_redis_that_forgot_everything_keeps_nobody_from_probing(server: RedisServer) -> None:
    workers = workers_of(server.url, AT_ONCE)
    workers[0].fail()
    server.command("FLUSHALL")
    exchange(workers[:1])
    server.command("FLUSHALL")
    exchange(workers)

    assert sum(worker.admits() for worker in workers[:1]) == 1


def test_callers_own_keys_are_told_to_nobody(server: RedisServer) -> None:
    worker = Worker(server.url, FOR_LONG, 0.0)
    place = Place("openai", f"{CALLERS}byok:0123", "gpt-4o")
    worker.health.record(place, CALL, is_good=False, now_s=worker.clock(), reason="connect")
    worker.shared.exchange()

    assert server.command("KEYS", "*") == b"*0\r\n"


def test_garbage_is_taken_off_the_board(server: RedisServer) -> None:
    for field, value in (("x", "y"), ('["a","b","c"]', "[1]"), ('["a"]', "[true,1,2,3,4]")):
        server.command("HSET", "llmgate:upstreams:places", field, value)
    server.command("SET", "llmgate:upstreams:changes", "7")
    workers = workers_of(server.url, FOR_LONG)
    workers[0].fail()
    exchange(workers)

    assert not workers[1].admits()
    assert server.command("HLEN", "llmgate:upstreams:places") == b":1\r\n"


def test_a_user_without_scripting_and_dangerous_commands_is_enough(server: RedisServer) -> None:
    rules = ("on", ">secret", "~llmgate:*", "+@all", "-@scripting", "-@dangerous")
    server.command("ACL", "SETUSER", "gate", *rules)
    workers = workers_of(server.url.replace("//", "//gate:secret@"), AT_ONCE)
    workers[0].fail()
    exchange(workers)

    assert sum(worker.admits() for worker in workers) == 1


def test_without_redis_each_worker_finds_out_itself(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(server.url.replace("//", "//gate:secret@"), AT_ONCE, 0.0)
    worker.fail()
    server.kill()
    worker.shared._work()
    worker.shared._work()

    assert worker.admits()
    assert len([record for record in caplog.records if "cannot be used" in record.message]) == 1
    assert "secret" not in caplog.text
    with pytest.raises(BackendError, match="Redis"):
        worker.shared.board.troubles()
