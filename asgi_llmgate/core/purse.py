"""What one worker may spend of a meter that it shares with others, without asking each time.

A purse holds a lease: an amount that the shared store has already counted as taken. Calls reserve
from it and settle into it; the rest goes back to the store when nobody used it for a while. Since
a lease is counted before it is used, several workers together never let more through than one
would; what lies unused in a purse is missing elsewhere, for half a second at most.

    leased = free + held + spent        free < 0: more was spent than reserved; the store is told
"""

from __future__ import annotations

from typing import NamedTuple

from asgi_llmgate.core.meters import Kind, Meter, Standing

__all__ = ["Posting", "Purse"]

# Of a quota, in one purse: with four workers 5 % may lie unused elsewhere.
SHARES = 64
# Shorter windows would be over before an unused lease came back.
MIN_LEASED_WINDOW_NS = 10_000_000_000
IDLE_NS = 500_000_000
# How long a refusal stands without asking again: what others give back shows after it.
REFUSED_NS = 50_000_000


class Posting(NamedTuple):
    """What to tell the store: `spent` of the lease was used, `released` goes back.

    `released` is negative where more was spent than was leased.
    """

    meter: Meter
    spent: int
    released: int


class Purse:
    """Times are nanoseconds of a steady clock."""

    __slots__ = (
        "_known",
        "_known_at_ns",
        "drawing",
        "held",
        "leased",
        "meter",
        "refused",
        "refused_until_ns",
        "spent",
        "total_spent",
        "used_at_ns",
    )

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.leased = 0
        self.held = 0
        self.spent = 0
        # What calls are waiting for; it will be leased or not be held any more.
        self.drawing = 0
        self.used_at_ns = 0
        # The least that the store refused, and until when that stands.
        self.refused = 0
        self.refused_until_ns = 0
        # Of a budget: what all workers spent, as last heard.
        self.total_spent = 0
        self._known = Standing(True, meter.quota, 0, 0)
        self._known_at_ns = 0

    @property
    def free(self) -> int:
        return self.leased - self.held - self.spent

    @property
    def owes(self) -> bool:
        """More was spent than was reserved, and the store does not know yet."""
        return self.free + self.drawing < 0

    @property
    def chunk(self) -> int:
        """How much to lease beyond what is needed now."""
        meter = self.meter
        if meter.kind is Kind.CONCURRENT:
            return 0
        if meter.kind is Kind.RATE and meter.window_ns < MIN_LEASED_WINDOW_NS:
            return 0
        return meter.quota // SHARES

    def reserve(self, amount: int, needed: int, now_ns: int) -> int:
        """Hold `amount`, though it may not be there; return what has to be drawn for it."""
        # What others are waiting for is theirs; what was spent too much has to be covered first.
        missing = max(0, needed - self.free - self.drawing)
        self.held += amount
        self.drawing += missing
        self.used_at_ns = now_ns
        return missing

    def refuses(self, needed: int, now_ns: int) -> bool:
        """Tell whether the store would refuse `needed`, for it has just refused no more."""
        missing = needed - self.free - self.drawing
        return now_ns < self.refused_until_ns and missing >= self.refused

    def drawn(self, amount: int, needed: int, standing: Standing, now_ns: int) -> None:
        """Note what the store gave of `needed`, and how the meter stands there."""
        self.leased += amount
        self._known = standing
        self._known_at_ns = now_ns
        if not standing.allowed:
            stands = now_ns < self.refused_until_ns
            self.refused = min(self.refused, needed) if stands else needed
            self.refused_until_ns = now_ns + min(standing.wait_ns, REFUSED_NS)

    def undo(self, amount: int) -> None:
        self.held -= amount
        # What was drawn for nothing goes back at the next opportunity.
        self.used_at_ns = 0

    def settle(self, reserved: int, spent: int) -> None:
        self.held -= reserved
        self.spent += spent

    def standing(self, now_ns: int) -> Standing:
        """Tell how the meter stands, by what was heard last."""
        elapsed_ns = now_ns - self._known_at_ns
        known = self._known
        if known.allowed or elapsed_ns >= REFUSED_NS:
            remaining = min(self.meter.quota, max(0, known.remaining + self.free))
        else:
            remaining = known.remaining
        return Standing(
            known.allowed,
            remaining,
            max(0, known.wait_ns - elapsed_ns),
            max(0, known.reset_ns - elapsed_ns),
        )

    def collect(self, now_ns: int, *, everything: bool = False) -> Posting | None:
        """Return what the store has to be told now, and take it as told."""
        spent, self.spent = self.spent, 0
        self.leased -= spent
        free = self.leased - self.held
        released = 0
        if free + self.drawing < 0:
            released = free + self.drawing
        elif free > 0 and not self.drawing:
            is_idle = now_ns - self.used_at_ns >= IDLE_NS or self.meter.kind is Kind.CONCURRENT
            kept = 0 if everything or is_idle else self.chunk
            released = max(0, free - kept)
        self.leased -= released
        if self.meter.kind is Kind.RATE and not released:
            return None  # What was spent was counted when it was leased.
        return Posting(self.meter, spent, released) if spent or released else None

    def put_back(self, posting: Posting) -> None:
        """Take back a posting that the store was not told."""
        self.leased += posting.spent + posting.released
        self.spent += posting.spent

    def is_empty(self, now_ns: int) -> bool:
        return (
            not (self.leased or self.held or self.spent or self.drawing)
            and now_ns >= self.refused_until_ns
        )
