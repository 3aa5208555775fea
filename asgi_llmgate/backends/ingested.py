"""Which records of calls made elsewhere were taken already: each id of a tenant once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import apsw

from asgi_llmgate.backends.sqlite_file import connect, failure

__all__ = ["INGESTED_FILE", "IngestedIds"]

INGESTED_FILE = "ingested.sqlite"

# Whoever claimed an id and never said that the record is written has died.
CLAIM_US = 10_000_000
# A spool that waits longer than the log is kept is nobody's.
KEPT_US = 30 * 86_400_000_000

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS ids(
    tenant TEXT, id TEXT, at_us INTEGER NOT NULL, is_written INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(tenant, id)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""


class IngestedIds:
    """`ingested.sqlite` in the data folder. Thread-safe; all methods block.

    Raises:
        BackendError: from every method: the file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / INGESTED_FILE
        self._lock = threading.Lock()

    def claim(self, tenant: str, ids: Sequence[str]) -> list[str]:
        """Return those of `ids` that are new; nobody else gets them for ten seconds."""
        now_us = time.time_ns() // 1000
        new = []
        with self._lock, self._transaction() as connection:
            connection.execute("DELETE FROM ids WHERE at_us < ?", (now_us - KEPT_US,))
            for record_id in dict.fromkeys(ids):
                connection.execute(
                    "INSERT INTO ids VALUES(?, ?, ?, 0) ON CONFLICT DO UPDATE SET "
                    "at_us = excluded.at_us WHERE NOT is_written AND at_us < ?",
                    (tenant, record_id, now_us, now_us - CLAIM_US),
                )
                if connection.changes():
                    new.append(record_id)
        return new

    def written(self, tenant: str, ids: Sequence[str]) -> None:
        with self._lock, self._transaction() as connection:
            connection.executemany(
                "UPDATE ids SET is_written = 1 WHERE tenant = ? AND id = ?",
                [(tenant, record_id) for record_id in ids],
            )

    def give_back(self, tenant: str, ids: Sequence[str]) -> None:
        with self._lock, self._transaction() as connection:
            connection.executemany(
                "DELETE FROM ids WHERE tenant = ? AND id = ? AND NOT is_written",
                [(tenant, record_id) for record_id in ids],
            )

    def _transaction(self) -> _Transaction:
        return _Transaction(self._path)


class _Transaction:
    """One connection for one transaction: this happens after an outage, not with every call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None

    def __enter__(self) -> apsw.Connection:
        try:
            connection = self._connection = connect(self._path)
            if not connection.pragma("user_version"):
                connection.execute(SCHEMA)
            connection.execute("BEGIN IMMEDIATE")
        except (apsw.Error, OSError) as error:
            raise failure(error) from error
        return connection

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        connection = self._connection
        assert connection is not None
        try:
            connection.execute("ROLLBACK" if kind is not None else "COMMIT")
            connection.close()
        except apsw.Error as broken:
            raise failure(broken) from broken
        if isinstance(error, apsw.Error):
            raise failure(error) from error
