"""Sums of numbers in a small SQLite file, into which all processes of a machine add.

Adding, rather than one row per process, needs no bookkeeping of who is alive: counters stay
monotonic when workers end, and through restarts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import apsw

from asgi_llmgate.backends.sqlite_file import connect, failure
from asgi_llmgate.core.call_sums import Labels, Numbers
from asgi_llmgate.core.json import dumps, loads

__all__ = ["METRICS_FILE", "MetricsStore", "Sums"]

METRICS_FILE = "metrics.sqlite"

Sums = dict[tuple[str, Labels], Numbers]
"""Numbers by family and labels."""

# A process publishes every second while a gauge is not 0: silent for so long, it is idle or dead.
GAUGE_LIFE_US = 10_000_000
GAUGE_KEPT_US = 86_400_000_000  # Its name still shows, as 0.

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS sums(
    family TEXT, labels TEXT, numbers TEXT, PRIMARY KEY(family, labels)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gauges(
    process TEXT, name TEXT, value REAL, at_us INTEGER, PRIMARY KEY(process, name)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""


class MetricsStore:
    """`metrics.sqlite` of the data folder.

    Args:
        folder: The data folder.
        max_label_sets: How many sets of labels a family may have on this machine. Further ones
            are counted with `other` as their model, as many again; then as `other` in all.
    """

    def __init__(self, folder: Path, *, max_label_sets: int) -> None:
        self.path = folder / METRICS_FILE
        self._max_label_sets = max_label_sets
        self._connection: apsw.Connection | None = None

    def add(self, sums: Sums, gauges: Mapping[str, float], *, process: str) -> None:
        """Add `sums` to what is there, and set the gauges of `process`.

        Raises:
            BackendError: nothing was added.
        """
        try:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                for (family, labels), numbers in sums.items():
                    self._add(connection, family, labels, numbers)
                now_us = time.time_ns() // 1000
                for name, value in gauges.items():
                    connection.execute(
                        "INSERT OR REPLACE INTO gauges VALUES(?, ?, ?, ?)",
                        (process, name, value, now_us),
                    )
                connection.execute("DELETE FROM gauges WHERE at_us < ?", (now_us - GAUGE_KEPT_US,))
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (apsw.Error, OSError) as error:
            self.close()
            raise failure(error) from error

    def read(self) -> tuple[Sums, dict[str, float]]:
        """Return all sums, and the gauges added up over living processes.

        Raises:
            BackendError: it cannot be read.
        """
        if not self.path.exists():
            return {}, {}
        try:
            connection = connect(self.path, readonly=True)
            try:
                return self._read(connection)
            finally:
                connection.close()
        except (apsw.Error, OSError) as error:
            raise failure(error) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abandon(self) -> list[object]:
        """Forget the connection without closing it, and return it to be kept: after a fork."""
        abandoned, self._connection = self._connection, None
        return [abandoned]

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            connection = connect(self.path)
            # One transaction per second and process: the file stays as small as it is.
            connection.wal_autocheckpoint(1000)
            self._connection = connection
            if not connection.pragma("user_version"):
                connection.execute(SCHEMA)
        return self._connection

    def _add(
        self, connection: apsw.Connection, family: str, labels: Labels, numbers: Numbers
    ) -> None:
        for level, candidate in enumerate(_foldings(labels), 1):
            key = dumps(candidate).decode()
            found = connection.execute(
                "SELECT numbers FROM sums WHERE family = ? AND labels = ?", (family, key)
            ).get
            # Coarser labels have room of their own: they must not be crowded out by finer ones.
            if found is not None or self._count(connection, family) < level * self._max_label_sets:
                break
        if found is not None:
            numbers = [old + new for old, new in zip(loads(found), numbers, strict=True)]
        connection.execute(
            "INSERT OR REPLACE INTO sums VALUES(?, ?, ?)", (family, key, dumps(numbers).decode())
        )

    @staticmethod
    def _count(connection: apsw.Connection, family: str) -> int:
        return int(connection.execute("SELECT count(*) FROM sums WHERE family = ?", (family,)).get)

    @staticmethod
    def _read(connection: apsw.Connection) -> tuple[Sums, dict[str, float]]:
        sums: Sums = {}
        if not connection.pragma("user_version"):
            return {}, {}  # It is just being made.
        for family, labels, numbers in connection.execute(
            "SELECT family, labels, numbers FROM sums ORDER BY family, labels"
        ):
            sums[family, tuple((name, value) for name, value in loads(labels))] = loads(numbers)
        alive_us = time.time_ns() // 1000 - GAUGE_LIFE_US
        gauges = connection.execute(
            "SELECT name, sum(iif(at_us >= ?, value, 0)) FROM gauges GROUP BY name", (alive_us,)
        )
        return sums, dict(gauges)


def _foldings(labels: Labels) -> Iterable[Labels]:
    """Return the labels under which to count: as they are, else coarser and coarser."""
    yield labels
    yield tuple((name, "other" if name == "model" else value) for name, value in labels)
    yield tuple((name, "other") for name, _ in labels)
