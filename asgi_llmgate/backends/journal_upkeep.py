"""Keep the journal small: checkpoints, and the caps on age and size.

Of all processes that write to a folder one holds the lease and does it; the lease is a lock of
the operating system, so it is free the moment its holder dies. Everything happens in steps of
some milliseconds, so that writers wait no longer than for one another.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import apsw

from asgi_llmgate.backends.journal_schema import JOURNAL_FILE
from asgi_llmgate.backends.sqlite_file import LOG_BYTES, connect, create_private

__all__ = [
    "DEFAULT_MAX_AGE_S",
    "DEFAULT_MAX_BYTES",
    "JournalUpkeep",
    "checkpoint",
    "prune_step",
    "take_lease",
]

DEFAULT_MAX_AGE_S = 30 * 86_400.0
DEFAULT_MAX_BYTES = 10 * 1024**3

LEASE_FILE = "journal.lease"
EVERY_S = 1.0
PAUSE_S = 0.01

# Rounds of a checkpoint: each brings over what came during the one before.
ROUNDS = 5
# Rather than let the log grow to this, writers are made to wait for the disk.
LARGEST_LOG_BYTES = 128 * 1024 * 1024

REMOVE_OLD = (
    "DELETE FROM calls WHERE seq IN (SELECT seq FROM calls"
    " WHERE started_at_us < ?1 ORDER BY started_at_us LIMIT ?2)"
)
REMOVE_OLDEST = REMOVE_OLD.replace("WHERE started_at_us < ?1", "")

FEWEST_ROWS, MOST_ROWS = 10, 1000
STEP_S = 0.02

# Free pages are used again, so a file is only shortened when a good part of it is free.
FREE_PAGES_KEPT = 4096
SHORTEN_PAGES = 256


class JournalUpkeep:
    """A thread that waits for the lease of `folder` and then looks after its journal.

    Args:
        folder: The data folder.
        max_age_s: Calls that started longer ago are removed.
        max_bytes: The oldest calls are removed while the journal uses more than this.
    """

    def __init__(self, folder: Path, *, max_age_s: float, max_bytes: int) -> None:
        self._folder = folder
        self._max_age_us = int(max_age_s * 1e6)
        self._max_bytes = max_bytes
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._held: list[apsw.Connection] = []

    def start(self) -> None:
        if self._thread is None:
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="llmgate-upkeep", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the thread and give the lease back; waits for the step it is in."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(5.0)

    def abandon(self) -> list[object]:
        """Forget thread and files without closing them, and return the files: after a fork."""
        self._thread = None
        held, self._held = self._held, []
        return list(held)

    def _run(self, stopping: threading.Event) -> None:
        held = self._held = []
        while not stopping.wait(EVERY_S):
            try:
                if not held:
                    if (lease := take_lease(self._folder)) is None:
                        continue
                    held.append(lease)
                    # Short: while a checkpoint waits for readers to leave, writers wait for it.
                    held.append(connect(self._folder / JOURNAL_FILE, busy_ms=50))
                self._look_after(held[1], stopping)
            except (apsw.Error, OSError):
                # The writer meets the same trouble and tells of it.
                _close_all(held)
        _close_all(held)

    def _look_after(self, connection: apsw.Connection, stopping: threading.Event) -> None:
        rows = FEWEST_ROWS
        while not stopping.is_set():
            started = time.monotonic()
            oldest_us = time.time_ns() // 1000 - self._max_age_us
            is_done = not prune_step(
                connection, oldest_us=oldest_us, max_bytes=self._max_bytes, rows=rows
            )
            took_s = time.monotonic() - started
            rows = min(2 * rows, MOST_ROWS) if took_s < STEP_S else max(rows // 2, FEWEST_ROWS)
            log_bytes = _bytes_of(f"{self._folder / JOURNAL_FILE}-wal")
            if log_bytes > LOG_BYTES:
                checkpoint(connection, force=log_bytes > LARGEST_LOG_BYTES)
            if is_done or stopping.wait(PAUSE_S):
                return


def prune_step(connection: apsw.Connection, *, oldest_us: int, max_bytes: int, rows: int) -> bool:
    """Remove up to `rows` calls that are too old or too many, oldest first; False if none are.

    Busy files are left for the next time.
    """
    pages = int(connection.pragma("page_count"))
    free = int(connection.pragma("freelist_count"))
    is_large = (pages - free) * int(connection.pragma("page_size")) > max_bytes
    try:
        connection.execute(REMOVE_OLDEST if is_large else REMOVE_OLD, (oldest_us, rows))
        removed = connection.changes()
        if not removed and free > max(FREE_PAGES_KEPT, pages // 4):
            # The pragma frees a page per step, so the cursor is drained.
            connection.execute(f"PRAGMA incremental_vacuum({SHORTEN_PAGES})").fetchall()
            return True
    except apsw.BusyError:
        return False
    return removed > 0


def checkpoint(connection: apsw.Connection, *, force: bool = False) -> None:
    """Bring the write-ahead log into the file, after which the next writer starts it anew.

    Writers and readers go on meanwhile, so the end of the log may not be reached, nor what a
    reader still needs be overwritten. `force` makes writers wait for it.
    """
    try:
        for _ in range(ROUNDS):
            frames, done = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if done == frames:
                return
        if force:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        pass  # A long query reads from it; next time.


def take_lease(folder: Path) -> apsw.Connection | None:
    """Return what holds the lease of `folder` until it is closed; None if another has it."""
    path = folder / LEASE_FILE
    create_private(path)
    lease = apsw.Connection(str(path))
    try:
        # Nothing is ever written into it: the transaction is there for its lock.
        lease.execute("BEGIN EXCLUSIVE")
    except apsw.Error:
        lease.close()
        return None
    return lease


def _close_all(held: list[apsw.Connection]) -> None:
    while held:
        held.pop().close()


def _bytes_of(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 -- a name that pathlib would only parse
    except OSError:
        return 0
