"""Limits of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from asgi_llmgate.core.budgets import Budget
from asgi_llmgate.core.ledger import Ledger
from asgi_llmgate.core.meters import Claim, Kind
from asgi_llmgate.protocols import Taken

__all__ = ["MemoryLimitStore"]


class MemoryLimitStore:
    """A `LimitStore` in the memory of one process: with four workers, four times every limit.

    All is gone when the process ends. For tests, for one worker, and in front of apps of one's
    own. One event loop at a time.

    Args:
        clock_ns: Steady nanoseconds.
        wall_clock_ns: Nanoseconds since the epoch; decides when a budget's period ends.
    """

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.on_spent: Callable[[str, int], None] | None = None
        self._clock_ns = clock_ns
        self._wall_clock_ns = wall_clock_ns
        self._ledger = Ledger()
        self._budgets: dict[str, Budget] = {}
        self._firsts: set[str] = set()

    def take(self, claims: Sequence[Claim], /) -> Taken:
        standings = self._ledger.take(claims, self._clock_ns(), self._wall_clock_ns())
        for standing in standings:
            if not standing.allowed:
                return Taken(None, standings)
        return Taken(claims, standings)

    def settle(self, hold: object, spent: Sequence[int], /) -> None:
        now_ns = self._clock_ns()
        claims: Sequence[Claim] = hold  # type: ignore[assignment]  # as `take` returned it
        for (meter, amount, _), took in zip(claims, spent, strict=True):
            total = self._ledger.settle(meter, amount, took, now_ns)
            if meter.kind is Kind.BUDGET and self.on_spent is not None:
                self.on_spent(meter.key, total)

    def budgets(self) -> Sequence[Budget]:
        return tuple(self._budgets.values())

    async def load_budgets(self) -> Sequence[Budget]:
        return self.budgets()

    async def set_budget(self, budget: Budget) -> None:
        self._budgets[budget.name] = budget

    async def remove_budget(self, name: str) -> bool:
        return self._budgets.pop(name, None) is not None

    async def reset_budget(self, prefix: str, subject: str | None) -> None:
        suffix = "" if subject is None else f"|{subject}"
        self._ledger.forget(prefix, suffix)
        self._firsts = {
            key for key in self._firsts if not (key.startswith(prefix) and key.endswith(suffix))
        }

    async def spent(self, prefix: str) -> dict[str, int]:
        return self._ledger.spent(prefix)

    async def first(self, key: str) -> bool:
        if key in self._firsts:
            return False
        self._firsts.add(key)
        return True

    async def aclose(self) -> None:
        """Nothing was opened."""
