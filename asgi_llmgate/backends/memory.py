"""What lives in the memory of one process, for tests and for trying things out."""

from __future__ import annotations

from collections import deque

from asgi_llmgate.backends.metrics import Metrics
from asgi_llmgate.types import CallRecord

__all__ = ["MemoryLogSink"]


class MemoryLogSink:
    """Keep the last call records in `records`, oldest first.

    Per process: each worker sees its own calls only, and all are gone when it ends. Records
    that make room for newer ones do not count as dropped.

    Args:
        limit: How many records are kept.
        metrics: Where calls are counted.
    """

    def __init__(self, limit: int = 1000, *, metrics: Metrics | None = None) -> None:
        self.records: deque[CallRecord] = deque(maxlen=limit)
        self.dropped = 0
        self.metrics = metrics
        self._closed = False
        if metrics is not None:
            metrics.watch_counter("llmgate_log_dropped_total", lambda: self.dropped)

    def write(self, record: CallRecord, /) -> None:
        if self._closed:
            self.dropped += 1
        else:
            self.records.append(record)
        if self.metrics is not None:
            self.metrics.observe(record)

    async def flush(self) -> None:
        """Nothing waits."""

    async def aclose(self) -> None:
        self._closed = True
