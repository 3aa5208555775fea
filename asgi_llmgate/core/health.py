"""What one process knows about upstreams: who fails, who is slow, whose limits are used up.

A place is (provider, key, model); the model `*` stands for the key itself, which is taken out when
the provider refuses it. Only what is in trouble is remembered, so that a good call costs a look at
an empty table. What other processes know comes in through `inbox`, what they shall know goes out
through `outbox`; both may be used from another thread, all else from one event loop. Times are
monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from asgi_llmgate.core.balance import KeyLimits, Load
from asgi_llmgate.core.breaker import CALL, Breaker, BreakerPolicy, State, Ticket
from asgi_llmgate.core.retry import RetryBudget

__all__ = [
    "CALLERS",
    "NO_KEY",
    "WHOLE_KEY",
    "Granted",
    "Health",
    "Heard",
    "Place",
    "Trouble",
    "callers_key",
]

CALLERS = "caller:"
"""What precedes the tenant where the key is the caller's own. Never told to other processes."""

NO_KEY = "-"
WHOLE_KEY = "*"

# A key that was refused may have been renewed where it was made, so it is tried again, rarely.
KEY_OUT_S = 300.0

# Callers' keys and model names are a stranger's to choose.
MAX_PLACES = 10_000


def callers_key(tenant: str) -> str:
    """Return the name under which a caller's own key is known: by tenant, never by what it is."""
    return CALLERS + tenant


class Place(NamedTuple):
    provider: str
    key: str
    model: str


class Heard(NamedTuple):
    """What became of a place: out to other processes, or in from them."""

    place: Place
    is_open: bool
    until_s: float
    reason: str


class Granted(NamedTuple):
    """This process may probe `place` until then."""

    place: Place
    until_s: float


class Trouble(NamedTuple):
    """One line for people."""

    place: Place
    state: State
    until_s: float
    reason: str


class Health:
    """See the module's docstring.

    Args:
        policy: Of every breaker.
        is_shared: Other processes have a say, and grant the probes.
        on_change: Told of every change of state, with its reason.
    """

    def __init__(
        self,
        policy: BreakerPolicy = BreakerPolicy(),  # noqa: B008 -- frozen
        *,
        is_shared: bool = False,
        on_change: Callable[[Place, State, str], None] | None = None,
    ) -> None:
        self.policy = policy
        self.is_shared = is_shared
        self.on_change = on_change
        self.breakers: dict[Place, Breaker] = {}
        self.reasons: dict[Place, str] = {}
        self.loads: dict[Place, Load] = {}
        self.limits: dict[tuple[str, str], KeyLimits] = {}
        self.budgets: dict[str, RetryBudget] = {}
        self.outbox: deque[Heard] = deque(maxlen=MAX_PLACES)
        self.inbox: deque[Heard | Granted] = deque()
        self.on_use: Callable[[], None] | None = None
        """Called with every call, for whoever keeps it in step with other processes."""
        self._granted: dict[Place, float] = {}

    def admit(self, place: Place, now_s: float) -> Ticket | None:
        """Return leave to call, or None while it is held to fail."""
        if self.inbox:
            self._read_inbox()
        breaker = self.breakers.get(place)
        if breaker is None:
            return CALL
        ticket = breaker.admit(now_s)
        if ticket is None and self._granted.get(place, 0.0) > now_s:
            ticket = breaker.grant()
            if ticket is not None:
                del self._granted[place]
        if ticket is not None and ticket.probe:
            self._tell(place, breaker, self.reasons.get(place, ""))
        return ticket

    def record(
        self,
        place: Place,
        ticket: Ticket,
        *,
        is_good: bool | None,
        now_s: float,
        roll: float = 0.5,
        reason: str = "",
    ) -> None:
        """Note what came of a call. `is_good` is None if nobody knows."""
        if is_good and self.breakers:
            self._take_in(place)
        breaker = self.breakers.get(place)
        if breaker is None:
            if is_good is not False:
                return
            breaker = self._made(place)
        if breaker.record(ticket, is_good=is_good, now_s=now_s, roll=roll):
            self._changed(place, breaker, reason)
        if breaker.is_quiet:
            self.breakers.pop(place, None)
            self.reasons.pop(place, None)

    def take_out(self, provider: str, key: str, now_s: float, roll: float, reason: str) -> bool:
        """Use a key no longer; False if it is out already."""
        place = Place(provider, key, WHOLE_KEY)
        breaker = self.breakers.get(place) or self._made(place)
        if breaker.state is State.OPEN and now_s < breaker.until_s:
            return False
        breaker.trip(now_s, roll, open_s=KEY_OUT_S)
        self._changed(place, breaker, reason)
        return True

    def is_out(self, provider: str, key: str, now_s: float) -> bool:
        """Tell whether the provider refused a key not long ago."""
        breaker = self.breakers.get(Place(provider, key, WHOLE_KEY))
        return breaker is not None and breaker.state is State.OPEN and now_s < breaker.until_s

    def _take_in(self, place: Place) -> None:
        """Note that a key works that was refused."""
        whole = Place(place.provider, place.key, WHOLE_KEY)
        breaker = self.breakers.get(whole)
        if breaker is not None and breaker.hear(is_open=False, until_s=0.0):
            self._changed(whole, breaker, "")
            del self.breakers[whole]
            self.reasons.pop(whole, None)

    def wait_s(self, place: Place, now_s: float) -> float:
        """Return in how many seconds a place that is not admitted may be."""
        breaker = self.breakers.get(place)
        return 0.0 if breaker is None else max(0.0, breaker.until_s - now_s)

    def load(self, place: Place) -> Load:
        load = self.loads.get(place)
        if load is None:
            if len(self.loads) >= MAX_PLACES:
                del self.loads[next(iter(self.loads))]
            load = self.loads[place] = Load()
        return load

    def limits_of(self, provider: str, key: str) -> KeyLimits:
        limits = self.limits.get((provider, key))
        if limits is None:
            limits = self.limits[provider, key] = KeyLimits()
        return limits

    def budget(self, provider: str) -> RetryBudget:
        budget = self.budgets.get(provider)
        if budget is None:
            budget = self.budgets[provider] = RetryBudget()
        return budget

    def troubles(self) -> list[Trouble]:
        """Return every place that is not closed."""
        self._read_inbox()
        return [
            Trouble(place, breaker.state, breaker.until_s, self.reasons.get(place, ""))
            for place, breaker in sorted(self.breakers.items())
            if breaker.state is not State.CLOSED
        ]

    def number_open(self) -> float:
        """Return how many places are not called normally. From any thread."""
        breakers = list(self.breakers.values())
        return float(sum(breaker.state is not State.CLOSED for breaker in breakers))

    def _made(self, place: Place) -> Breaker:
        if len(self.breakers) >= MAX_PLACES:
            # The oldest that is still closed; all open means a stranger's names cost the memory.
            oldest = next(
                (old for old, other in self.breakers.items() if other.state is State.CLOSED),
                next(iter(self.breakers)),
            )
            del self.breakers[oldest]
            self.reasons.pop(oldest, None)
        grants_itself = not self.is_shared or place.key.startswith(CALLERS)
        breaker = self.breakers[place] = Breaker(self.policy, grants_itself=grants_itself)
        return breaker

    def _changed(self, place: Place, breaker: Breaker, reason: str) -> None:
        if breaker.state is not State.CLOSED:
            self.reasons[place] = reason or self.reasons.get(place, "")
        if self.is_shared and not place.key.startswith(CALLERS):
            is_open = breaker.state is not State.CLOSED
            self.outbox.append(Heard(place, is_open, breaker.until_s, self.reasons.get(place, "")))
        self._tell(place, breaker, reason)

    def _tell(self, place: Place, breaker: Breaker, reason: str) -> None:
        if self.on_change is not None:
            self.on_change(place, breaker.state, reason)

    def _read_inbox(self) -> None:
        while self.inbox:
            match self.inbox.popleft():
                case Granted(place, until_s):
                    self._granted[place] = until_s
                case Heard(place, is_open, until_s, reason):
                    breaker = self.breakers.get(place)
                    if breaker is None:
                        if not is_open:
                            continue
                        breaker = self._made(place)
                    breaker.hear(is_open=is_open, until_s=until_s)
                    if is_open:
                        self.reasons[place] = reason
                    elif breaker.is_quiet:
                        del self.breakers[place]
                        self.reasons.pop(place, None)
