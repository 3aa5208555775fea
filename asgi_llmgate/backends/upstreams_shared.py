"""What several processes know about upstreams, kept in step.

    Health ──outbox──▶ SharedHealth ──▶ Board (SQLite, Redis) ──▶ SharedHealth ──inbox──▶ Health

A process that stops calling a place says so on the board; the others read it within half a second.
Who may probe is decided there, so that there is one probe among all of them. All of it happens on a
thread of its own: a call never waits for the board, and where the board fails each process goes on
with what it found out itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from asgi_llmgate.backends.flusher import Flusher
from asgi_llmgate.core.breaker import State
from asgi_llmgate.core.health import CALLERS, WHOLE_KEY, Granted, Health, Heard, Place, Trouble
from asgi_llmgate.errors import BackendError

__all__ = ["CLAIM_S", "KEPT_US", "RUNNING_S", "Board", "Row", "SharedHealth"]

logger = logging.getLogger("asgi_llmgate")

EXCHANGE_EVERY_S = 0.5

# How long a process may sit on the right to probe without a call to probe with, and how long the
# others wait for one whose probe runs: as long as it says every half second that it does.
CLAIM_S = 2.0
RUNNING_S = 5.0

# What nobody heard of for a day says nothing about today.
KEPT_US = 86_400_000_000


class Row(NamedTuple):
    """What is known of a place. `until_us` is on the clock of the board."""

    place: Place
    is_open: bool
    until_us: int
    reason: str


class Board(Protocol):
    """Where processes tell each other. Every method blocks, and raises `BackendError` only.

    Of one thread, but for `troubles`.
    """

    name: str
    """In words, for the log."""

    def now_us(self) -> int:
        """Return the time on the clock that all who share the board have."""
        ...

    def publish(self, row: Row, *, by: str) -> None:
        """Say what became of a place; whatever was said of it before is over, its probe too."""
        ...

    def news(self, *, by: str) -> list[Row]:
        """Return what others said since the last time, oldest first."""
        ...

    def claim(self, *, running: Sequence[Place], waiting: Sequence[Place], by: str) -> list[Place]:
        """Prolong the probes that run here, and return the places that may be probed here now.

        `waiting` is held to fail here and due: what the board has lost of it, it gets back.
        """
        ...

    def troubles(self) -> list[tuple[Trouble, float]]:
        """Return what is not called, and in how many seconds it is tried again. Any thread."""
        ...

    def close(self) -> None: ...

    def abandon(self) -> object:
        """Forget what was inherited by a fork without closing it; return it to be kept."""
        ...


class SharedHealth:
    """Keep `health` in step with that of the other processes.

    Building one does no I/O; `wake` starts the thread.

    Args:
        health: Of this process; made with `is_shared`.
        board: Where the others are.
        clock: Monotonic seconds, as `health` has them.
    """

    def __init__(
        self, health: Health, board: Board, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.health = health
        self.board = board
        self._clock = clock
        self._is_failing = False
        self._kept: list[object] = []
        self._name_anew()
        self._flusher = Flusher(
            self._work,
            interval_s=0.01,
            name="llmgate-upstreams",
            at_exit=self.close,
            after_fork=self._after_fork,
        )
        self.wake = self._flusher.wake

    def exchange(self) -> None:
        """Write what is new here, read what is new elsewhere, ask for probes. Blocks.

        Raises:
            BackendError: the board cannot be used.
        """
        board, health = self.board, self.health
        now_us, now_s = board.now_us(), self._clock()
        while health.outbox:
            heard = health.outbox[0]
            until_us = now_us + int((heard.until_s - now_s) * 1e6)
            board.publish(Row(heard.place, heard.is_open, until_us, heard.reason), by=self._name)
            if health.outbox and health.outbox[0] is heard:
                health.outbox.popleft()
        for place, is_open, until_us, reason in board.news(by=self._name):
            until_s = now_s + (until_us - now_us) / 1e6
            health.inbox.append(Heard(place, is_open, until_s, reason))
        places = list(health.breakers.items())
        running = [place for place, breaker in places if breaker.state is State.HALF_OPEN]
        waiting = [
            place
            for place, breaker in places
            if breaker.state is State.OPEN and breaker.until_s <= now_s and is_told(place)
        ]
        for place in board.claim(running=running, waiting=waiting, by=self._name):
            # Less than the claim lasts: a probe that began says so before that ends.
            health.inbox.append(Granted(place, now_s + CLAIM_S - EXCHANGE_EVERY_S - 0.2))

    def close(self, timeout_s: float = 2.0) -> None:
        self._flusher.stop(timeout_s)
        self.board.close()

    def _work(self) -> float | None:
        try:
            self.exchange()
        except BackendError as error:
            if not self._is_failing:
                logger.error(
                    "%s cannot be used, so workers no longer share what they know of upstreams: %s",
                    self.board.name,
                    error,
                )
            self._is_failing = True
            # Without the others' word each finds out for itself.
            now_s = self._clock()
            for place, breaker in list(self.health.breakers.items()):
                if breaker.state is State.OPEN and breaker.until_s <= now_s:
                    self.health.inbox.append(Granted(place, now_s + CLAIM_S))
        else:
            self._is_failing = False
        return EXCHANGE_EVERY_S

    def _name_anew(self) -> None:
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"

    def _after_fork(self) -> None:
        self._kept.append(self.board.abandon())
        self._name_anew()


def is_told(place: Place) -> bool:
    """Tell whether others hear of a place, and probe it one at a time."""
    return place.model != WHOLE_KEY and not place.key.startswith(CALLERS)
