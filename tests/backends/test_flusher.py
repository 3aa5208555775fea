"""The thread behind the sinks: when it works, and that nothing ends it but `stop`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from asgi_llmgate.backends.flusher import Flusher
from tests.backends.records import wait_until


def make_flusher(work: Callable[[], float | None], interval_s: float = 0.0) -> Flusher:
    return Flusher(
        work, interval_s=interval_s, name="test", at_exit=lambda _: None, after_fork=lambda: None
    )


def test_it_sleeps_until_it_is_woken_and_works_once_per_waking() -> None:
    worked = threading.Semaphore(0)
    flusher = make_flusher(lambda: worked.release())
    assert not worked.acquire(timeout=0.02)
    for _ in range(3):
        flusher.wake()
        assert worked.acquire(timeout=10)
        assert not worked.acquire(timeout=0.02)

    assert flusher.stop(10)


def test_wakings_within_the_interval_are_gathered() -> None:
    calls: list[int] = []
    flusher = make_flusher(lambda: calls.append(1), interval_s=30)
    for _ in range(100):
        flusher.wake()
    flusher.hurry()
    wait_until(lambda: calls)

    assert calls == [1]
    assert flusher.stop(10)


def test_it_comes_back_after_the_pause_that_work_asks_for() -> None:
    pauses = [0.001, 0.001, None]
    calls: list[float | None] = []

    def work() -> float | None:
        calls.append(pauses[len(calls)])
        return calls[-1]

    flusher = make_flusher(work)
    flusher.wake()
    wait_until(lambda: len(calls) == 3)

    assert not flusher._awake


def test_stop_lets_it_work_once_more_and_ends_it() -> None:
    calls: list[int] = []
    flusher = make_flusher(lambda: calls.append(1), interval_s=30)
    flusher.wake()

    assert flusher.stop(10)
    assert calls == [1]
    flusher.wake()
    assert calls == [1]


def test_stopping_one_that_was_never_woken_does_nothing() -> None:
    calls: list[int] = []

    assert make_flusher(lambda: calls.append(1)).stop(10)
    assert calls == []


def test_stop_does_not_wait_for_ever() -> None:
    release, working = threading.Event(), threading.Event()

    def work() -> None:
        working.set()
        release.wait(30)

    flusher = make_flusher(work)
    flusher.wake()
    working.wait(10)

    assert not flusher.stop(0.01)
    release.set()


def test_a_bug_in_the_work_is_told_and_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[str] = []

    def work() -> None:
        outcomes.append("tried")
        if len(outcomes) == 1:
            raise KeyError("oops")

    flusher = make_flusher(work)
    with caplog.at_level(logging.ERROR):
        flusher.wake()
        wait_until(lambda: len(outcomes) == 1)
        flusher.hurry()
        wait_until(lambda: len(outcomes) == 2)

    assert "test failed; trying again" in caplog.text
    assert flusher.stop(10)


def test_where_no_thread_can_be_started_it_works_when_hurried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    calls: list[int] = []
    flusher = make_flusher(lambda: calls.append(1))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    flusher.wake()
    assert calls == []
    flusher.hurry()
    assert calls == [1]

    assert flusher.stop(1)
    assert calls == [1, 1]
