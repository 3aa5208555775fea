"""Decide in which order the members of a pool are tried.

Every strategy returns all members, so that a call that fails at the first goes on to the others.
Random numbers and the clock are arguments.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asgi_llmgate.core.retry import moment_s

__all__ = ["KeyLimits", "Load", "Strategy", "by_cost", "by_load", "by_weight"]

# Seconds after which a latency counts half: long enough to smooth, short enough that a target
# which was slow once is tried again within a minute.
HALF_LIFE_S = 10.0

# A key with less than this share of a limit left is near it: some calls are in flight.
NEAR = 0.02


class Strategy(enum.StrEnum):
    PRIORITY = "priority"
    """As written."""
    WEIGHTED = "weighted"
    """At random, in proportion to weight."""
    LATENCY = "latency"
    """The less loaded of two that are drawn at random."""
    COST = "cost"
    """Cheapest first."""


class Load:
    """How busy and how slow one member is: latency as an EWMA, times the calls in flight.

    Without calls the latency decays, so what was slow is tried again.
    """

    __slots__ = ("_at_s", "_latency_s", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._latency_s = 0.0
        self._at_s = 0.0

    def latency_s(self, now_s: float) -> float:
        return self._latency_s * math.exp2(-max(0.0, now_s - self._at_s) / HALF_LIFE_S)

    def note(self, latency_s: float, now_s: float) -> None:
        decayed = self.latency_s(now_s)
        # A jump up is believed at once, a fall slowly: a target that begins to hang is left fast.
        new = latency_s if latency_s > decayed else decayed + 0.3 * (latency_s - decayed)
        self._latency_s, self._at_s = new, now_s

    def score(self, now_s: float) -> float:
        return (self.latency_s(now_s) + 1e-6) * (self.in_flight + 1)


def by_weight(weights: Sequence[float], rolls: Sequence[float]) -> list[int]:
    """Return the places of all members in random order: each is first in proportion to its weight.

    Args:
        weights: More than 0.
        rolls: One random number in [0, 1) for each.

    Source: Efraimidis and Spirakis, 2006.
    """
    # -log(roll) / weight is an exponential waiting time; the shortest comes first.
    waits = [-math.log(1.0 - roll) / weight for weight, roll in zip(weights, rolls, strict=True)]
    return sorted(range(len(waits)), key=waits.__getitem__)


def by_load(order: Sequence[int], scores: Sequence[float]) -> list[int]:
    """Return `order`, a random one, with the better of its first two in front."""
    if len(order) > 1 and scores[order[1]] < scores[order[0]]:
        return [order[1], order[0], *order[2:]]
    return list(order)


def by_cost(costs: Sequence[int | None]) -> list[int]:
    """Return the places of all members, cheapest first; those without a known price last."""
    return sorted(
        range(len(costs)), key=lambda place: (costs[place] is None, costs[place] or 0, place)
    )


@dataclass(frozen=True, slots=True)
class _Limit:
    share_left: float
    reset_s: float


class KeyLimits:
    """What the rate-limit headers of answers say about one key. Times are monotonic seconds."""

    __slots__ = ("_limits", "blocked_until_s")

    def __init__(self) -> None:
        self._limits: dict[bytes, _Limit] = {}
        self.blocked_until_s = 0.0
        """Until then the provider asked not to be called with it."""

    def learn(self, headers: Mapping[bytes, bytes], *, now_s: float, wall_s: float) -> None:
        """Read the headers of an answer.

        Args:
            headers: Names in lower case.
            wall_s: Seconds since the epoch, for resets that are moments.
        """
        for name, value in headers.items():
            if b"ratelimit" not in name or b"remaining" not in name:
                continue
            limit = _number(headers.get(name.replace(b"remaining", b"limit")))
            remaining = _number(value)
            if limit is None or remaining is None or limit <= 0:
                continue
            reset = headers.get(name.replace(b"remaining", b"reset"))
            wait = None if reset is None else moment_s(reset.decode("latin-1"), wall_s)
            # Where nobody says when, limits are per minute; one that is old is not believed.
            self._limits[name] = _Limit(remaining / limit, now_s + (60.0 if wait is None else wait))

    def block(self, seconds: float, now_s: float) -> None:
        self.blocked_until_s = max(self.blocked_until_s, now_s + seconds)

    def is_near(self, now_s: float) -> bool:
        """Tell whether the next call is likely to be refused."""
        if now_s < self.blocked_until_s:
            return True
        return any(
            limit.share_left < NEAR and now_s < limit.reset_s for limit in self._limits.values()
        )


def _number(value: bytes | None) -> float | None:
    try:
        number = float(value or b"")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
