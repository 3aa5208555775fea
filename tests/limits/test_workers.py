"""Four workers of a real server share their limits, whatever the clock of the machine does."""

from __future__ import annotations

import concurrent.futures
import glob
import hashlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cache.redis_server import RedisServer
from tests.conftest import requires
from tests.e2e.keys import ADMIN_TOKEN
from tests.provider import Provider
from tests.servers import Gateway, all_at, running_gateway

# Four servers and sixteen callers need the machine for themselves: beside the rest of the suite, on
# two cores, a starved worker takes a busy store for a dead one and uses its local share.
pytestmark = pytest.mark.soak

CHAT = {"model": "gpt-4o", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
BEARER = {"authorization": "Bearer sk-mine", "connection": "close"}
WORKERS = 4
QUOTA, WINDOW_S = 100, 60

FAKETIME = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), "")  # noqa: PTH207


class Answers:
    """What a client got, in how long."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.retry_after: list[int] = []
        self.slowest_s = 0.0
        self._lock = threading.Lock()

    def add(self, answer: httpx.Response, took_s: float) -> None:
        with self._lock:
            self.statuses[answer.status_code] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            if "retry-after" in answer.headers:
                self.retry_after.append(int(answer.headers["retry-after"]))


def ask(gateway: Gateway, count: int, answers: Answers | None = None) -> Answers:
    """Make `count` calls, each on a connection of its own, so that all workers get some."""
    answers = answers or Answers()

    def one(_: int) -> None:
        started = time.perf_counter()
        answer = gateway.http.post("/v1/chat/completions", headers=BEARER, json=CHAT)
        answers.add(answer, time.perf_counter() - started)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(count)))
    return answers


def most(elapsed_s: float) -> float:
    """Return how many calls may be let through in that time, and 2 %."""
    return (QUOTA + elapsed_s * QUOTA / WINDOW_S) * 1.02


@pytest.fixture
def settings(provider: Provider) -> dict[str, str]:
    return all_at(provider.url) | {
        "LLMGATE_LIMITS__RATES": f"{QUOTA};w={WINDOW_S}",
        "LLMGATE_ADMIN_TOKEN": ADMIN_TOKEN,
        "LLMGATE_SECRET_KEY": hashlib.sha256(b"of these tests").hexdigest(),
    }


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    yield server
    server.stop()


def check_shared(gateway: Gateway) -> None:
    started = time.perf_counter()
    answers = ask(gateway, 300)
    elapsed_s = time.perf_counter() - started

    print(f"{answers.statuses[200]} of {QUOTA} in {elapsed_s:.1f} s; {most(elapsed_s):.0f} allowed")
    assert "store of the limits failed" not in gateway.output
    assert set(answers.statuses) == {200, 429}
    assert 0.95 * QUOTA <= answers.statuses[200] <= most(elapsed_s)
    assert all(1 <= seconds <= 2 * WINDOW_S for seconds in answers.retry_after)


def test_workers_share_a_limit_in_sqlite(settings: dict[str, str], tmp_path: Path) -> None:
    with running_gateway(tmp_path, settings, workers=WORKERS) as gateway:
        check_shared(gateway)


@requires("redis-server")
def test_workers_share_a_limit_in_redis(
    settings: dict[str, str], tmp_path: Path, redis: RedisServer
) -> None:
    env = settings | {"LLMGATE_REDIS_URL": redis.url}
    with running_gateway(tmp_path, env, workers=WORKERS) as gateway:
        check_shared(gateway)


@requires("redis-server")
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_when_redis_goes_no_call_fails_and_each_worker_keeps_its_share(
    settings: dict[str, str], tmp_path: Path, redis: RedisServer, how: str
) -> None:
    env = settings | {
        "LLMGATE_REDIS_URL": redis.url,
        "LLMGATE_LIMITS__RATES": "100000;w=5",  # no leases: every call asks
        "LLMGATE_LIMITS__WORKERS": str(WORKERS),
    }
    with running_gateway(tmp_path, env, workers=WORKERS) as gateway:
        ask(gateway, 40)  # all of them know Redis now
        answers = Answers()
        goes = threading.Timer(0.4, redis.kill if how == "killed" else redis.freeze)
        goes.start()
        for _ in range(8):  # some 200 calls a second on two cores
            ask(gateway, 50, answers)
        goes.join()
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        deadline = time.monotonic() + 10
        while "llmgate_limits_degraded_total" not in (
            figures := gateway.http.get("/metrics", headers=headers).text
        ):
            assert time.monotonic() < deadline, figures
        redis.thaw()

    assert answers.statuses == {200: 400}
    assert answers.slowest_s < 5


@pytest.mark.skipif(not FAKETIME, reason="not installed: faketime")
def test_steps_of_the_clock_change_nothing(settings: dict[str, str], tmp_path: Path) -> None:
    """Set back an hour, then forward five minutes, while calls come in."""
    step = tmp_path / "step"
    step.write_text("+0")
    env = settings | {
        "LD_PRELOAD": FAKETIME,
        "FAKETIME_TIMESTAMP_FILE": str(step),
        "FAKETIME_NO_CACHE": "1",
        # As on a real machine: whoever sets the clock does not move the steady one.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    answers = Answers()
    with running_gateway(tmp_path, env, workers=WORKERS) as gateway:
        started = time.perf_counter()
        for offset in ("+0", "-3600", "+300", "-3600", "+0"):
            step.write_text(offset)
            ask(gateway, 40, answers)
        elapsed_s = time.perf_counter() - started
        records = gateway.wait_for_records(200)

    print(f"{answers.statuses[200]} of {QUOTA} in {elapsed_s:.1f} s; {most(elapsed_s):.0f} allowed")
    assert 0.95 * QUOTA <= answers.statuses[200] <= most(elapsed_s)
    assert all(1 <= seconds <= 2 * WINDOW_S for seconds in answers.retry_after)
    assert all(record["duration_ms"] >= 0 for record in records)


def test_a_killed_worker_leaves_no_limit_behind(settings: dict[str, str], tmp_path: Path) -> None:
    """What it had not used of a rate is lost with it, at most a 64th of the quota each."""
    with running_gateway(tmp_path, settings, workers=2) as gateway:
        ask(gateway, 20)
        pids = [
            int(name)
            for name in os.listdir("/proc")  # noqa: PTH208
            if name.isdigit() and _parent(name) == gateway.process.pid and _is_worker(name)
        ]
        os.kill(pids[0], signal.SIGKILL)
        started = time.perf_counter()
        gateway.wait_for(r"Application startup complete", times=3)
        answers = ask(gateway, 200)
        elapsed_s = time.perf_counter() - started

    assert 0.95 * QUOTA - 20 <= answers.statuses[200] <= most(elapsed_s) - 20 + elapsed_s * 2


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _is_worker(pid: str) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
