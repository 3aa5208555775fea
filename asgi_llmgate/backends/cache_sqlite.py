"""A cache that all workers of a machine share: one SQLite file in the data folder.

Reading happens on the event loop. In WAL mode a reader waits for nobody, whoever writes, and what
is asked for are three rows by their primary key: 10 µs, where handing the question to a thread and
taking the answer back costs 40 µs and, beside a busy loop, up to the 5 ms after which a thread
gets the interpreter. Writing takes a lock and may wait, so a thread of its own does it, many
answers to a transaction. What waits to be written is readable here meanwhile.

Leases are in a file of their own that nobody writes for longer than one row takes, and are given
up at once where it is busy: then two workers ask the provider, instead of one waiting for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import apsw

from asgi_llmgate.backends.flusher import Flusher
from asgi_llmgate.backends.packing import pack, unpack
from asgi_llmgate.backends.sqlite_file import connect, failure, require_recent_sqlite
from asgi_llmgate.core.cache_entry import created_us_of
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import CacheRead, CacheSize

__all__ = ["CACHE_FILE", "LEASE_FILE", "SqliteCacheStore"]

logger = logging.getLogger("asgi_llmgate")
T = TypeVar("T")

CACHE_FILE = "cache.sqlite"
LEASE_FILE = "cache_leases.sqlite"

DEFAULT_MAX_BYTES = 1024 * 1024 * 1024
# Beyond it answers are not kept: the disk cannot follow, and memory is for calls.
MAX_WAITING_BYTES = 64 * 1024 * 1024
# Long enough to gather a few answers, short enough that other workers find them.
GATHER_S = 0.005
UPKEEP_EVERY_S = 60.0
BUSY_PAUSES_S = (0.0, 0.001, 0.002, 0.005)
# Where the file is full, so much goes at once, oldest first.
TRIM_TO = 0.9

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries(
    key TEXT, slot INTEGER, value BLOB, expires_us INTEGER, created_us INTEGER, partition TEXT,
    PRIMARY KEY(key, slot)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_created_us ON entries(created_us);
CREATE INDEX IF NOT EXISTS entries_expires_us ON entries(expires_us);
CREATE TABLE IF NOT EXISTS generations(name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS base(value INTEGER);
INSERT INTO base SELECT abs(random()) >> 16 WHERE NOT EXISTS (SELECT 1 FROM base);
PRAGMA user_version = 1;
COMMIT;
"""

READ_ONE = "SELECT NULL, value FROM entries WHERE key = ? AND slot = 0 AND expires_us > ?"
READ_SLOTS = "SELECT slot, value FROM entries WHERE key = ? AND slot < ? AND expires_us > ?"
RELEASE = "DELETE FROM leases WHERE key = ? AND holder = ?"
BUMP = """
INSERT INTO generations VALUES(?1, (SELECT value FROM base) + 1)
ON CONFLICT(name) DO UPDATE SET value = value + 1
"""
ACQUIRE = """
INSERT INTO leases VALUES(?1, ?2, ?3)
ON CONFLICT(key) DO UPDATE SET holder = excluded.holder, until_us = excluded.until_us
WHERE holder = excluded.holder OR until_us <= ?4
"""


class SqliteCacheStore:
    """Keep answers in `cache.sqlite` of `folder`, for all processes of this machine.

    Generations survive a power cut, which answers need not. Files are made as 0600.

    Args:
        folder: The data folder, on a disk of this machine.
        max_bytes: Of the file; oldest answers make room.
        clock_us: Microseconds since the epoch.

    Raises:
        ConfigurationError: SQLite is older than 3.51.3.
    """

    is_shared = True

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        require_recent_sqlite()
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._clock_us = clock_us
        self._path = self.folder / CACHE_FILE
        self._start_empty()
        self._flusher = Flusher(
            self._work,
            interval_s=GATHER_S,
            name="llmgate-cache",
            at_exit=lambda timeout_s: None,
            after_fork=self._after_fork,
        )

    def _start_empty(self) -> None:
        self._reader: apsw.Connection | None = None
        self._leases: apsw.Connection | None = None
        self._retired: list[apsw.Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: apsw.Connection | None = None
        self._inode: int | None = None
        self._base = 0
        self._lock = threading.Lock()  # of `_waiting`
        self._writing = threading.RLock()  # of `_writer`
        self._waiting: dict[tuple[CacheKey, int], tuple[bytes, int, int, str]] = {}
        self._waiting_bytes = 0
        self._upkeep_at_s = 0.0
        self._released: dict[CacheKey, str] = {}

    async def read(self, key: CacheKey, *, slots: int, names: Sequence[str]) -> CacheRead:
        reader = await self._reading()
        now_us = self._clock_us()
        values: list[bytes | None] = [None] * slots
        try:
            # What waits comes first: it leaves there only when it is in the file.
            if self._waiting:
                values = [self._waiting_value(key, slot, now_us) for slot in range(slots)]
            if slots == 1 and values[0] is None:
                # Nearly every call comes here: one statement takes half the time of two.
                sql = _read_one(len(names))
                told = dict(reader.execute(sql, (key, now_us, *names)))
                packed = told.pop(None, None)
                values[0] = None if packed is None else unpack(packed)
                return CacheRead(values, {name: told.get(name, self._base) for name in names})
            if slots > 1:
                for slot, packed in reader.execute(READ_SLOTS, (key, slots, now_us)):
                    if values[slot] is None:
                        values[slot] = unpack(packed)
            return CacheRead(values, self._values_of(reader, names))
        except apsw.Error as error:
            raise self._broken(error) from error

    async def generations(self, names: Sequence[str]) -> dict[str, int]:
        reader = await self._reading()
        try:
            return self._values_of(reader, names)
        except apsw.Error as error:
            raise self._broken(error) from error

    def _values_of(self, reader: apsw.Connection, names: Sequence[str]) -> dict[str, int]:
        if not names:
            return {}
        moved = dict(reader.execute(_read_generations(len(names)), tuple(names)))
        return {name: moved.get(name, self._base) for name in names}

    async def write(
        self, key: CacheKey, slot: int, value: bytes, *, partition: str, ttl_s: float
    ) -> None:
        now_us = self._clock_us()
        row = value, now_us + int(ttl_s * 1e6), created_us_of(value) or now_us, partition
        with self._lock:
            if self._waiting_bytes + len(value) > MAX_WAITING_BYTES:
                return
            self._waiting[key, slot] = row
            self._waiting_bytes += len(value)
        self._flusher.wake()

    async def bump(self, names: Sequence[str]) -> None:
        await _in_thread(lambda: self.bump_blocking(names))

    def bump_blocking(self, names: Sequence[str]) -> None:
        def bump(writer: apsw.Connection) -> None:
            # An answer that a power cut took is asked for again; an invalidation is not.
            writer.pragma("synchronous", "full")
            try:
                with writer:
                    for name in names:
                        writer.execute(BUMP, (name,))
            finally:
                writer.pragma("synchronous", "normal")

        self._with_writer(bump)

    async def acquire(self, key: CacheKey, holder: str, *, ttl_s: float) -> bool:
        if self._leases is None:
            await self._reading()
        self._loop = asyncio.get_running_loop()
        for pause_s in BUSY_PAUSES_S:
            leases = self._leases
            if leases is None:
                raise BackendError("the cache was closed")
            now_us = self._clock_us()
            try:
                if (released := self._released.pop(key, None)) is not None:
                    leases.execute(RELEASE, (key, released))
                leases.execute(ACQUIRE, (key, holder, now_us + int(ttl_s * 1e6), now_us))
                return leases.changes() > 0
            except apsw.BusyError:
                # Another process writes its row, which takes it some microseconds.
                await asyncio.sleep(pause_s)
            except apsw.Error as error:
                raise failure(error) from error
        raise BackendError("leases are busy")

    async def release(self, key: CacheKey, holder: str) -> None:
        # After the answer is there for others: who gets the lease next looks for it first.
        self._released[key] = holder
        self._flusher.wake()

    async def delete(self, key: CacheKey) -> bool:
        def delete(writer: apsw.Connection) -> bool:
            self._write_waiting(writer)
            writer.execute("DELETE FROM entries WHERE key = ?", (key,))
            return writer.changes() > 0

        return await _in_thread(lambda: self._with_writer(delete))

    async def delete_older(self, created_before_us: int, *, partition: str | None = None) -> int:
        def delete(writer: apsw.Connection) -> int:
            self._write_waiting(writer)
            writer.execute(
                "DELETE FROM entries WHERE created_us < ?1 AND (?2 IS NULL OR partition = ?2)",
                (created_before_us, partition),
            )
            return writer.changes()

        return await _in_thread(lambda: self._with_writer(delete))

    async def size(self) -> CacheSize:
        def size(writer: apsw.Connection) -> CacheSize:
            self._write_waiting(writer)
            sql = "SELECT count(*), coalesce(sum(length(value)), 0) FROM entries"
            [(entries, size)] = writer.execute(sql)
            return CacheSize(entries, size)

        return await _in_thread(lambda: self._with_writer(size))

    async def aclose(self) -> None:
        await _in_thread(self._stop)
        self._close_retired()

    def close(self) -> None:
        """Write what waits and close the files. Opened again by the next use."""
        self._stop()
        self._close_retired()

    def _stop(self) -> None:
        self._flusher.stop(5.0)
        with self._writing:
            self._disconnect()
        self._flusher.reset()

    async def _reading(self) -> apsw.Connection:
        if self._reader is None:
            await _in_thread(lambda: self._with_writer(lambda _: None))
        elif _inode(self._path) != self._inode:
            # The file was removed or replaced: what others invalidate now is elsewhere.
            await _in_thread(self._reconnect)
        if self._retired:
            self._close_retired()
        if self._reader is None:
            raise BackendError("the cache was closed")
        return self._reader

    def _waiting_value(self, key: CacheKey, slot: int, now_us: int) -> bytes | None:
        row = self._waiting.get((key, slot))
        return row[0] if row is not None and row[1] > now_us else None

    def _reconnect(self) -> None:
        with self._writing:
            self._disconnect()
        self._with_writer(lambda _: None)

    def _with_writer(self, act: Callable[[apsw.Connection], T]) -> T:
        try:
            with self._writing:
                return act(self._opened())
        except (apsw.Error, OSError) as error:
            raise self._broken(error) from error

    def _broken(self, error: apsw.Error | OSError) -> BackendError:
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            logger.error("The cache %s is damaged: %s. Delete it.", self._path, error)
        return failure(error)

    def _opened(self) -> apsw.Connection:
        if self._writer is not None and _inode(self._path) == self._inode:
            return self._writer
        self._disconnect()
        writer = connect(self._path)
        try:
            if not writer.pragma("user_version"):
                writer.execute(SCHEMA)
            writer.wal_autocheckpoint(1000)
            base = writer.execute("SELECT value FROM base").get
            reader = connect(self._path, readonly=True, busy_ms=0)
            leases = connect(self.folder / LEASE_FILE, busy_ms=1000)
            # A lease that a power cut takes is held by nobody any more.
            leases.pragma("synchronous", "off")
            leases.execute(
                "CREATE TABLE IF NOT EXISTS leases("
                "key TEXT PRIMARY KEY, holder TEXT, until_us INTEGER) WITHOUT ROWID"
            )
            leases.execute("DELETE FROM leases WHERE until_us < ?", (self._clock_us(),))
            leases.wal_autocheckpoint(1000)
            leases.set_busy_timeout(0)
        except BaseException:
            writer.close()
            raise
        self._base = base
        self._inode = _inode(self._path)
        self._writer, self._leases, self._reader = writer, leases, reader
        return writer

    def _disconnect(self) -> None:
        """Close the writer. What the event loop uses is closed there: it may be in use just now."""
        if self._writer is not None:
            self._writer.close()
        self._retired += [one for one in (self._reader, self._leases) if one is not None]
        self._writer = self._reader = self._leases = None

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()

    def _work(self) -> float | None:
        try:
            released = dict(self._released)
            self._with_writer(self._write_waiting)
            if released and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._release, released)
            if time.monotonic() >= self._upkeep_at_s:
                self._upkeep_at_s = time.monotonic() + UPKEEP_EVERY_S
                self._with_writer(self._tidy)
        except BackendError as error:
            with self._lock:
                dropped = len(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
            if dropped:
                logger.warning(
                    "The cache cannot be written, %d answers are lost: %s", dropped, error
                )
        return None

    def _write_waiting(self, writer: apsw.Connection) -> None:
        with self._lock:
            rows = list(self._waiting.items())
        if not rows:
            return
        with writer:
            writer.executemany(
                "INSERT OR REPLACE INTO entries VALUES(?, ?, ?, ?, ?, ?)",
                [(*place, pack(row[0]), *row[1:]) for place, row in rows],
            )
        with self._lock:
            for place, row in rows:
                if self._waiting.get(place) is row:
                    del self._waiting[place]
            self._waiting_bytes = sum(len(row[0]) for row in self._waiting.values())

    def _release(self, released: dict[CacheKey, str]) -> None:
        """Give leases back, on the event loop; what fails otherwise than for now expires."""
        leases = self._leases
        over = [each for each in released.items() if self._released.get(each[0]) == each[1]]
        for key, _ in over:
            del self._released[key]
        if leases is None or not over:
            return
        try:
            with leases:  # One transaction for all costs little more than one for each.
                leases.executemany(RELEASE, over)
        except apsw.BusyError:
            for key, holder in over:
                self._released.setdefault(key, holder)
            self._flusher.wake()
        except apsw.Error:
            return

    def _tidy(self, writer: apsw.Connection) -> None:
        """Remove what has expired, and the oldest while the file is too large."""
        writer.execute("DELETE FROM entries WHERE expires_us <= ?", (self._clock_us(),))
        page = int(writer.pragma("page_size"))
        used = page * (int(writer.pragma("page_count")) - int(writer.pragma("freelist_count")))
        if used > self.max_bytes:
            total = writer.execute("SELECT count(*) FROM entries").get
            share = 1 - TRIM_TO * self.max_bytes / used
            writer.execute(
                "DELETE FROM entries WHERE (key, slot) IN "
                "(SELECT key, slot FROM entries ORDER BY created_us LIMIT ?)",
                (int(total * share) + 1,),
            )
        writer.pragma("incremental_vacuum")

    def _after_fork(self) -> None:
        # Closing what a child inherited would take the parent's locks away.
        _KEPT_FOREVER.extend((self._writer, self._reader, self._leases))
        self._start_empty()


@lru_cache(maxsize=64)
def _read_generations(number: int) -> str:
    marks = ",".join("?" * number)
    return f"SELECT name, value FROM generations WHERE name IN ({marks})"  # noqa: S608 -- marks


@lru_cache(maxsize=64)
def _read_one(number: int) -> str:
    return f"{READ_ONE} UNION ALL {_read_generations(number)}"


async def _in_thread(act: Callable[[], T]) -> T:
    return await asyncio.to_thread(act)


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 -- on every call, and three times as fast
    except OSError:
        return None


_KEPT_FOREVER: list[object] = []
