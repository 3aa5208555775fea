"""Limits that several workers share: purses here, meters in a store.

A call is decided in memory as long as the worker's purse holds enough. Else the store is asked
for more, which takes a transaction or a round trip, off the event loop. What was spent, and what
lies unused, goes to the store ten times a second.

Where the store fails, the worker goes on by itself with its share of every limit: the quota over
the number of workers. It is looked for once a second, by a task and never by a call, and told
what was spent meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from asgi_llmgate.core.budgets import Budget
from asgi_llmgate.core.ledger import Ledger
from asgi_llmgate.core.meters import Claim, Kind, Meter, Standing
from asgi_llmgate.core.purse import Posting, Purse
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import Taken

__all__ = ["Grant", "SharedLimitStore", "SharedMeters", "Want"]

logger = logging.getLogger("asgi_llmgate")

T = TypeVar("T")

POST_EVERY_S = 0.1
PROBE_EVERY_S = 1.0
# Budgets are asked for again behind a call when they are that old, and before it beyond twice that.
BUDGETS_EVERY_NS = 1_000_000_000
MAX_PURSES = 50_000
# Parts of a time limit, and by how much a loop that is late may lengthen it.
SLICES = 5
LATE_FACTOR = 10


class Want(NamedTuple):
    """What a purse needs: at least `needed`, and up to `wanted` if that much is there."""

    meter: Meter
    needed: int
    wanted: int


class Grant(NamedTuple):
    """What it got: 0 if `standing` does not allow it."""

    amount: int
    standing: Standing


class SharedMeters(Protocol):
    """Meters that several processes use.

    - `draw` answers each want by itself; together, processes never get more than a meter has.
    - `post` takes what was used and what goes back, whatever the meter says of it; it returns
      what was spent so far of each budget that was posted to.
    - What a process that died had leased of a budget comes back.
    - Everything raises `BackendError` and nothing else, within a second or two; nobody waits for
      `draw` longer than `timeout_s`.
    - `workers` is how many processes use the meters, as far as is known.
    """

    workers: int
    timeout_s: float

    async def draw(self, wants: Sequence[Want]) -> list[Grant]: ...

    async def post(self, postings: Sequence[Posting]) -> dict[str, int]: ...

    async def load_budgets(self) -> list[Budget]: ...

    async def set_budget(self, budget: Budget) -> None: ...

    async def remove_budget(self, name: str) -> bool: ...

    async def reset_budget(self, prefix: str, subject: str | None) -> None: ...

    async def spent(self, prefix: str) -> dict[str, int]: ...

    async def first(self, key: str) -> bool: ...

    async def aclose(self) -> None: ...


class _Hold(NamedTuple):
    claims: Sequence[Claim]
    purses: Sequence[Purse] | None
    """None if the worker was on its own when it decided."""
    local: Sequence[Claim]


class SharedLimitStore:
    """A `LimitStore` over `SharedMeters`. One event loop at a time.

    What a killed worker had not yet posted is lost: a tenth of a second of spending.

    Args:
        meters: Yours, but closed with this.
        workers: How many there are at least; the store may know of more.
        count: Told of every call that was decided without the store.
    """

    def __init__(
        self,
        meters: SharedMeters,
        *,
        workers: int = 1,
        count: Callable[..., None] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.meters = meters
        self.on_spent: Callable[[str, int], None] | None = None
        self.degraded = 0
        self._workers = workers
        self._count = count
        self._clock_ns = clock_ns
        self._wall_clock_ns = wall_clock_ns
        self._start_empty()
        _ALIVE.add(self)

    def _start_empty(self) -> None:
        """Begin without leases: after a fork those of the parent are the parent's."""
        self._purses: dict[str, Purse] = {}
        self._changed: dict[str, Purse] = {}
        self._local = Ledger()
        self._is_down = False
        self._budgets: Sequence[Budget] | None = None
        self._budgets_at_ns = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Future[object]] = set()
        self._asking: list[tuple[list[Want], list[Purse], asyncio.Future[list[Grant] | None]]] = []
        self._asker: asyncio.Future[object] | None = None
        self._loading: asyncio.Future[object] | None = None

    @property
    def is_down(self) -> bool:
        return self._is_down

    def take(self, claims: Sequence[Claim], /) -> Taken | Awaitable[Taken]:
        now_ns = self._clock_ns()
        if self._is_down:
            return self._take_alone(claims, now_ns)
        purses = [self._purse(meter) for meter, _, _ in claims]
        enough = True
        for (_, amount, needed), purse in zip(claims, purses, strict=True):
            if purse.free < max(amount, needed):
                if purse.refuses(max(amount, needed), now_ns):
                    return Taken(None, self._standings(purses, purse, now_ns))
                enough = False
        if not enough:
            return self._draw_and_take(claims, purses, now_ns)
        for (_, amount, needed), purse in zip(claims, purses, strict=True):
            purse.reserve(amount, needed, now_ns)
        return Taken(_Hold(claims, purses, ()), [purse.standing(now_ns) for purse in purses])

    def settle(self, hold: object, spent: Sequence[int], /) -> None:
        assert isinstance(hold, _Hold)
        if hold.purses is None:
            self._settle_alone(hold, spent)
            return
        is_urgent = False
        for (meter, amount, _), purse, took in zip(hold.claims, hold.purses, spent, strict=True):
            purse.settle(amount, took)
            self._changed[meter.key] = purse
            is_urgent = is_urgent or (purse.owes and meter.kind is Kind.BUDGET)
        self._arm(0 if is_urgent else POST_EVERY_S)

    def budgets(self) -> Sequence[Budget] | None:
        known = self._budgets
        if known is None or self._is_down:
            return known
        age_ns = self._clock_ns() - self._budgets_at_ns
        if age_ns > 2 * BUDGETS_EVERY_NS:
            return None  # Nobody has called for a while, and meanwhile one may have been set.
        if age_ns > BUDGETS_EVERY_NS:
            self._begin_to_load()
        return known

    async def load_budgets(self) -> Sequence[Budget]:
        await asyncio.shield(self._begin_to_load())
        return self._budgets or ()

    def _begin_to_load(self) -> asyncio.Future[object]:
        loading = self._loading
        if (
            loading is None
            or loading.done()
            or loading.get_loop() is not asyncio.get_running_loop()
        ):
            loading = self._loading = self._spawn(self._load_budgets())
        return loading

    async def _load_budgets(self) -> None:
        as_of_ns = self._clock_ns()
        try:
            self._budgets = tuple(await self._in_time(self.meters.load_budgets))
        except (BackendError, TimeoutError) as error:
            if self._budgets is None:
                self._budgets = ()
            self._fail(error)
        self._budgets_at_ns = as_of_ns

    async def set_budget(self, budget: Budget) -> None:
        await self.meters.set_budget(budget)
        await self._load_budgets()

    async def remove_budget(self, name: str) -> bool:
        removed = await self.meters.remove_budget(name)
        await self._load_budgets()
        return removed

    async def reset_budget(self, prefix: str, subject: str | None) -> None:
        await self._post(everything=False)
        await self.meters.reset_budget(prefix, subject)
        for key, purse in self._purses.items():
            if key.startswith(prefix):
                purse.refused_until_ns = 0

    async def spent(self, prefix: str) -> dict[str, int]:
        await self._post(everything=False)
        return await self.meters.spent(prefix)

    async def first(self, key: str) -> bool:
        return await self.meters.first(key)

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            if task.get_loop() is asyncio.get_running_loop():
                await asyncio.wait([task], timeout=self.meters.timeout_s)
        self._changed.update(self._purses)
        await self._post(everything=True)
        await self.meters.aclose()
        self._timer = None

    def _purse(self, meter: Meter) -> Purse:
        purse = self._purses.get(meter.key)
        if purse is None:
            if len(self._purses) >= MAX_PURSES:
                self._changed.update(self._purses)
                self._drop_empty()
            purse = self._purses[meter.key] = Purse(meter)
        elif purse.meter is not meter:
            purse.meter = meter  # Another quota, by whoever sets it.
        return purse

    async def _draw_and_take(
        self, claims: Sequence[Claim], purses: list[Purse], now_ns: int
    ) -> Taken:
        wants, drawers = [], []
        for (meter, amount, needed), purse in zip(claims, purses, strict=True):
            others = purse.drawing
            missing = purse.reserve(amount, max(amount, needed), now_ns)
            if missing:
                # Those who come while a chunk is on its way ask for what they need.
                extra = 0 if others else purse.chunk
                wants.append(Want(meter, missing, missing + extra))
                drawers.append(purse)
        drawing = self._draw(wants, drawers)
        try:
            # Shielded: what was granted must be put into the purse though the caller has left.
            grants = await asyncio.shield(drawing)
        except BaseException:
            self._undo(claims, purses)
            raise
        now_ns = self._clock_ns()
        if grants is None:
            self._undo(claims, purses)
            return self._take_alone(claims, now_ns)
        refused = {
            purse.meter.key: grant.standing
            for purse, grant in zip(drawers, grants, strict=True)
            if not grant.standing.allowed
        }
        if not refused:
            standings = [purse.standing(now_ns)._replace(allowed=True) for purse in purses]
            return Taken(_Hold(claims, purses, ()), standings)
        self._undo(claims, purses)
        return Taken(
            None,
            [
                refused.get(purse.meter.key) or purse.standing(now_ns)._replace(allowed=True)
                for purse in purses
            ],
        )

    def _draw(self, wants: list[Want], drawers: list[Purse]) -> asyncio.Future[list[Grant] | None]:
        """Ask the store, together with all who ask meanwhile; None if it failed."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Grant] | None] = loop.create_future()
        self._asking.append((wants, drawers, answer))
        if self._asker is None or self._asker.done() or self._asker.get_loop() is not loop:
            self._asker = self._spawn(self._ask())
        return answer

    async def _ask(self) -> None:
        while self._asking:
            asked, self._asking = self._asking, []
            wants = [want for some, _, _ in asked for want in some]
            drawers = [purse for _, some, _ in asked for purse in some]
            grants: list[Grant] | None = None
            try:
                # Who came while others waited in vain does not wait as long once more.
                if not self._is_down:
                    grants = await self._in_time(functools.partial(self.meters.draw, wants))
            except (BackendError, TimeoutError) as error:
                self._fail(error)
            finally:
                self._note(wants, drawers, grants)
                place = 0
                for some, _, answer in asked:
                    if not answer.done():
                        end = place + len(some)
                        answer.set_result(None if grants is None else grants[place:end])
                    place += len(some)

    async def _in_time(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` within the store's time limit, as the event loop measures it.

        While the loop is late itself, as in the first second of a worker on a busy machine, a
        store that has answered long ago looks silent; such time does not count, up to a bound.

        Raises:
            TimeoutError: the store was silent for too long.
        """
        task = asyncio.ensure_future(work())
        slice_s = self.meters.timeout_s / SLICES
        slices, started_ns = SLICES, self._clock_ns()
        try:
            while slices and self._clock_ns() - started_ns < LATE_FACTOR * slice_s * SLICES * 1e9:
                slice_ns = self._clock_ns()
                done, _ = await asyncio.wait([task], timeout=slice_s)
                if done:
                    return task.result()
                slices -= self._clock_ns() - slice_ns < 1.5 * slice_s * 1e9
            raise TimeoutError
        finally:
            task.cancel()

    def _note(
        self, wants: Sequence[Want], drawers: Sequence[Purse], grants: Sequence[Grant] | None
    ) -> None:
        now_ns = self._clock_ns()
        for place, (want, purse) in enumerate(zip(wants, drawers, strict=True)):
            purse.drawing -= want.needed
            self._changed[want.meter.key] = purse
            if grants is not None:
                purse.drawn(grants[place].amount, want.needed, grants[place].standing, now_ns)
        self._arm()

    def _undo(self, claims: Sequence[Claim], purses: Sequence[Purse]) -> None:
        for (_, amount, _), purse in zip(claims, purses, strict=True):
            purse.undo(amount)

    def _standings(self, purses: Sequence[Purse], refusing: Purse, now_ns: int) -> list[Standing]:
        standings = []
        for purse in purses:
            standing = purse.standing(now_ns)
            standings.append(standing._replace(allowed=purse is not refusing))
        return standings

    def _take_alone(self, claims: Sequence[Claim], now_ns: int) -> Taken:
        self.degraded += 1
        if self._count is not None:
            self._count("llmgate_limits_degraded_total")
        workers = max(self._workers, self.meters.workers)
        local = []
        for meter, amount, needed in claims:
            quota = meter.quota
            if meter.kind is Kind.BUDGET:
                purse = self._purses.get(meter.key)
                quota -= purse.total_spent if purse is not None else 0
            # At least one call, so that a limit of less than one per worker does not stop all.
            least = 0 if meter.kind is Kind.BUDGET else 1
            share = meter._replace(quota=max(least, quota // workers))
            most = max(1, share.quota)
            local.append(Claim(share, min(amount, most), min(needed, most)))
        standings = self._local.take(local, now_ns, self._wall_clock_ns())
        allowed = all(standing.allowed for standing in standings)
        return Taken(_Hold(claims, None, local) if allowed else None, standings)

    def _settle_alone(self, hold: _Hold, spent: Sequence[int]) -> None:
        now_ns = self._clock_ns()
        for claim, (share, reserved, _), took in zip(hold.claims, hold.local, spent, strict=True):
            self._local.settle(share, reserved, took, now_ns)
            if took:
                purse = self._purse(claim.meter)
                purse.settle(0, took)
                self._changed[claim.meter.key] = purse
        self._arm()

    def _arm(self, pause_s: float = POST_EVERY_S) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._timer = loop, None
        if self._is_down:
            pause_s = PROBE_EVERY_S
        if self._timer is not None:
            if pause_s or self._is_down:
                return
            self._timer.cancel()
        self._timer = loop.call_later(pause_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._spawn(self._post(everything=False))

    def _spawn(self, work: Awaitable[object]) -> asyncio.Future[object]:
        task: asyncio.Future[object] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _post(self, *, everything: bool) -> None:
        now_ns = self._clock_ns()
        changed, self._changed = self._changed, {}
        postings = []
        for key, purse in changed.items():
            posting = purse.collect(now_ns, everything=everything)
            if posting is not None:
                postings.append(posting)
            if not purse.is_empty(now_ns):
                self._changed[key] = purse
            elif self._purses.get(key) is purse:
                del self._purses[key]
        if postings or self._is_down:
            await self._deliver(postings)
        if (self._changed or self._is_down) and not everything:
            self._arm()

    async def _deliver(self, postings: list[Posting]) -> None:
        delivered = False
        try:
            totals = await self.meters.post(postings)
            delivered = True
        except (BackendError, TimeoutError) as error:
            self._fail(error)
        finally:
            if not delivered:
                for posting in postings:
                    self._purse(posting.meter).put_back(posting)
                    self._changed[posting.meter.key] = self._purses[posting.meter.key]
        if not delivered:
            return
        if self._is_down:
            self._is_down = False
            self._local = Ledger()
            logger.warning("The store of the limits is back.")
        for key, total in totals.items():
            purse = self._purses.get(key)
            if purse is not None:
                purse.total_spent = total
            if self.on_spent is not None:
                self.on_spent(key, total)

    def _drop_empty(self) -> None:
        now_ns = self._clock_ns()
        for key in [key for key, purse in self._purses.items() if purse.is_empty(now_ns)]:
            del self._purses[key]

    def _fail(self, error: Exception) -> None:
        if not self._is_down:
            self._is_down = True
            workers = max(self._workers, self.meters.workers)
            logger.error(
                "The store of the limits failed (%s); every worker keeps 1/%d of each limit.",
                str(error) or "too slow",
                workers,
            )
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self._arm()


_ALIVE: weakref.WeakSet[SharedLimitStore] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_ALIVE):
        store._start_empty()


if hasattr(os, "register_at_fork"):  # Not on Windows, which has no fork.
    os.register_at_fork(after_in_child=_after_fork_in_child)
