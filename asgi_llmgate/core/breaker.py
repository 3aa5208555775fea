"""A circuit breaker: stop calling what fails, find out with one call whether it works again.

    CLOSED ──tripped──▶ OPEN ──granted──▶ HALF_OPEN ──succeeded──▶ CLOSED
                         ▲                    │
                         └─ failed, lapsed ───┘

While OPEN no call is made. After a while one caller is granted a probe; until that has an outcome
nobody else calls. Each failed probe doubles the time until the next. What another process found
out is `adopt`ed. No clock is read: `now_s` is an argument, in seconds, monotonic.

What may never happen: two probes at a time, or an outcome of an older probe that counts.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["TRANSITIONS", "Breaker", "BreakerPolicy", "Event", "State", "Ticket"]


class State(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(enum.Enum):
    TRIPPED = enum.auto()
    """Too many calls failed."""
    GRANTED = enum.auto()
    """One caller may probe."""
    SUCCEEDED = enum.auto()
    """The probe was answered well."""
    FAILED = enum.auto()
    LAPSED = enum.auto()
    """The probe ended without an answer: its caller left."""
    HEARD_OPEN = enum.auto()
    """Another process says that it does not work."""
    HEARD_CLOSED = enum.auto()
    """Another process says that it works."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.CLOSED, Event.HEARD_OPEN): State.OPEN,
    (State.OPEN, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.GRANTED): State.HALF_OPEN,
    (State.OPEN, Event.HEARD_OPEN): State.OPEN,
    (State.OPEN, Event.HEARD_CLOSED): State.CLOSED,
    (State.HALF_OPEN, Event.SUCCEEDED): State.CLOSED,
    (State.HALF_OPEN, Event.FAILED): State.OPEN,
    (State.HALF_OPEN, Event.LAPSED): State.OPEN,
}
"""Everything that can happen; any other pair changes nothing."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open, and for how long.

    Args:
        failures: This many in a row open it.
        share: This share of the calls of the last `window_s` seconds opens it, of at least
            `least_calls`.
        slow_s: An answer whose head took longer counts as a failure.
        open_s: Until the first probe; each failed one doubles it, up to `max_open_s`.
        jitter: The share of that time by which it varies, so that workers do not probe together.
    """

    failures: int = 5
    share: float = 0.5
    least_calls: int = 20
    window_s: float = 10.0
    slow_s: float = 300.0
    open_s: float = 5.0
    max_open_s: float = 60.0
    jitter: float = 0.2


class Ticket(NamedTuple):
    """Leave to call once; to be handed back with the outcome. `probe` is 0 for a plain call."""

    probe: int


CALL = Ticket(0)


class Breaker:
    """One breaker. Not thread-safe: one event loop.

    Args:
        grants_itself: False if somebody else decides who probes (`grant`), as where several
            processes share what they know.
    """

    __slots__ = (
        "_calls",
        "_in_a_row",
        "_probe",
        "_trips",
        "grants_itself",
        "policy",
        "state",
        "until_s",
    )

    def __init__(self, policy: BreakerPolicy, *, grants_itself: bool = True) -> None:
        self.policy = policy
        self.grants_itself = grants_itself
        self.state = State.CLOSED
        self.until_s = 0.0
        """While OPEN: when the next probe is due."""
        self._trips = 0
        self._in_a_row = 0
        self._probe = 0
        self._calls: deque[tuple[float, bool]] = deque(maxlen=1000)

    @property
    def is_quiet(self) -> bool:
        """There is nothing to remember."""
        return self.state is State.CLOSED and not self._in_a_row and not self._calls

    def admit(self, now_s: float) -> Ticket | None:
        """Return leave to call, or None if nobody may now."""
        if self.state is State.CLOSED:
            return CALL
        if self.state is State.OPEN and self.grants_itself and now_s >= self.until_s:
            return self.grant()
        return None

    def grant(self) -> Ticket | None:
        """Give out the one probe; None if there is one already, or no need."""
        if not self._move(Event.GRANTED):
            return None
        self._probe += 1
        return Ticket(self._probe)

    def record(
        self, ticket: Ticket, *, is_good: bool | None, now_s: float, roll: float = 0.5
    ) -> bool:
        """Note what came of a call; True if the state changed.

        Args:
            is_good: None if nothing is known: the caller left.
            roll: A random number in [0, 1), for the jitter.
        """
        if ticket.probe:
            if ticket.probe != self._probe or self.state is not State.HALF_OPEN:
                return False
            return self._end_probe(is_good, now_s, roll)
        if self.state is not State.CLOSED or is_good is None:
            return False  # It was sent before the others failed, so it says nothing new.
        self._forget(now_s)
        self._calls.append((now_s, is_good))
        if is_good:
            self._in_a_row = 0
            if all(good for _, good in self._calls):
                self._calls.clear()
            return False
        self._in_a_row += 1
        return self._is_too_much() and self.trip(now_s, roll)

    def trip(self, now_s: float, roll: float = 0.5, *, open_s: float | None = None) -> bool:
        """Open it. `open_s` is how long, if not as the policy says."""
        if not self._move(Event.TRIPPED):
            return False
        self._open(now_s, roll, open_s)
        return True

    def hear(self, *, is_open: bool, until_s: float) -> bool:
        """Adopt what another process found out; True if the state changed."""
        before = self.state
        if self._move(Event.HEARD_OPEN if is_open else Event.HEARD_CLOSED):
            if is_open:
                self.until_s = until_s
            else:
                self._reset()
        return self.state is not before

    def _end_probe(self, is_good: bool | None, now_s: float, roll: float) -> bool:
        if is_good is None:
            self._move(Event.LAPSED)
            self.until_s = now_s
        elif is_good:
            self._move(Event.SUCCEEDED)
            self._reset()
        else:
            self._move(Event.FAILED)
            self._open(now_s, roll, None)
        return True

    def _open(self, now_s: float, roll: float, open_s: float | None) -> None:
        policy = self.policy
        if open_s is None:
            open_s = min(policy.max_open_s, policy.open_s * 2 ** min(self._trips, 16))
        self._trips += 1
        self.until_s = now_s + open_s * (1 + policy.jitter * (2 * roll - 1))
        self._in_a_row = 0
        self._calls.clear()

    def _reset(self) -> None:
        self._trips = self._in_a_row = 0
        self._calls.clear()

    def _is_too_much(self) -> bool:
        policy = self.policy
        if self._in_a_row >= policy.failures:
            return True
        number = len(self._calls)
        if number < policy.least_calls:
            return False
        return sum(not good for _, good in self._calls) >= policy.share * number

    def _forget(self, now_s: float) -> None:
        while self._calls and self._calls[0][0] < now_s - self.policy.window_s:
            self._calls.popleft()

    def _move(self, event: Event) -> bool:
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            return False
        self.state = following
        return True
