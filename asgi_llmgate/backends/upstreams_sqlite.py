"""What the processes of a machine know about upstreams, in a small SQLite file.

A process that stops calling a place writes a row; the others read it within half a second. Who may
probe is decided here, by one UPDATE that only one process wins, so that there is one probe on the
whole machine. All of it happens on a thread of its own: a call never waits for the file, and where
the file fails each process goes on with what it found out itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from asgi_llmgate.backends.flusher import Flusher
from asgi_llmgate.backends.sqlite_file import connect, failure
from asgi_llmgate.core.breaker import State
from asgi_llmgate.core.health import WHOLE_KEY, Granted, Health, Heard, Place, Trouble
from asgi_llmgate.errors import BackendError

__all__ = ["UPSTREAMS_FILE", "SharedHealth", "read_troubles"]

logger = logging.getLogger("asgi_llmgate")

UPSTREAMS_FILE = "upstreams.sqlite"

EXCHANGE_EVERY_S = 0.5

# How long a process may sit on the right to probe without a call to probe with, and how long the
# others wait for one whose probe runs: as long as it says every half second that it does.
CLAIM_S = 2.0
RUNNING_S = 5.0

# What nobody heard of for a day says nothing about today.
KEPT_US = 86_400_000_000

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS places(
    provider TEXT, key TEXT, model TEXT,
    is_open INTEGER NOT NULL, until_us INTEGER NOT NULL, reason TEXT NOT NULL,
    changed INTEGER NOT NULL, changed_us INTEGER NOT NULL, by TEXT NOT NULL,
    probe_by TEXT, probe_until_us INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(provider, key, model)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""


class SharedHealth:
    """Keep `health` in step with that of the other processes.

    Building one does no I/O; `wake` starts the thread.

    Args:
        health: Of this process; made with `is_shared`.
        folder: The data folder.
        clock: Monotonic seconds, as `health` has them.
        wall_us: Microseconds since the epoch, as all processes have them.
    """

    def __init__(
        self,
        health: Health,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.health = health
        self.path = folder / UPSTREAMS_FILE
        self._clock = clock
        self._wall_us = wall_us
        self._connection: apsw.Connection | None = None
        self._seen = 0
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
            BackendError: the file cannot be used.
        """
        try:
            connection = self._opened()
            with connection:
                self._publish(connection)
            self._read(connection)
            self._claim(connection)
        except (apsw.Error, OSError) as error:
            self._forget()
            raise failure(error) from error

    def close(self, timeout_s: float = 2.0) -> None:
        self._flusher.stop(timeout_s)
        self._forget()

    def _publish(self, connection: apsw.Connection) -> None:
        outbox = self.health.outbox
        while outbox:
            heard = outbox[0]
            place, is_open, until_s, reason = heard
            connection.execute(
                "INSERT INTO places VALUES(?,?,?,?,?,?,"
                "(SELECT coalesce(max(changed), 0) + 1 FROM places),?,?,NULL,0) "
                "ON CONFLICT DO UPDATE SET is_open = excluded.is_open, "
                "until_us = excluded.until_us, reason = excluded.reason, "
                "changed = excluded.changed, changed_us = excluded.changed_us, "
                "by = excluded.by, probe_by = NULL, probe_until_us = 0",
                (*place, is_open, self._to_wall(until_s), reason, self._wall_us(), self._name),
            )
            if outbox and outbox[0] is heard:
                outbox.popleft()

    def _read(self, connection: apsw.Connection) -> None:
        oldest_us = self._wall_us() - KEPT_US
        rows: list[Any] = connection.execute(
            "SELECT provider, key, model, is_open, until_us, reason, changed, by FROM places "
            "WHERE changed > ? AND changed_us > ? ORDER BY changed",
            (self._seen, oldest_us),
        ).fetchall()
        for provider, key, model, is_open, until_us, reason, changed, by in rows:
            self._seen = max(self._seen, changed)
            if by != self._name:
                place = Place(provider, key, model)
                self.health.inbox.append(
                    Heard(place, bool(is_open), self._to_clock(until_us), reason)
                )

    def _claim(self, connection: apsw.Connection) -> None:
        now_us = self._wall_us()
        for breaker_place, breaker in list(self.health.breakers.items()):
            if breaker.state is State.HALF_OPEN:
                connection.execute(
                    "UPDATE places SET probe_until_us = ? WHERE probe_by = ? "
                    "AND provider = ? AND key = ? AND model = ?",
                    (now_us + int(RUNNING_S * 1e6), self._name, *breaker_place),
                )
        due: list[Any] = connection.execute(
            "SELECT provider, key, model FROM places "
            "WHERE is_open AND model <> ? AND until_us <= ? AND probe_until_us <= ?",
            (WHOLE_KEY, now_us, now_us),
        ).fetchall()
        for provider, key, model in due:
            connection.execute(
                "UPDATE places SET probe_by = ?, probe_until_us = ? WHERE provider = ? "
                "AND key = ? AND model = ? AND is_open AND until_us <= ? AND probe_until_us <= ?",
                (self._name, now_us + int(CLAIM_S * 1e6), provider, key, model, now_us, now_us),
            )
            if connection.changes():
                # Less than the claim lasts: a probe that began says so before that ends.
                until_s = self._to_clock(now_us) + CLAIM_S - EXCHANGE_EVERY_S - 0.2
                self.health.inbox.append(Granted(Place(provider, key, model), until_s))

    def _work(self) -> float | None:
        try:
            self.exchange()
        except BackendError as error:
            if not self._is_failing:
                logger.error(
                    "%s cannot be used, so workers no longer share what they know of upstreams: %s",
                    self.path.name,
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

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            connection = connect(self.path)
            connection.wal_autocheckpoint(100)
            self._connection = connection
            if not connection.pragma("user_version"):
                connection.execute(SCHEMA)
        return self._connection

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _name_anew(self) -> None:
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"

    def _after_fork(self) -> None:
        # Closing what was inherited would take the parent's locks away.
        self._kept.append(self._connection)
        self._connection = None
        self._name_anew()

    def _to_wall(self, until_s: float) -> int:
        return self._wall_us() + int((until_s - self._clock()) * 1e6)

    def _to_clock(self, until_us: int) -> float:
        return self._clock() + (until_us - self._wall_us()) / 1e6


def read_troubles(folder: Path, *, now_us: int) -> list[tuple[Trouble, float]]:
    """Return what is not called on this machine, and in how many seconds it is tried again. Blocks.

    Raises:
        BackendError: the file cannot be read.
    """
    path = folder / UPSTREAMS_FILE
    if not path.exists():
        return []
    try:
        connection = connect(path, readonly=True)
        try:
            if not connection.pragma("user_version"):
                return []
            rows: list[Any] = connection.execute(
                "SELECT provider, key, model, until_us, probe_until_us, reason FROM places "
                "WHERE is_open AND changed_us > ? ORDER BY provider, key, model",
                (now_us - KEPT_US,),
            ).fetchall()
        finally:
            connection.close()
    except (apsw.Error, OSError) as error:
        raise failure(error) from error
    return [
        (
            Trouble(
                Place(provider, key, model),
                State.HALF_OPEN if probe_us > now_us else State.OPEN,
                0.0,
                reason,
            ),
            max(0.0, (until_us - now_us) / 1e6),
        )
        for provider, key, model, until_us, probe_us, reason in rows
    ]
