"""How late the machine was, so that a bound on waiting is not one on how busy others keep it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["Lag", "loop_lag", "machine_lag"]

TICK_S = 0.002


class Lag:
    """Seconds by which something that wanted to run every 2 ms ran late, so far."""

    def __init__(self) -> None:
        self._late_s = 0.0
        self._ticked_at_s = time.perf_counter()

    def tick(self) -> None:
        self._late_s, self._ticked_at_s = self.late_s, time.perf_counter()

    @property
    def late_s(self) -> float:
        """Also what is late now: whoever asks may run before the next tick."""
        return self._late_s + max(0.0, time.perf_counter() - self._ticked_at_s - TICK_S)


@asynccontextmanager
async def loop_lag() -> AsyncIterator[Lag]:
    """Watch the running event loop. Work that blocks the loop counts as lateness, too."""
    lag = Lag()

    async def watch() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            lag.tick()

    task = asyncio.ensure_future(watch())
    yield lag
    task.cancel()


@contextmanager
def machine_lag() -> Iterator[Lag]:
    """Watch the processors, from a thread of its own, for tests whose server is another process."""
    lag, done = Lag(), threading.Event()

    def watch() -> None:
        while not done.wait(TICK_S):
            lag.tick()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield lag
    done.set()
    thread.join()
