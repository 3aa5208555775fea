"""What the sinks that write to something slow have in common: a bounded queue and a thread.

`write` is an append under a lock that is never held during I/O. The thread takes what has
gathered, prices what was too dear to price on the request path, counts it, and delivers it.
A batch that cannot be delivered is kept and tried again; meanwhile the queue fills up to its
bounds, and then records are dropped and counted. No call ever waits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from asgi_llmgate.backends.flusher import Flusher
from asgi_llmgate.backends.metrics import Metrics
from asgi_llmgate.errors import BackendError
from asgi_llmgate.types import CallRecord

__all__ = ["BatchingSink", "PriceLate"]

logger = logging.getLogger("asgi_llmgate")

PriceLate = Callable[[CallRecord], int | None]
"""Prices a record off the request path, in nano-dollars; None means the price is unknown."""

# Well below the promised 200 ms, and short enough that a burst of 10,000 calls per second is
# written 500 at a time: 3 ms during which the event loop shares its core.
INTERVAL_S = 0.05

# A write lock held for one batch is held for some milliseconds.
BATCH_RECORDS = 1000

DEFAULT_QUEUE_RECORDS = 10_000
# As many records with both bodies at their cap (256 KiB each) as memory can spare: 128.
DEFAULT_QUEUE_BYTES = 64 * 1024 * 1024

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
COMPLAIN_EVERY_S = 60.0

# Longer than SQLite waits for another writer.
LONGEST_ATTEMPT_S = 3.0


class BatchingSink(ABC):
    """A `LogSink` that hands batches to `deliver` on a thread of its own.

    Safe for writing from several threads and event loops, one after another or at once, and
    over a fork: what was queued stays the parent's.

    Args:
        name: What a complaint in the program's own log calls this sink; no secret.
        queue_records: How many records may wait, the batch being written included.
        queue_bytes: How many bytes of bodies may wait.
        price_late: Asked for the cost of records that have tokens but none.
        metrics: Counts every record, also those that are dropped.
    """

    flush_timeout_s = 5.0
    """How long `flush` waits for a disk that is busy or full."""

    def __init__(
        self,
        *,
        name: str,
        queue_records: int = DEFAULT_QUEUE_RECORDS,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        price_late: PriceLate | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.metrics = metrics
        self._name = name
        self._max_records = queue_records
        self._max_bytes = queue_bytes
        self._price_late = price_late
        self._flusher = Flusher(
            self._work,
            interval_s=INTERVAL_S,
            name=f"llmgate-{type(self).__name__}",
            at_exit=self.close,
            after_fork=self._after_fork,
        )
        self._start_empty()
        if metrics is not None:
            metrics.watch_counter("llmgate_log_dropped_total", lambda: self.dropped)
            metrics.watch_gauge("llmgate_log_queue_length", lambda: self.queue_length)

    def _start_empty(self) -> None:
        self.dropped = 0
        self._settled_changed = threading.Condition(threading.Lock())
        self._queue: list[CallRecord] = []
        self._queued_bytes = 0
        self._batch: list[CallRecord] = []
        self._batch_bytes = 0
        self._accepted = 0
        self._settled = 0
        self._closed = False
        self._is_hasty = False
        self._giving_up = False
        self._pause_s = FIRST_PAUSE_S
        self._last_error: BackendError | None = None
        self._complained_at = -COMPLAIN_EVERY_S

    @property
    def queue_length(self) -> int:
        """How many records wait, the batch being written included."""
        return self._accepted - self._settled

    def write(self, record: CallRecord, /) -> None:
        size = 0
        if record.request_body is not None:
            size += len(record.request_body)
        if record.response_body is not None:
            size += len(record.response_body)
        with self._settled_changed:
            dropped = (
                self._closed
                or self._accepted - self._settled >= self._max_records
                or self._queued_bytes + self._batch_bytes + size > self._max_bytes
            )
            if dropped:
                self.dropped += 1
            else:
                self._queue.append(record)
                self._queued_bytes += size
                self._accepted += 1
        if not dropped:
            if self._is_hasty:
                self._flusher.hurry()
            else:
                self._flusher.wake()
        elif self.metrics is not None:
            self.metrics.observe(record)

    async def flush(self) -> None:
        """Return when all that was written before is readable or counted as dropped.

        Raises:
            BackendError: it cannot be written now; it is kept, and tried again.
        """
        if not await asyncio.to_thread(self.flush_blocking):
            raise BackendError(f"{self._name} cannot be written: {self._last_error or 'too slow'}")

    def flush_blocking(self, timeout_s: float | None = None) -> bool:
        """Do what `flush` does, without an event loop; False if it took too long."""
        timeout_s = self.flush_timeout_s if timeout_s is None else timeout_s
        with self._settled_changed:
            target = self._accepted
            if self._settled >= target:
                return True
        self._flusher.hurry()
        with self._settled_changed:
            return self._settled_changed.wait_for(lambda: self._settled >= target, timeout_s)

    def hasten(self, timeout_s: float = 1.0) -> bool:
        """Write out what is queued, and from now on every record at once.

        For when the process is about to end without telling: a server that was stopped by a signal
        raises it again when it is done, and nothing runs after that. False if it took too long.
        """
        self._is_hasty = True
        return self.flush_blocking(timeout_s)

    async def aclose(self) -> None:
        """Write out what is queued, for 5 s at most; what is left then counts as dropped."""
        await asyncio.to_thread(self.close)

    def close(self, timeout_s: float = 5.0) -> None:
        """Do what `aclose` does, without an event loop. Safe to call twice."""
        with self._settled_changed:
            if self._closed:
                return
            self._closed = True
        self._giving_up = not self.flush_blocking(timeout_s)
        has_ended = self._flusher.stop(LONGEST_ATTEMPT_S)
        if self.metrics is not None and (self._accepted or self.dropped):
            self.metrics.publish()
        if has_ended:  # Else the disk hangs, and the thread still holds what would be closed.
            self._release()

    @abstractmethod
    def _deliver(self, batch: list[CallRecord]) -> int:
        """Make `batch` readable by others; return how many records were impossible to write.

        Only the thread calls this.

        Raises:
            BackendError: nothing of the batch was written; try all of it again later.
        """

    @abstractmethod
    def _release(self) -> None:
        """Close what was opened, after the last `_deliver`."""

    @abstractmethod
    def _abandon(self) -> None:
        """Forget what the parent process opened, without closing it. Called after a fork."""

    def _after_fork(self) -> None:
        self._start_empty()
        self._abandon()

    def _work(self) -> float | None:
        while self._batch or self._take():
            if self._giving_up:
                self._settle(lost=len(self._batch))
                continue
            try:
                lost = self._deliver(self._batch)
            except BackendError as error:
                self._last_error = error
                self._complain(error)
                pause_s = self._pause_s
                self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                return pause_s
            self._settle(lost)
            self._pause_s = FIRST_PAUSE_S
        return None

    def _take(self) -> bool:
        with self._settled_changed:
            batch, self._queue = self._queue[:BATCH_RECORDS], self._queue[BATCH_RECORDS:]
            self._batch_bytes = sum(
                len(r.request_body or b"") + len(r.response_body or b"") for r in batch
            )
            self._queued_bytes -= self._batch_bytes
            self._batch = batch
        if self._price_late is not None:
            self._batch = batch = [self._priced(record, self._price_late) for record in batch]
        if self.metrics is not None:
            for record in batch:
                self.metrics.observe(record)
        return bool(batch)

    def _settle(self, lost: int) -> None:
        with self._settled_changed:
            self.dropped += lost
            self._settled += len(self._batch)
            self._batch = []
            self._batch_bytes = 0
            self._settled_changed.notify_all()

    def _priced(self, record: CallRecord, price: PriceLate) -> CallRecord:
        if record.cost_nanousd is not None or record.input_tokens is None:
            return record
        try:
            cost = price(record)
        except Exception as error:  # noqa: BLE001 -- it is the user's; the record matters more
            self._complain(BackendError(f"a price could not be found: {error!r}"))
            return record
        return record if cost is None else record._replace(cost_nanousd=cost)

    def _complain(self, error: BackendError) -> None:
        """Say so in the program's own log, once a minute, with figures and without content."""
        now = time.monotonic()
        if now - self._complained_at < COMPLAIN_EVERY_S:
            return
        self._complained_at = now
        logger.error(
            "%s: %s (%d records wait, %d were dropped so far)",
            self._name,
            error,
            self.queue_length,
            self.dropped,
        )
