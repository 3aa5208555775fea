"""The timers of all calls, on one timer of the event loop.

A relayed stream waits for its provider thousands of times, and a timer of the loop, set and
cancelled, costs microseconds: one per call would be a tenth of the call. So a wait only notes when
it is due, and a `Clock` wakes now and then to look whether anything is. After each look it sleeps
until the first thing that can be late by then: a wait that is under way, or one that begins at
once, with the shortest limit of its call. So none is noticed late, and while all calls have the
same limits, a new call never has to wind the clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from asgi_llmgate.errors import UpstreamTimeoutError
from asgi_llmgate.protocols import Timeouts

__all__ = [
    "CONNECT",
    "FIRST_BYTE",
    "IDLE",
    "POOL",
    "WRITE",
    "CallTimer",
    "Clock",
    "TaskTimer",
    "clock_here",
    "timed_out",
]

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


def clock_here(clock: Clock | None) -> Clock:
    """Return `clock` if it is that of the running loop, else a new one."""
    loop = asyncio.get_running_loop()
    if clock is not None and clock.loop is loop:
        return clock
    return Clock(loop)


class Clock:
    """Looks after the timers of the calls of one event loop."""

    __slots__ = ("_handle", "_shortest_s", "_timeouts", "_wake", "loop", "time", "timers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.time = loop.time
        self.timers: set[CallTimer] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._wake = math.inf
        self._timeouts: Timeouts | None = None
        self._shortest_s = math.inf

    def shortest_of(self, timeouts: Timeouts) -> float:
        """Return the shortest limit of `timeouts`; most calls come with the same object."""
        if timeouts is not self._timeouts:
            self._timeouts = timeouts
            limits = (
                timeouts.connect_s,
                timeouts.pool_s,
                timeouts.write_s,
                timeouts.first_byte_s,
                timeouts.idle_s,
                timeouts.total_s,
            )
            self._shortest_s = min(
                [limit for limit in limits if limit is not None], default=math.inf
            )
        return self._shortest_s

    def wake_by(self, when: float) -> None:
        """Look at the timers at `when`, or sooner."""
        if when < self._wake:
            if self._handle is not None:
                self._handle.cancel()
            self._wake = when
            self._handle = self.loop.call_at(when, self._look)

    def _look(self) -> None:
        self._handle = None
        self._wake = math.inf
        now = self.time()
        self.wake_by(min([timer.look(now) for timer in list(self.timers)], default=math.inf))


class CallTimer:
    """Bounds what a call waits for: each wait by its own limit, all of it by `total_s`.

    Starts with its construction. `stop` must be called when the call is over.
    """

    __slots__ = (
        "_cancel",
        "_clock",
        "_due",
        "_limit_s",
        "_message",
        "_shortest_s",
        "_total_due",
        "late",
        "timeouts",
    )

    def __init__(self, clock: Clock, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.late = False
        """A wait was cancelled because its time was up."""
        self._clock = clock
        self._cancel: Callable[[], object] | None = None
        now = clock.time()
        self._shortest_s = shortest = clock.shortest_of(timeouts)
        self._total_due = now + (math.inf if timeouts.total_s is None else timeouts.total_s)
        if shortest != math.inf:
            clock.timers.add(self)
            clock.wake_by(now + shortest)

    def wait(self, cancel: Callable[[], object], limit_s: float | None, message: str) -> None:
        """Begin a wait; `cancel` is called if it takes longer than `limit_s` or the total is over.

        Raises:
            UpstreamTimeoutError: the total is over already.
        """
        now = self._clock.time()
        due = total_due = self._total_due
        if now + EARLY_S >= total_due:
            raise timed_out(TOTAL, self.timeouts.total_s)
        if limit_s is not None and (limit_due := now + limit_s) < total_due:
            due = limit_due
        self._due = due
        self._limit_s = limit_s
        self._message = message
        self._cancel = cancel

    def limit(self, limit_s: float | None, message: str) -> None:
        """Give the present wait another limit, counted from now."""
        if self._cancel is not None:
            self.wait(self._cancel, limit_s, message)

    def done(self) -> None:
        """End a wait."""
        self._cancel = None

    def stop(self) -> None:
        """End everything."""
        self._cancel = None
        self._clock.timers.discard(self)

    def error(self) -> UpstreamTimeoutError:
        """Return what to raise for the wait that was cancelled."""
        if self._due >= self._total_due:
            return timed_out(TOTAL, self.timeouts.total_s)
        return timed_out(self._message, self._limit_s)

    def look(self, now: float) -> float:
        """Cancel a wait that is due; return when to look again."""
        cancel = self._cancel
        due = self._total_due if cancel is None else self._due
        if now + EARLY_S < due:
            return min(due, now + self._shortest_s)
        self._clock.timers.discard(self)
        if cancel is not None:
            self.late = True
            cancel()
        # Else the total is over and nobody waits: the next wait raises by itself.
        return math.inf


class TaskTimer(CallTimer):
    """Bounds waits in library code, by cancelling the task that waits.

    `end` tells this timer's cancellation from any other, as `asyncio.timeout` does.
    """

    __slots__ = ("_cancelled_before", "_task", "is_sending")

    def __init__(self, clock: Clock, timeouts: Timeouts) -> None:
        super().__init__(clock, timeouts)
        self.is_sending = True
        """The head of the response is not there; until then `timed` sets the limits."""

    def begin(self, limit_s: float | None, message: str) -> None:
        """Begin a wait of the current task. Raises as `wait` does."""
        task = asyncio.current_task(self._clock.loop)
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
