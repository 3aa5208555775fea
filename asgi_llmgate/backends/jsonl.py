"""Call records as JSON lines, in a file or on standard output, for a log shipper to take."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from asgi_llmgate.backends.batching import (
    DEFAULT_QUEUE_BYTES,
    DEFAULT_QUEUE_RECORDS,
    BatchingSink,
    PriceLate,
)
from asgi_llmgate.backends.metrics import Metrics
from asgi_llmgate.core.record import json_line
from asgi_llmgate.errors import BackendError
from asgi_llmgate.types import CallRecord

__all__ = ["JsonLinesLogSink"]


class JsonLinesLogSink(BatchingSink):
    """Write each call as one line of JSON: the object that `llmgate logs tail --json` prints.

    No data can end a line or reach a terminal as a control: all controls are escaped. The file
    is made as 0600 and opened for each batch, so that it may be moved away at any time; several
    processes may append to one. What a full disk cut off is completed before anything follows.

    Args:
        path: The file; None is standard output.
        queue: How many records may wait to be written.
        queue_bytes: How many bytes of bodies may wait with them.
        price: Asked, off the request path, for the cost of records that have tokens but none.
        metrics: Where calls are counted.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        queue: int = DEFAULT_QUEUE_RECORDS,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        price: PriceLate | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(
            name=f"Call log {path or 'on standard output'}",
            queue_records=queue,
            queue_bytes=queue_bytes,
            price_late=price,
            metrics=metrics,
        )
        self._path = path
        self._unsent: bytes | None = None

    def _deliver(self, batch: list[CallRecord]) -> int:
        if self._unsent is None:
            self._unsent = b"".join(map(json_line, batch))
        try:
            if self._path is None:
                self._send(sys.stdout.fileno())
            else:
                self._append(self._path)
        except OSError as error:
            raise BackendError(error.strerror or str(error)) from error
        self._unsent = None
        return 0

    def _append(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._send(file)
        finally:
            os.close(file)

    def _send(self, file: int) -> None:
        while self._unsent:
            self._unsent = self._unsent[os.write(file, self._unsent) :]

    def _release(self) -> None:
        """Nothing stays open."""

    def _abandon(self) -> None:
        self._unsent = None
