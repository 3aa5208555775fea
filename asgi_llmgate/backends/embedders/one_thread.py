"""A thread for work that would hold the event loop up, and a bound on what waits for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from asgi_llmgate.errors import BackendError

__all__ = ["OneThread"]

T = TypeVar("T")

# At 2 ms each, who comes last waits an eighth of a second: longer than a cache is worth.
MAX_WAITING = 64


class OneThread:
    """Runs one thing after another on a daemon-like thread of its own.

    The thread starts with the first use, and again in a forked child or after `close`.

    Args:
        name: The thread's.
        max_waiting: Beyond so many nothing more is taken.
    """

    def __init__(self, name: str, *, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._threads: ThreadPoolExecutor | None = None
        self._pid = 0
        self._waiting = 0

    @property
    def is_new(self) -> bool:
        """This process has not used it yet: what belongs to the thread is to be made again."""
        return self._threads is None or self._pid != os.getpid()

    async def run(self, act: Callable[[], T]) -> T:
        """Return what `act` returns. Who is cancelled before its turn is left out.

        Raises:
            BackendError: too many wait.
        """
        if self.is_new:
            # What a child inherited has no thread.
            self._threads = ThreadPoolExecutor(1, self._name)
            self._pid = os.getpid()
            self._waiting = 0
        if self._waiting >= self._max_waiting:
            raise BackendError(f"{self._waiting} texts wait to be embedded")
        assert self._threads is not None
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let what runs end; what waits is cancelled."""
        if self._threads is not None and self._pid == os.getpid():
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = None
