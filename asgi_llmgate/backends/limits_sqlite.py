"""Meters in an SQLite file of the data folder, for the workers of one machine.

One thread per process does what calls wait for: all that has gathered, in one transaction. Times
are of the machine's steady clock, which all of its processes share and nobody sets; after a
restart of the machine they are moved to the new one.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw

from asgi_llmgate.backends.limits_shared import Grant, Want
from asgi_llmgate.backends.sqlite_file import connect, failure, require_recent_sqlite
from asgi_llmgate.core.budgets import Budget, budget_from
from asgi_llmgate.core.json import dumps, loads
from asgi_llmgate.core.ledger import sum_standing
from asgi_llmgate.core.meters import Kind, cost_ns, gcra, gcra_remaining, gcra_standing
from asgi_llmgate.core.purse import Posting
from asgi_llmgate.errors import BackendError

__all__ = ["LIMITS_FILE", "SqliteMeters"]

LIMITS_FILE = "limits.sqlite"
T = TypeVar("T")

# A process says every 5 s that it lives; what one that is silent for 30 s held is free again.
ALIVE_EVERY_NS = 5_000_000_000
DEAD_AFTER_NS = 30_000_000_000
SWEEP_EVERY_NS = 60_000_000_000
# What was spent is shown for a while after its period.
KEPT_NS = 40 * 86_400_000_000_000
MAX_BATCH = 256
OPEN_FOR_S = 1.5

SCHEMA = """
CREATE TABLE IF NOT EXISTS rates(key TEXT PRIMARY KEY, tat_ns INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sums(key TEXT PRIMARY KEY, spent INTEGER, ends_ns INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds(
    key TEXT, worker TEXT, amount INTEGER, PRIMARY KEY(key, worker)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers(worker TEXT PRIMARY KEY, seen_ns INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS budgets(name TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS firsts(key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boots(boot TEXT PRIMARY KEY, offset_ns INTEGER) WITHOUT ROWID;
PRAGMA user_version = 1;
"""

HELD = """
SELECT coalesce(sum(amount), 0) FROM holds JOIN workers USING (worker)
WHERE key = ? AND seen_ns > ?
"""
ADD_HOLD = """
INSERT INTO holds VALUES(?1, ?2, max(0, ?3))
ON CONFLICT(key, worker) DO UPDATE SET amount = max(0, amount + ?3)
"""
ADD_SUM = """
INSERT INTO sums VALUES(?1, ?2, ?3) ON CONFLICT(key) DO UPDATE SET spent = spent + ?2
RETURNING spent
"""


class _Job(NamedTuple):
    work: Callable[[apsw.Connection, int], Any]
    done: Callable[[Any, Exception | None], None]


class SqliteMeters:
    """`SharedMeters` in `limits.sqlite` of `folder`; opened by the first call.

    A process that dies holds what it had leased of budgets for 30 s more.

    Args:
        folder: The data folder.
        clock_ns: Steady nanoseconds, the same for all processes of the machine.

    Raises:
        ConfigurationError: SQLite is older than 3.51.3.
    """

    # A checkpoint on a busy disk takes a while; a file system that hangs takes for ever.
    timeout_s = 2.0

    def __init__(
        self,
        folder: Path,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        require_recent_sqlite()
        self.path = Path(folder) / LIMITS_FILE
        self.workers = 1
        self._clock_ns = clock_ns
        self._wall_clock_ns = wall_clock_ns
        self._start_empty()

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._worker = f"{self._pid}-{os.urandom(4).hex()}"
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: apsw.Connection | None = None
        self._alive_at_ns = -ALIVE_EVERY_NS
        self._swept_at_ns = 0

    async def draw(self, wants: Sequence[Want]) -> list[Grant]:
        return await self._run(lambda connection, now_ns: self._draw(connection, wants, now_ns))

    async def post(self, postings: Sequence[Posting]) -> dict[str, int]:
        return await self._run(lambda connection, now_ns: self._post(connection, postings, now_ns))

    async def load_budgets(self) -> list[Budget]:
        if self._connection is None and not self.path.exists():
            return []
        rows = await self._run(
            lambda connection, _: connection.execute(
                "SELECT body FROM budgets ORDER BY name"
            ).fetchall()
        )
        return [budget_from(loads(str(body))) for (body,) in rows]

    async def set_budget(self, budget: Budget) -> None:
        body = dumps(asdict(budget)).decode()
        await self._run(
            lambda connection, _: connection.execute(
                "INSERT OR REPLACE INTO budgets VALUES(?, ?)", (budget.name, body)
            ).fetchall()
        )

    async def remove_budget(self, name: str) -> bool:
        deleted = await self._run(
            lambda connection, _: connection.execute(
                "DELETE FROM budgets WHERE name = ? RETURNING name", (name,)
            ).fetchall()
        )
        return bool(deleted)

    async def reset_budget(self, prefix: str, subject: str | None) -> None:
        suffix = "" if subject is None else f"|{subject}"

        def reset(connection: apsw.Connection, _: int) -> None:
            for table in ("sums", "firsts"):
                connection.execute(
                    f"DELETE FROM {table} WHERE substr(key, 1, ?) = ?"  # noqa: S608 -- our names
                    " AND (?3 = '' OR substr(key, -?4) = ?3)",
                    (len(prefix), prefix, suffix, max(1, len(suffix))),
                )

        await self._run(reset)

    async def spent(self, prefix: str) -> dict[str, int]:
        rows: list[Any] = await self._run(
            lambda connection, _: connection.execute(
                "SELECT key, spent FROM sums WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            ).fetchall()
        )
        return {str(key): int(spent) for key, spent in rows}

    async def first(self, key: str) -> bool:
        inserted = await self._run(
            lambda connection, _: connection.execute(
                "INSERT OR IGNORE INTO firsts VALUES(?) RETURNING key", (key,)
            ).fetchall()
        )
        return bool(inserted)

    async def aclose(self) -> None:
        thread = self._thread
        if thread is None or self._pid != os.getpid():
            return

        def leave(connection: apsw.Connection, _: int) -> None:
            connection.execute("DELETE FROM workers WHERE worker = ?", (self._worker,))
            connection.execute("DELETE FROM holds WHERE worker = ?", (self._worker,))

        try:
            async with asyncio.timeout(self.timeout_s):
                await self._run(leave)
        except (BackendError, TimeoutError):
            pass  # Whoever goes on will notice that this process is silent.
        self._jobs.put(None)
        await asyncio.to_thread(thread.join, self.timeout_s)
        self._start_empty()

    async def _run(self, work: Callable[[apsw.Connection, int], T]) -> T:
        """Have `work` done by the thread, within a transaction."""
        if self._pid != os.getpid():
            _KEPT_FOREVER.append(self._connection)
            self._start_empty()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def done(result: Any, error: Exception | None) -> None:
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                pass  # The loop is closed, and nobody waits.

        self._jobs.put(_Job(work, done))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, args=(self._jobs,), name="llmgate-limits", daemon=True
            )
            self._thread.start()
        return await future

    def _work(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            batch = [job]
            is_last = False
            while len(batch) < MAX_BATCH and not is_last:
                try:
                    another = jobs.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    is_last = True
                else:
                    batch.append(another)
            self._do(batch)
            if is_last:
                break
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _do(self, batch: list[_Job]) -> None:
        results: list[Any] = []
        try:
            connection = self._opened()
            now_ns = self._clock_ns()
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._look_alive(connection, now_ns)
                results = [job.work(connection, now_ns) for job in batch]
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (apsw.Error, OSError) as error:
            if self._connection is not None and not isinstance(error, apsw.BusyError):
                self._connection.close()
                self._connection = None
            for job in batch:
                job.done(None, failure(error))
            return
        except Exception as error:  # noqa: BLE001 -- a bug must not end the thread
            for job in batch:
                job.done(None, BackendError(f"{type(error).__name__}: {error}"))
            return
        for job, result in zip(batch, results, strict=True):
            job.done(result, None)

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            connection = self._connected()
            connection.wal_autocheckpoint(1000)
            self._alive_at_ns = self._clock_ns() - ALIVE_EVERY_NS
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(SCHEMA)
                self._move_to_this_boot(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _connected(self) -> apsw.Connection:
        """Open the file; several processes that make it at once get in one another's way."""
        deadline = time.monotonic() + OPEN_FOR_S
        while True:
            try:
                return connect(self.path)
            except apsw.BusyError:
                # Switching a new file to WAL does not wait for others, as all else does.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def _move_to_this_boot(self, connection: apsw.Connection) -> None:
        boot = _boot()
        offset_ns = self._clock_ns() - self._wall_clock_ns()
        known: list[Any] = connection.execute("SELECT boot, offset_ns FROM boots").fetchall()
        if known and known[0][0] == boot:
            return
        if known:
            # The steady clock began anew; how long buckets need to fill does not.
            moved_ns = offset_ns - known[0][1]
            connection.execute("UPDATE rates SET tat_ns = tat_ns + ?", (moved_ns,))
            connection.execute("DELETE FROM holds")
            connection.execute("DELETE FROM workers")
        connection.execute("DELETE FROM boots")
        connection.execute("INSERT INTO boots VALUES(?, ?)", (boot, offset_ns))

    def _look_alive(self, connection: apsw.Connection, now_ns: int) -> None:
        if now_ns - self._alive_at_ns < ALIVE_EVERY_NS:
            return
        self._alive_at_ns = now_ns
        connection.execute("INSERT OR REPLACE INTO workers VALUES(?, ?)", (self._worker, now_ns))
        dead_ns = now_ns - DEAD_AFTER_NS
        self.workers = connection.execute(
            "SELECT count(*) FROM workers WHERE seen_ns > ?", (dead_ns,)
        ).get
        if now_ns - self._swept_at_ns < SWEEP_EVERY_NS:
            return
        self._swept_at_ns = now_ns
        connection.execute("DELETE FROM rates WHERE tat_ns < ?", (now_ns,))
        connection.execute("DELETE FROM workers WHERE seen_ns < ?", (dead_ns - DEAD_AFTER_NS,))
        connection.execute(
            "DELETE FROM holds WHERE amount = 0 OR worker NOT IN (SELECT worker FROM workers)"
        )
        kept_ns = self._wall_clock_ns() - KEPT_NS
        connection.execute("DELETE FROM sums WHERE ends_ns BETWEEN 1 AND ?", (kept_ns,))

    def _draw(self, connection: apsw.Connection, wants: Sequence[Want], now_ns: int) -> list[Grant]:
        grants = []
        for want in wants:
            if want.meter.kind is Kind.RATE:
                grants.append(self._draw_rate(connection, want, now_ns))
            else:
                grants.append(self._draw_sum(connection, want, now_ns))
        return grants

    @staticmethod
    def _draw_rate(connection: apsw.Connection, want: Want, now_ns: int) -> Grant:
        meter = want.meter
        found = connection.execute("SELECT tat_ns FROM rates WHERE key = ?", (meter.key,)).get
        tat_ns = max(found or 0, now_ns)
        standing = gcra(tat_ns, now_ns, meter, want.needed)
        if not standing.allowed:
            return Grant(0, standing)
        amount = max(want.needed, min(want.wanted, gcra_remaining(tat_ns, now_ns, meter)))
        tat_ns += cost_ns(meter, amount)
        connection.execute("INSERT OR REPLACE INTO rates VALUES(?, ?)", (meter.key, tat_ns))
        return Grant(amount, gcra_standing(tat_ns, now_ns, meter))

    def _draw_sum(self, connection: apsw.Connection, want: Want, now_ns: int) -> Grant:
        meter = want.meter
        spent = connection.execute("SELECT spent FROM sums WHERE key = ?", (meter.key,)).get or 0
        held = connection.execute(HELD, (meter.key, now_ns - DEAD_AFTER_NS)).get
        wall_ns = self._wall_clock_ns()
        standing = sum_standing(spent + held, meter, want.needed, wall_ns)
        if not standing.allowed:
            return Grant(0, standing)
        amount = max(want.needed, min(want.wanted, standing.remaining))
        connection.execute(ADD_HOLD, (meter.key, self._worker, amount))
        return Grant(amount, sum_standing(spent + held + amount, meter, 0, wall_ns))

    def _post(
        self, connection: apsw.Connection, postings: Sequence[Posting], now_ns: int
    ) -> dict[str, int]:
        totals = {}
        for meter, spent, released in postings:
            if meter.kind is Kind.RATE:
                connection.execute(
                    "INSERT INTO rates VALUES(?1, ?2 - ?3) ON CONFLICT(key)"
                    " DO UPDATE SET tat_ns = max(tat_ns, ?2) - ?3",
                    (meter.key, now_ns, -cost_ns(meter, -released)),
                )
                continue
            connection.execute(ADD_HOLD, (meter.key, self._worker, -(spent + released)))
            if meter.kind is Kind.BUDGET:
                row = (meter.key, spent, meter.ends_ns)
                totals[meter.key] = connection.execute(ADD_SUM, row).get
        return totals


def _boot() -> str:
    """Return what is different after a restart of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Not Linux: the steady clock's beginning, to the minute.
        return str(round((time.time_ns() - time.monotonic_ns()) / 60_000_000_000))


# Connections that a forked child inherited: closing them would take the parent's locks away.
_KEPT_FOREVER: list[object] = []
