"""Meters in Redis, for workers on several machines.

Counters only: INCRBY, DECRBY, GET, EXPIRE, and a hash for the budgets that were set. So it works
for a user without the right to run scripts (rule R20):

    ACL SETUSER llmgate on >… ~llmgate:* +@read +@write +@connection +@fast -@dangerous -@scripting

rate        `…:r:<key>:<n>` counts the n-th fixed window; the last one is weighed by the part of
            it that is within reach. What is too much is taken back, so that two workers at the
            edge of a limit may both be refused, and never both be let through.
budget      `…:s:<key>` is spent; `…:h:<key>:<n>` is held, in slots of 30 s of which two count. A
            process that lives moves what it holds into the new slot; what a dead one held is
            gone after 60 s.
concurrent  as what is held of a budget.

Times are of the server's clock, so a worker whose own is wrong counts in the same windows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Self, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from asgi_llmgate.backends.limits_shared import Grant, Want
from asgi_llmgate.core.budgets import Budget, budget_from
from asgi_llmgate.core.json import dumps, loads
from asgi_llmgate.core.ledger import sum_standing
from asgi_llmgate.core.limits import BadPolicyError
from asgi_llmgate.core.meters import Kind, Meter, Standing, sliding
from asgi_llmgate.core.purse import Posting
from asgi_llmgate.errors import BackendError

__all__ = ["RedisMeters"]

T = TypeVar("T")

SLOT_NS = 30_000_000_000
SLOT_LIFE_S = 120
TIME_EVERY_NS = 10_000_000_000
KEPT_S = 40 * 86_400
NANO = 1_000_000_000
# A round trip within a data centre takes less than 1 ms, so no call waits longer than `timeout_s`.
# This is for what nobody waits for: on a busy machine an event loop is late by more than that.
SOCKET_TIMEOUT_S = 1.0


class RedisMeters:
    """`SharedMeters` in Redis.

    Args:
        client: Yours; give it short timeouts and no retries. `from_url` makes one that has them.
        prefix: Before every key.
        clock_ns: Steady nanoseconds of this process.
    """

    timeout_s = 0.1

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = "llmgate:limits:",
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.workers = 1
        self._client = client
        self._is_ours = False
        self._prefix = prefix
        self._clock_ns = clock_ns
        self._offset_ns: int | None = None
        self._timed_at_ns = 0
        # What this process has in which slot or window, oldest first.
        self._slots: dict[str, dict[int, int]] = {}
        self._meters: dict[str, Meter] = {}
        self._slot = -1

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "llmgate:limits:") -> Self:
        client: Redis = Redis.from_url(
            url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            # Enough for a burst; one connection carries thousands of these a second.
            max_connections=64,
            # Else each new connection reads the metadata of an installed package, on the loop.
            driver_info=None,
        )
        meters = cls(client, prefix=prefix)
        meters._is_ours = True
        return meters

    async def draw(self, wants: Sequence[Want]) -> list[Grant]:
        return await self._guard(self._draw(wants))

    async def post(self, postings: Sequence[Posting]) -> dict[str, int]:
        return await self._guard(self._post(postings))

    async def load_budgets(self) -> list[Budget]:
        rows: dict[Any, Any] = await self._guard(self._client.hgetall(f"{self._prefix}budgets"))
        budgets = []
        for _, body in sorted(rows.items()):
            try:
                budgets.append(budget_from(loads(body)))
            except (BadPolicyError, ValueError) as error:
                raise BackendError(f"A budget in Redis cannot be read: {error}") from None
        return budgets

    async def set_budget(self, budget: Budget) -> None:
        await self._guard(
            self._client.hset(f"{self._prefix}budgets", budget.name, dumps(asdict(budget)))
        )

    async def remove_budget(self, name: str) -> bool:
        return bool(await self._guard(self._client.hdel(f"{self._prefix}budgets", name)))

    async def reset_budget(self, prefix: str, subject: str | None) -> None:
        await self._guard(self._reset(prefix, subject))

    async def spent(self, prefix: str) -> dict[str, int]:
        return await self._guard(self._spent(prefix))

    async def first(self, key: str) -> bool:
        async def count() -> bool:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.incr(f"{self._prefix}f:{key}")
            pipeline.expire(f"{self._prefix}f:{key}", KEPT_S)
            return bool((await pipeline.execute())[0] == 1)

        return await self._guard(count())

    async def aclose(self) -> None:
        if self._is_ours:
            await self._client.aclose()

    async def _guard(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                return await work
        except (RedisError, OSError, TimeoutError) as error:
            # Its own text may hold the address.
            raise BackendError(f"Redis: {type(error).__name__}") from error

    async def _now_ns(self) -> int:
        """Return the server's time, as of its last answer and the time since."""
        steady_ns = self._clock_ns()
        if self._offset_ns is None or steady_ns - self._timed_at_ns > TIME_EVERY_NS:
            seconds, microseconds = await self._client.time()
            steady_ns = self._clock_ns()
            self._offset_ns = seconds * NANO + microseconds * 1000 - steady_ns
            self._timed_at_ns = steady_ns
        return steady_ns + self._offset_ns

    async def _draw(self, wants: Sequence[Want]) -> list[Grant]:
        now_ns = await self._now_ns()
        pipeline = self._client.pipeline(transaction=False)
        for meter, _, wanted in wants:
            place = self._place(meter, now_ns)
            pipeline.incrby(self._at(meter, place), wanted)
            pipeline.expire(self._at(meter, place), self._life_s(meter))
            pipeline.get(self._at(meter, place - 1))
            if meter.kind is Kind.BUDGET:
                pipeline.get(f"{self._prefix}s:{meter.key}")
        answers = iter(await pipeline.execute())
        grants = []
        undo = self._client.pipeline(transaction=False)
        for meter, needed, wanted in wants:
            # Less than was just added is what a Redis counts that has lost its memory.
            current = max(wanted, int(next(answers)))
            next(answers)
            last = max(0, int(next(answers) or 0))
            spent = int(next(answers) or 0) if meter.kind is Kind.BUDGET else 0
            used, standing = self._used(meter, last, current, spent, now_ns)
            amount = min(wanted, wanted + meter.quota - used)
            if amount < needed:
                amount = 0
                standing = self._refusal(
                    meter, last, current - wanted, used - wanted, needed, now_ns
                )
            place = self._place(meter, now_ns)
            if amount < wanted:
                undo.decrby(self._at(meter, place), wanted - amount)
            if amount:
                slots = self._slots.setdefault(meter.key, {})
                slots[place] = slots.get(place, 0) + amount
                self._meters[meter.key] = meter
            grants.append(Grant(amount, standing))
        if len(undo):
            await undo.execute()
        return grants

    def _used(
        self, meter: Meter, last: int, current: int, spent: int, now_ns: int
    ) -> tuple[int, Standing]:
        if meter.kind is Kind.RATE:
            used, left_ns = sliding(last, current, now_ns, meter)
            # All is there again when this window has slid out of reach.
            reset_ns = left_ns + meter.window_ns if current > 0 else left_ns
            return used, Standing(True, max(0, meter.quota - used), 0, reset_ns)
        used = spent + max(0, current) + max(0, last)
        return used, sum_standing(used, meter, 0, now_ns)

    def _refusal(
        self, meter: Meter, last: int, current: int, used: int, needed: int, now_ns: int
    ) -> Standing:
        if meter.kind is not Kind.RATE:
            return sum_standing(used, meter, needed, now_ns)._replace(allowed=False)
        _, left_ns = sliding(last, current, now_ns, meter)
        room = meter.quota - needed
        if current <= room and last > 0:
            # The last window has to slide on until `room - current` of it is left.
            wait_ns = left_ns - max(0, room - current) * meter.window_ns // last
        else:
            wait_ns = left_ns
            if current > 0:
                wait_ns += meter.window_ns - max(0, room) * meter.window_ns // current
        remaining = max(0, meter.quota - used)
        return Standing(False, remaining, max(1_000_000, wait_ns), left_ns + meter.window_ns)

    async def _post(self, postings: Sequence[Posting]) -> dict[str, int]:
        now_ns = await self._now_ns()
        pipeline = self._client.pipeline(transaction=False)
        keys = []
        for meter, spent, _ in postings:
            if meter.kind is Kind.BUDGET:
                keys.append(meter.key)
                pipeline.incrby(f"{self._prefix}s:{meter.key}", spent)
                life_s = (meter.ends_ns - now_ns) // NANO + KEPT_S
                pipeline.expire(f"{self._prefix}s:{meter.key}", max(1, life_s))
        spent_commands = len(pipeline)
        for meter, spent, released in postings:
            back = released if meter.kind is Kind.RATE else spent + released
            self._give_back(pipeline, meter, back, now_ns)
        self._renew(pipeline, now_ns)
        answers = await pipeline.execute() if len(pipeline) else [await self._client.ping()]
        counted = answers[len(answers) - 1] if self._counts_workers else None
        if counted is not None:
            self.workers = max(1, int(counted))
        return dict(zip(keys, answers[0:spent_commands:2], strict=True))

    _counts_workers = False

    def _give_back(self, pipeline: Any, meter: Meter, amount: int, now_ns: int) -> None:
        """Take `amount` off the slots it was drawn in, the newest first for rates."""
        now_place = self._place(meter, now_ns)
        if amount < 0:
            pipeline.incrby(self._at(meter, now_place), -amount)
            pipeline.expire(self._at(meter, now_place), self._life_s(meter))
            return
        slots = self._slots.get(meter.key, {})
        for place in sorted(slots, reverse=meter.kind is Kind.RATE):
            taken = min(amount, slots[place])
            slots[place] -= taken
            amount -= taken
            if taken and place >= now_place - 1:
                pipeline.decrby(self._at(meter, place), taken)
                # A Redis that lost its memory meanwhile makes the key anew, without an end.
                pipeline.expire(self._at(meter, place), self._life_s(meter))
            if not slots[place] or place < now_place - 1:
                del slots[place]
        if not slots:
            self._slots.pop(meter.key, None)
            self._meters.pop(meter.key, None)

    def _renew(self, pipeline: Any, now_ns: int) -> None:
        """Move what is held into the new slot, and count who is there."""
        slot = now_ns // SLOT_NS
        self._counts_workers = slot != self._slot
        if slot == self._slot:
            return
        self._slot = slot
        for key, slots in list(self._slots.items()):
            meter = self._meters[key]
            if meter.kind is Kind.RATE:
                oldest = self._place(meter, now_ns) - 1
                self._slots[key] = {place: held for place, held in slots.items() if place >= oldest}
                continue
            old = sum(held for place, held in slots.items() if place < slot)
            if not old:
                continue
            pipeline.incrby(self._at(meter, slot), old)
            pipeline.expire(self._at(meter, slot), SLOT_LIFE_S)
            for place in [place for place in slots if place < slot]:
                held = slots.pop(place)
                if place == slot - 1:
                    pipeline.decrby(self._at(meter, place), held)
                    pipeline.expire(self._at(meter, place), SLOT_LIFE_S)
            slots[slot] = slots.get(slot, 0) + old
        name = f"{self._prefix}workers:"
        pipeline.incr(f"{name}{slot}")
        pipeline.expire(f"{name}{slot}", SLOT_LIFE_S)
        pipeline.get(f"{name}{slot - 1}")

    async def _keys(self, prefix: str) -> list[str]:
        found = [
            key.decode()
            async for key in self._client.scan_iter(
                match=f"{self._prefix}s:{_escaped(prefix)}*", count=1000
            )
        ]
        return sorted(found)

    async def _spent(self, prefix: str) -> dict[str, int]:
        keys = await self._keys(prefix)
        values = await self._client.mget(keys) if keys else []
        start = len(f"{self._prefix}s:")
        return {key[start:]: int(value or 0) for key, value in zip(keys, values, strict=True)}

    async def _reset(self, prefix: str, subject: str | None) -> None:
        suffix = "" if subject is None else f"|{subject}"
        start = len(f"{self._prefix}s:")
        for key in await self._keys(prefix):
            if key.endswith(suffix):
                await self._client.delete(key, f"{self._prefix}f:{key[start:]}")

    def _at(self, meter: Meter, place: int) -> str:
        letter = "r" if meter.kind is Kind.RATE else "h"
        return f"{self._prefix}{letter}:{meter.key}:{place}"

    @staticmethod
    def _place(meter: Meter, now_ns: int) -> int:
        return now_ns // (meter.window_ns if meter.kind is Kind.RATE else SLOT_NS)

    @staticmethod
    def _life_s(meter: Meter) -> int:
        if meter.kind is Kind.RATE:
            return 2 * meter.window_ns // NANO + 1
        return SLOT_LIFE_S


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in text)
