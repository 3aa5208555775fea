"""Budgets as people see them: listed with what was spent, set, reset, and reported when they near
their end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from typing import Any

from asgi_llmgate.core.budgets import Budget, budget_prefix, period_of
from asgi_llmgate.core.record import usd
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import LimitStore

__all__ = ["BudgetAlerts", "Budgets", "budget_view"]

logger = logging.getLogger("asgi_llmgate")

MAX_TOLD = 10_000


class Budgets:
    """What the command line and the admin API do with budgets.

    Args:
        store: Where budgets are kept and counted.
        own: Those of the settings, which nobody changes here.
        zone: In which periods begin.
    """

    def __init__(self, store: LimitStore, own: Sequence[Budget], zone: tzinfo) -> None:
        self.store = store
        self.own = tuple(own)
        self.zone = zone

    async def all(self) -> list[dict[str, Any]]:
        """Return every budget, with what each subject spent in the period of now."""
        stored = await self.store.load_budgets()
        return [
            *[await self._view(budget, "settings") for budget in self.own],
            *[await self._view(budget, "stored") for budget in stored],
        ]

    async def set(self, budget: Budget) -> dict[str, Any]:
        """Add or replace a budget. What was spent so far counts.

        Raises:
            ValueError: the settings have one of that name.
        """
        self._check_free(budget.name)
        await self.store.set_budget(budget)
        return await self._view(budget, "stored")

    async def remove(self, name: str) -> bool:
        self._check_free(name)
        return await self.store.remove_budget(name)

    async def reset(self, name: str, subject: str | None = None) -> bool:
        """Forget what was spent; False if there is no such budget."""
        names = {budget.name for budget in (*self.own, *await self.store.load_budgets())}
        if name not in names:
            return False
        await self.store.reset_budget(f"budget|{name}|", subject)
        return True

    def _check_free(self, name: str) -> None:
        if name in {budget.name for budget in self.own}:
            raise ValueError(f"the budget {name} is in the settings; change it there")

    async def _view(self, budget: Budget, origin: str) -> dict[str, Any]:
        begin, end = period_of(budget.period, datetime.fromtimestamp(time.time(), self.zone))
        current = f"{budget_prefix(budget)}{begin.astimezone(UTC):%Y-%m-%dT%H:%MZ}|"
        spent = await self.store.spent(current)
        return budget_view(budget) | {
            "origin": origin,
            "period_begins": begin.isoformat(),
            "period_ends": end.isoformat(),
            "spent": [
                {"subject": key[len(current) :], "spent_nanousd": value, "spent_usd": usd(value)}
                for key, value in sorted(spent.items(), key=lambda item: -item[1])
            ],
        }


def budget_view(budget: Budget) -> dict[str, Any]:
    """Return a budget as JSON, amounts in nano-dollars and as decimal strings of dollars."""
    view = asdict(budget)
    view["period"] = budget.period.value
    view["limit_usd"] = usd(budget.limit_nanousd)
    view["soft_usd"] = None if budget.soft_nanousd is None else usd(budget.soft_nanousd)
    return view


class BudgetAlerts:
    """Tells the webhook, once per period and subject, that a soft threshold was reached.

    Whoever is first of all workers posts. If he dies before it was taken, nobody does.

    Args:
        budgets: Every budget there is now.
        post: Posts an event to a URL, trying again.
        url: For budgets that name none.
    """

    def __init__(
        self,
        store: LimitStore,
        budgets: Callable[[], Sequence[Budget]],
        post: Callable[[str, dict[str, object]], Awaitable[bool]],
        *,
        url: str | None = None,
    ) -> None:
        self._store = store
        self._budgets = budgets
        self._post = post
        self._url = url
        self._told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def on_spent(self, key: str, total_nanousd: int) -> None:
        """Take what a store tells: the key of a meter, and what was spent of it."""
        if key in self._told:
            return
        name = key.split("|", 2)[1]
        for budget in self._budgets():
            if budget.name == name and budget.soft_nanousd is not None:
                url = budget.webhook or self._url
                if total_nanousd >= budget.soft_nanousd and url is not None:
                    if len(self._told) >= MAX_TOLD:
                        self._told.clear()
                    self._told.add(key)
                    task = asyncio.get_running_loop().create_task(
                        self._tell(url, key, budget, total_nanousd)
                    )
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def aclose(self, timeout_s: float = 2.0) -> None:
        """Give what is being posted a moment, then let go."""
        tasks = [task for task in self._tasks if task.get_loop() is asyncio.get_running_loop()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _tell(self, url: str, key: str, budget: Budget, total_nanousd: int) -> None:
        try:
            if not await self._store.first(key):
                return
        except BackendError as error:
            self._told.discard(key)
            logger.error("A budget's soft threshold cannot be told: %s", error)
            return
        _, name, begins, subject = key.split("|", 3)
        event: dict[str, object] = {
            "type": "budget.soft_threshold",
            "timestamp": datetime.now(UTC).isoformat(),
            "data": {
                "budget": name,
                "per": budget.per,
                "subject": subject,
                "period": budget.period.value,
                "period_begins": begins,
                "spent_usd": usd(total_nanousd),
                "soft_usd": usd(budget.soft_nanousd or 0),
                "limit_usd": usd(budget.limit_nanousd),
                "hard": budget.hard,
            },
        }
        await self._post(url, event)
