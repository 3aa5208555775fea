"""Which ids callers have given to their calls, known to all workers of a machine and after a start.

Asked only for calls that bring an id; a lookup and a row in a small file, in a thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from asgi_llmgate.backends.sqlite_file import connect, failure, require_recent_sqlite

__all__ = ["REQUEST_IDS_FILE", "SqliteRequestIds"]

REQUEST_IDS_FILE = "request_ids.sqlite"

# As long as the log keeps records by default.
KEPT_S = 30 * 86_400
MAX_ROWS = 1_000_000
UPKEEP_EVERY = 1000  # claims

# A call does not wait longer for a name.
BUSY_MS = 100

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS ids(
    seq INTEGER PRIMARY KEY, tenant TEXT, id TEXT, at_us INTEGER, UNIQUE(tenant, id)
);
PRAGMA user_version = 1;
COMMIT;
"""


class SqliteRequestIds:
    """Ids in `request_ids.sqlite` of the data folder. Nothing is opened before the first claim.

    Args:
        clock_us: Microseconds since the epoch.
    """

    def __init__(
        self, folder: Path, *, clock_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        require_recent_sqlite()
        self.path = Path(folder) / REQUEST_IDS_FILE
        self._clock_us = clock_us
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        # Of a parent process: closing one in a child would take the parent's locks away.
        self._abandoned: list[apsw.Connection] = []
        self._pid = 0
        self._claims = 0

    async def claim(self, tenant: str, request_id: str) -> bool:
        """Take an id for a call of `tenant`; False if another of its calls has it.

        Raises:
            BackendError: the file cannot be used now.
        """
        return await asyncio.to_thread(self._claim, tenant, request_id)

    async def aclose(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _claim(self, tenant: str, request_id: str) -> bool:
        with self._lock:
            try:
                connection = self._opened()
                connection.execute(
                    "INSERT OR IGNORE INTO ids(tenant, id, at_us) VALUES(?, ?, ?)",
                    (tenant, request_id, self._clock_us()),
                )
                is_new = connection.changes() > 0
                if self._claims % UPKEEP_EVERY == 0:
                    self._forget(connection)
                self._claims += 1
            except (apsw.Error, OSError) as error:
                raise failure(error) from None
            return is_new

    def _opened(self) -> apsw.Connection:
        if self._connection is not None and self._pid != os.getpid():
            self._abandoned.append(self._connection)
            self._connection = None
        if self._connection is None:
            connection = connect(self.path, busy_ms=BUSY_MS)
            connection.wal_autocheckpoint(256)
            connection.execute(SCHEMA)
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def _forget(self, connection: apsw.Connection) -> None:
        connection.execute(
            "DELETE FROM ids WHERE at_us < ? OR seq <= (SELECT max(seq) FROM ids) - ?",
            (self._clock_us() - KEPT_S * 1_000_000, MAX_ROWS),
        )
