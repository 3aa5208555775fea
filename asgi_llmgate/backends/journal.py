"""The call log: an SQLite journal in the data folder that several processes write.

Each process has one writer, on a thread of its own (`batching.py`). A batch is one short
transaction. The event loop would starve a thread that takes the interpreter lock back once per
row (measured: 800 rows per second beside a busy loop), so many rows go into one statement
(80,000). Checkpoints and pruning are one process's business at a time (`journal_upkeep.py`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from asgi_llmgate.backends.batching import (
    DEFAULT_QUEUE_BYTES,
    DEFAULT_QUEUE_RECORDS,
    BatchingSink,
    PriceLate,
)
from asgi_llmgate.backends.journal_schema import (
    BODY_COLUMNS,
    COLUMNS,
    JOURNAL_FILE,
    body_row,
    call_row,
    open_journal,
)
from asgi_llmgate.backends.journal_upkeep import (
    DEFAULT_MAX_AGE_S,
    DEFAULT_MAX_BYTES,
    JournalUpkeep,
)
from asgi_llmgate.backends.metrics import Metrics
from asgi_llmgate.backends.sqlite_file import failure, require_recent_sqlite
from asgi_llmgate.types import CallRecord

__all__ = ["JournalLogSink"]

# Rows per statement. The largest stays below the 16 KB of text that apsw keeps prepared;
# preparing one anew would hand the interpreter lock over four times.
STATEMENT_ROWS = (100, 25, 5, 1)

# Deflating two bodies of 4 KB takes 80 µs, ten times what all else takes. While more than 2000
# calls per second come in, the core has better things to do, and disk is cheap.
PACK_RECORDS = 100

UNWRITABLE = (UnicodeError, OverflowError, TypeError, apsw.BindingsError, apsw.TooBigError)


class JournalLogSink(BatchingSink):
    """Write call records to `journal.sqlite` in `folder`.

    A record is readable by others 200 ms after `write` at the latest, and survives the death of
    the process from then on. A disk that is full or locked delays no call: records wait in
    memory, up to the bounds, and what is beyond them is counted in `dropped`.

    Building one opens nothing; the file is opened by the first record, in the process that
    writes it. Files are made as 0600, the folder as 0700.

    Args:
        folder: The data folder.
        max_age_s: Older calls are removed.
        max_bytes: Oldest calls are removed while the file uses more.
        queue: How many records may wait to be written.
        queue_bytes: How many bytes of bodies may wait with them.
        price: Asked, off the request path, for the cost of records that have tokens but none.
        metrics: Where calls are counted; defaults to `metrics.sqlite` in the same folder.

    Raises:
        ConfigurationError: SQLite is older than 3.51.3.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        queue: int = DEFAULT_QUEUE_RECORDS,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        price: PriceLate | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        require_recent_sqlite()
        self.folder = Path(folder)
        self._own_metrics = Metrics(self.folder) if metrics is None else None
        super().__init__(
            name=f"Call log {self.folder / JOURNAL_FILE}",
            queue_records=queue,
            queue_bytes=queue_bytes,
            price_late=price,
            metrics=metrics or self._own_metrics,
        )
        self._connection: apsw.Connection | None = None
        self._inode: int | None = None
        self._upkeep = JournalUpkeep(self.folder, max_age_s=max_age_s, max_bytes=max_bytes)

    def _deliver(self, batch: list[CallRecord]) -> int:
        try:
            return self._write(self._opened(), batch)
        except (apsw.Error, OSError) as error:
            if not isinstance(error, (apsw.BusyError, apsw.FullError)):
                self._disconnect()
            raise failure(error) from error

    def _write(self, connection: apsw.Connection, batch: list[CallRecord]) -> int:
        """Insert `batch`; return how many of it SQLite cannot take in any form."""
        try:
            self._insert(connection, batch)
        except UNWRITABLE:
            # All are repaired at once, so that one bad string does not cost a transaction each.
            return self._write_writable(connection, [_encodable(record) for record in batch])
        return 0

    def _write_writable(self, connection: apsw.Connection, batch: list[CallRecord]) -> int:
        try:
            self._insert(connection, batch)
        except UNWRITABLE:
            half = len(batch) // 2
            if half == 0:
                return 1
            return self._write_writable(connection, batch[:half]) + self._write_writable(
                connection, batch[half:]
            )
        return 0

    @staticmethod
    def _insert(connection: apsw.Connection, batch: list[CallRecord]) -> None:
        rows = [call_row(record) for record in batch]
        connection.execute("BEGIN IMMEDIATE")
        try:
            _insert_many(connection, "calls", COLUMNS, rows)
            pack = len(batch) <= PACK_RECORDS
            # The transaction is alone, so it got consecutive numbers.
            first = connection.last_insert_rowid() - len(batch) + 1
            bodies = [
                body_row(first + place, record, pack=pack)
                for place, record in enumerate(batch)
                if record.request_body is not None or record.response_body is not None
            ]
            _insert_many(connection, "bodies", BODY_COLUMNS, bodies)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _opened(self) -> apsw.Connection:
        path = self.folder / JOURNAL_FILE
        if self._connection is not None and _inode(path) == self._inode:
            return self._connection
        # The file was removed or replaced: what is written into the old one is lost.
        self._disconnect()
        self._connection = open_journal(self.folder)
        self._inode = _inode(path)
        self._upkeep.start()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._upkeep.stop()

    def _release(self) -> None:
        self._disconnect()
        if self._own_metrics is not None:
            self._own_metrics.close()

    def _abandon(self) -> None:
        _KEPT_FOREVER.append(self._connection)
        self._connection = None
        _KEPT_FOREVER.extend(self._upkeep.abandon())


def _insert_many(
    connection: apsw.Connection, table: str, columns: Sequence[str], rows: list[tuple[Any, ...]]
) -> None:
    head = f"INSERT INTO {table}({', '.join(columns)}) VALUES "  # noqa: S608 -- our own names
    marks = f"({','.join('?' * len(columns))})"
    done = 0
    for size in STATEMENT_ROWS:
        while len(rows) - done >= size:
            values = itertools.chain.from_iterable(rows[done : done + size])
            connection.execute(head + ",".join([marks] * size), tuple(values))
            done += size


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 -- once per batch, and three times as fast
    except OSError:
        return None


def _encodable(record: CallRecord) -> CallRecord:
    """Return `record` with lone surrogates, which JSON may carry and UTF-8 may not, as `?`."""
    return CallRecord._make(
        value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for value in record
    )


# Connections that a forked child inherited: closing them would take the parent's locks away.
_KEPT_FOREVER: list[object] = []
