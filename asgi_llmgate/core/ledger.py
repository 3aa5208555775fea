"""Meters in memory: of one process, or the share of one worker while the others are out of reach.

A call's claims are granted all or none. What a call really took is settled later by giving back,
or charging, the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from asgi_llmgate.core.meters import (
    Claim,
    Kind,
    Meter,
    Standing,
    cost_ns,
    gcra,
    gcra_standing,
)

__all__ = ["Ledger", "sum_standing"]

# 200,000 buckets are some 40 MB. Values of user ids and properties are the callers' to choose.
MAX_METERS = 200_000
SWEEP_EVERY = 4096


def sum_standing(used: int, meter: Meter, needed: int, wall_ns: int) -> Standing:
    """Return how a budget or a concurrency meter stands, of which `used` is spent or held."""
    left = meter.quota - used
    allowed = left >= needed or not needed
    reset_ns = max(0, meter.ends_ns - wall_ns) if meter.kind is Kind.BUDGET else 0
    # When a running call ends is not known; a second is what clients start with.
    wait_ns = reset_ns if meter.kind is Kind.BUDGET else 1_000_000_000
    return Standing(allowed, max(0, left), 0 if allowed else wait_ns, reset_ns)


class Ledger:
    """Not thread-safe. Times are nanoseconds: `now_ns` of a steady clock, `wall_ns` since 1970."""

    def __init__(self) -> None:
        self._tats: dict[str, int] = {}
        self._sums: dict[str, _Sum] = {}
        self._until_sweep = SWEEP_EVERY

    def take(self, claims: Sequence[Claim], now_ns: int, wall_ns: int) -> list[Standing]:
        """Take all of `claims` if every one of them is allowed, else nothing."""
        if len(claims) == 1 and claims[0].meter.kind is Kind.RATE:
            return [self._take_rate(claims[0], now_ns, wall_ns)]
        standings = []
        allowed = True
        for meter, _, needed in claims:
            standing = self._look(meter, needed, now_ns, wall_ns)
            allowed = allowed and standing.allowed
            standings.append(standing)
        if not allowed:
            return standings
        for place, (meter, amount, _) in enumerate(claims):
            standings[place] = self._take(meter, amount, now_ns, wall_ns)
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self.sweep(now_ns, wall_ns)
        return standings

    def _take_rate(self, claim: Claim, now_ns: int, wall_ns: int) -> Standing:
        """Do the same for the one claim that most calls have, looking once."""
        meter, amount, needed = claim
        key, _, quota, window_ns, _ = meter
        tat_ns = self._tats.get(key, 0)
        if tat_ns < now_ns:
            tat_ns = now_ns
        if tat_ns - (-needed * window_ns // quota) - now_ns > window_ns:
            return gcra(tat_ns, now_ns, meter, needed)
        tat_ns -= -amount * window_ns // quota
        self._tats[key] = tat_ns
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self.sweep(now_ns, wall_ns)
        return gcra_standing(tat_ns, now_ns, meter)

    def settle(self, meter: Meter, reserved: int, spent: int, now_ns: int) -> int:
        """Put what was spent in the place of what was reserved; return a budget's sum, else 0."""
        if meter.kind is Kind.RATE:
            if spent != reserved:
                tat_ns = max(self._tats.get(meter.key, 0), now_ns)
                self._tats[meter.key] = tat_ns + cost_ns(meter, spent - reserved)
            return 0
        found = self._sums.get(meter.key)
        if found is None:  # It was reset, or its period is over.
            found = self._sums[meter.key] = _Sum(meter.ends_ns)
        found.held = max(0, found.held - reserved)
        if meter.kind is Kind.CONCURRENT:
            if not found.held:
                del self._sums[meter.key]
            return 0
        found.spent += spent
        return found.spent

    def forget(self, prefix: str, suffix: str = "") -> None:
        """Forget what was spent, not what is held, of the keys that begin and end so."""
        for key, found in self._sums.items():
            if key.startswith(prefix) and key.endswith(suffix):
                found.spent = 0

    def spent(self, prefix: str) -> dict[str, int]:
        return {key: found.spent for key, found in self._sums.items() if key.startswith(prefix)}

    def held(self, meter: Meter) -> int:
        found = self._sums.get(meter.key)
        return found.held if found is not None else 0

    def sweep(self, now_ns: int, wall_ns: int) -> None:
        """Drop what is the same as nothing; past a bound, also the buckets nearest to full."""
        self._tats = {key: tat for key, tat in self._tats.items() if tat > now_ns}
        self._sums = {
            key: found
            for key, found in self._sums.items()
            if found.held or not found.ends_ns or found.ends_ns > wall_ns
        }
        if len(self._tats) > MAX_METERS:
            nearest = sorted(self._tats, key=self._tats.__getitem__)
            for key in nearest[: len(nearest) - MAX_METERS // 2]:
                del self._tats[key]
        # A bound on the work as well: never more than one pass per as many calls as it looks at.
        self._until_sweep = max(SWEEP_EVERY, len(self._tats) + len(self._sums))

    def _look(self, meter: Meter, needed: int, now_ns: int, wall_ns: int) -> Standing:
        if meter.kind is Kind.RATE:
            return gcra(self._tats.get(meter.key, 0), now_ns, meter, needed)
        found = self._sums.get(meter.key)
        used = 0 if found is None else found.spent + found.held
        return sum_standing(used, meter, needed, wall_ns)

    def _take(self, meter: Meter, amount: int, now_ns: int, wall_ns: int) -> Standing:
        if meter.kind is Kind.RATE:
            tat_ns = max(self._tats.get(meter.key, 0), now_ns) + cost_ns(meter, amount)
            self._tats[meter.key] = tat_ns
            return gcra_standing(tat_ns, now_ns, meter)
        found = self._sums.get(meter.key)
        if found is None:
            found = self._sums[meter.key] = _Sum(meter.ends_ns)
        found.held += amount
        return sum_standing(found.spent + found.held, meter, 0, wall_ns)


class _Sum:
    __slots__ = ("ends_ns", "held", "spent")

    def __init__(self, ends_ns: int) -> None:
        self.ends_ns = ends_ns
        self.held = 0
        self.spent = 0
