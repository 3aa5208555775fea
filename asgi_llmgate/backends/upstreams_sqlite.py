"""What the processes of a machine know about upstreams, in a small SQLite file.

Who may probe is decided by one UPDATE that only one process wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from asgi_llmgate.backends.sqlite_file import connect, failure
from asgi_llmgate.backends.upstreams_shared import CLAIM_S, KEPT_US, RUNNING_S, Row
from asgi_llmgate.core.breaker import State
from asgi_llmgate.core.health import WHOLE_KEY, Place, Trouble

__all__ = ["UPSTREAMS_FILE", "SqliteBoard"]

UPSTREAMS_FILE = "upstreams.sqlite"

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


class SqliteBoard:
    """`Board` in `upstreams.sqlite` of the data folder.

    Args:
        wall_us: Microseconds since the epoch, as all processes of the machine have them.
    """

    name = UPSTREAMS_FILE

    def __init__(
        self, folder: Path, *, wall_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self.path = folder / UPSTREAMS_FILE
        self.now_us = wall_us
        self._connection: apsw.Connection | None = None
        self._seen = 0

    def publish(self, row: Row, *, by: str) -> None:
        with self._opened() as connection:
            connection.execute(
                "INSERT INTO places VALUES(?,?,?,?,?,?,"
                "(SELECT coalesce(max(changed), 0) + 1 FROM places),?,?,NULL,0) "
                "ON CONFLICT DO UPDATE SET is_open = excluded.is_open, "
                "until_us = excluded.until_us, reason = excluded.reason, "
                "changed = excluded.changed, changed_us = excluded.changed_us, "
                "by = excluded.by, probe_by = NULL, probe_until_us = 0",
                (*row.place, row.is_open, row.until_us, row.reason, self.now_us(), by),
            )

    def news(self, *, by: str) -> list[Row]:
        oldest_us = self.now_us() - KEPT_US
        with self._opened() as connection:
            rows: list[Any] = connection.execute(
                "SELECT provider, key, model, is_open, until_us, reason, changed, by FROM places "
                "WHERE changed > ? AND changed_us > ? ORDER BY changed",
                (self._seen, oldest_us),
            ).fetchall()
        found = []
        for provider, key, model, is_open, until_us, reason, changed, said_by in rows:
            self._seen = max(self._seen, changed)
            if said_by != by:
                found.append(Row(Place(provider, key, model), bool(is_open), until_us, reason))
        return found

    def claim(self, *, running: Sequence[Place], waiting: Sequence[Place], by: str) -> list[Place]:
        now_us = self.now_us()
        claimed = []
        with self._opened() as connection:
            for place in running:
                connection.execute(
                    "UPDATE places SET probe_until_us = ? WHERE probe_by = ? "
                    "AND provider = ? AND key = ? AND model = ?",
                    (now_us + int(RUNNING_S * 1e6), by, *place),
                )
            for place in waiting:
                connection.execute(
                    "INSERT OR IGNORE INTO places VALUES(?,?,?,1,?,'',"
                    "(SELECT coalesce(max(changed), 0) + 1 FROM places),?,?,NULL,0)",
                    (*place, now_us, now_us, by),
                )
            due: list[Any] = connection.execute(
                "SELECT provider, key, model FROM places "
                "WHERE is_open AND model <> ? AND until_us <= ? AND probe_until_us <= ?",
                (WHOLE_KEY, now_us, now_us),
            ).fetchall()
            for provider, key, model in due:
                connection.execute(
                    "UPDATE places SET probe_by = ?, probe_until_us = ? WHERE provider = ? "
                    "AND key = ? AND model = ? AND is_open AND until_us <= ? "
                    "AND probe_until_us <= ?",
                    (by, now_us + int(CLAIM_S * 1e6), provider, key, model, now_us, now_us),
                )
                if connection.changes():
                    claimed.append(Place(provider, key, model))
        return claimed

    def troubles(self) -> list[tuple[Trouble, float]]:
        now_us = self.now_us()
        if not self.path.exists():
            return []
        try:
            connection = connect(self.path, readonly=True)
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

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abandon(self) -> object:
        # Closing what was inherited would take the parent's locks away.
        abandoned, self._connection = self._connection, None
        return abandoned

    @contextmanager
    def _opened(self) -> Iterator[apsw.Connection]:
        try:
            if self._connection is None:
                connection = connect(self.path)
                connection.wal_autocheckpoint(100)
                self._connection = connection
                if not connection.pragma("user_version"):
                    connection.execute(SCHEMA)
            yield self._connection
        except (apsw.Error, OSError) as error:
            self.close()
            raise failure(error) from error
