"""The timers of one call, on one `TimerHandle` of the event loop.

A relayed stream waits for its provider thousands of times. `asyncio.timeout` would set and cancel
a timer each time; here a wait only notes when it is due, and one handle per call looks whether
that has passed. The handle sleeps for the shortest of the timers at most, so it always wakes
before or exactly when a wait that began meanwhile is due: no timer fires late, and a call that is
over sooner than its shortest timer sets one handle in all.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from asgi_llmgate.errors import UpstreamTimeoutError
from asgi_llmgate.protocols import Timeouts

__all__ = ["CONNECT", "FIRST_BYTE", "IDLE", "POOL", "WRITE", "CallTimer", "TaskTimer", "timed_out"]

CONNECT = "No connection to the provider within {:g} s."
POOL = "No free connection to the provider within {:g} s."
WRITE = "The provider accepted nothing of the request body for {:g} s."
FIRST_BYTE = "No response from the provider within {:g} s."
IDLE = "The provider's response stood still for {:g} s."
TOTAL = "The call took longer than {:g} s."

# uvloop counts whole milliseconds, so its timers may fire this much early.
EARLY_S = 0.001


def timed_out(message: str, limit_s: float | None) -> UpstreamTimeoutError:
    return UpstreamTimeoutError(message.format(limit_s))


class CallTimer:
    """Bounds what a call waits for: each wait by its own limit, all of it by `total_s`.

    Starts with its construction. `stop` must be called when the call is over.
    """

    __slots__ = (
        "_cancel",
        "_due",
        "_handle",
        "_limit_s",
        "_loop",
        "_message",
        "_period_s",
        "_total_due",
        "late",
        "timeouts",
    )

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.late = False
        """A wait was cancelled because its time was up."""
        self._cancel: Callable[[], object] | None = None
        self._due = math.inf
        self._limit_s: float | None = None
        self._message = TOTAL
        self._loop = loop = asyncio.get_running_loop()
        now = loop.time()
        period = total = math.inf if timeouts.total_s is None else timeouts.total_s
        for limit_s in (timeouts.first_byte_s, timeouts.idle_s, timeouts.write_s):
            if limit_s is not None and limit_s < period:
                period = limit_s
        self._period_s = period
        self._total_due = now + total
        self._handle = None if period == math.inf else loop.call_at(now + period, self._look)

    def wait(self, cancel: Callable[[], object], limit_s: float | None, message: str) -> None:
        """Begin a wait; `cancel` is called if it takes longer than `limit_s` or the total is over.

        Raises:
            UpstreamTimeoutError: the total is over already.
        """
        now = self._loop.time()
        if now + EARLY_S >= self._total_due:
            raise timed_out(TOTAL, self.timeouts.total_s)
        self.limit(limit_s, message, now)
        self._cancel = cancel

    def limit(self, limit_s: float | None, message: str, now: float | None = None) -> None:
        """Give the present wait another limit, counted from now."""
        due = self._total_due
        if limit_s is not None:
            due = min(due, (self._loop.time() if now is None else now) + limit_s)
        self._due = due
        self._limit_s = limit_s
        self._message = message

    def done(self) -> None:
        """End a wait."""
        self._cancel = None

    def stop(self) -> None:
        """End everything."""
        self._cancel = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def error(self) -> UpstreamTimeoutError:
        """Return what to raise for the wait that was cancelled."""
        if self._due >= self._total_due:
            return timed_out(TOTAL, self.timeouts.total_s)
        return timed_out(self._message, self._limit_s)

    def _look(self) -> None:
        now = self._loop.time()
        due = self._total_due if self._cancel is None else self._due
        if now + EARLY_S < due:
            # A wait that begins after this is due in a period or later, or with the total.
            wake = min(due, self._total_due, now + self._period_s)
            self._handle = self._loop.call_at(wake, self._look)
        elif self._cancel is not None:
            self.late = True
            self._cancel()
        # Else the total is over and nobody waits: the next wait raises by itself.


class TaskTimer(CallTimer):
    """Bounds waits in library code, by cancelling the task that waits.

    `end` tells this timer's cancellation from any other, as `asyncio.timeout` does.
    """

    __slots__ = ("_cancelled_before", "_task", "is_sending")

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__(timeouts)
        self.is_sending = True
        """The head of the response is not there; until then `timed` sets the limits."""

    def begin(self, limit_s: float | None, message: str) -> None:
        """Begin a wait of the current task. Raises as `wait` does."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelled_before = task.cancelling()
        self.wait(task.cancel, limit_s, message)

    def end(self) -> UpstreamTimeoutError | None:
        """End the wait; return what to raise instead of whatever came of it, if time was up."""
        self._cancel = None
        if self.late and self._task.uncancel() <= self._cancelled_before:
            return self.error()
        return None

    async def timed(self, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the request body, with `write_s` for each chunk and then `first_byte_s`.

        While `body` itself is waited for only the total counts: that is the caller's time.
        """
        write_s = self.timeouts.write_s
        self._sending(None, WRITE)
        async for chunk in body:
            self._sending(write_s, WRITE)
            yield chunk
            self._sending(None, WRITE)
        self._sending(self.timeouts.first_byte_s, FIRST_BYTE)

    def _sending(self, limit_s: float | None, message: str) -> None:
        if self.is_sending:
            self.limit(limit_s, message)
