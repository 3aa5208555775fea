"""What the store has for one request, and what of it may be given."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import Scope

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.cache_entry import Entry, decode_entry
from asgi_llmgate.core.cache_key import CacheKey, Question
from asgi_llmgate.core.cache_plan import BUMPS, Plan, Verdict, judge
from asgi_llmgate.core.replay import replay
from asgi_llmgate.middleware._cache_ask import Asked

if TYPE_CHECKING:  # It imports this module, by way of another.
    from asgi_llmgate.middleware.cache import CacheMiddleware

__all__ = ["Found", "Hit", "Reading"]

# For what is compared, not given.
ANY = Plan(None, reads=True)


class Hit(NamedTuple):
    entry: Entry
    verdict: Verdict
    content_type: bytes
    body: bytes
    slot: int
    key: CacheKey


class Found(NamedTuple):
    """What the store had for a request.

    `stale` may stand in for an error; `free` are slots without an answer that counts.
    """

    generations: dict[str, int]
    hit: Hit | None
    stale: Hit | None
    free: Sequence[int]


class Reading:
    """One request, and what is read for it.

    Args:
        key: Of the question.
        partition: Of the namespace.
        names: Generations that an answer depends on, as far as known before the call.
    """

    def __init__(
        self,
        cache: CacheMiddleware,
        context: GatewayContext,
        scope: Scope,
        asked: Asked,
        plan: Plan,
        namespace: str,
        key: CacheKey,
        partition: str,
        names: tuple[str, ...],
    ) -> None:
        self.cache = cache
        self.context = context
        self.scope = scope
        self.asked = asked
        self.plan = plan
        self.namespace = namespace
        self.key = key
        self.partition = partition
        self.names = names

    async def look_up(self, key: CacheKey, *, more: Iterable[str] = ()) -> Found:
        """Read what is stored under `key`, and judge it.

        Args:
            more: Further names whose generations are to be read.

        Raises:
            BackendError: nothing is known, neither of answers nor of generations.
        """
        cache, plan = self.cache, self.plan
        names = [*self.names, BUMPS]
        names += [name for name in more if name not in names]
        slots = plan.slots if plan.reads or plan.stale_if_error_s else 0
        values, generations = await cache.store.read(key, slots=slots, names=names)
        if not slots:
            return Found(generations, None, None, range(plan.slots))
        entries = [
            None if value is None else decode_entry(cache.secret, key, value) for value in values
        ]
        unknown = {
            name
            for entry in entries
            if entry is not None
            for name in entry.generations
            if name not in generations
        }
        if unknown:
            generations = generations | await cache.store.generations(tuple(unknown))
        hits: list[Hit] = []
        stale: Hit | None = None
        free: list[int] = []
        for slot, entry in enumerate(entries):
            hit = None if entry is None else self._judged(entry, key, slot, generations)
            if hit is None:
                free.append(slot)
            elif hit.verdict is Verdict.EXPIRED:
                free.append(slot)
                stale = hit
            else:
                hits.append(hit)
        # Several answers are given only when there are all, so that each is as likely as any.
        is_full = plan.reads and len(hits) == plan.slots
        chosen = random.choice(hits) if is_full else None  # noqa: S311 -- no secret
        return Found(generations, chosen, stale, free or range(plan.slots))

    async def entry_at(self, key: CacheKey) -> Entry | None:
        """Return an answer stored under `key` that still counts, whoever may see it.

        Raises:
            BackendError: the store failed.
        """
        cache = self.cache
        values, _ = await cache.store.read(key, slots=1, names=())
        entry = None if values[0] is None else decode_entry(cache.secret, key, values[0])
        if entry is None:
            return None
        generations = await cache.store.generations(tuple(entry.generations))
        now_us = cache.clock_us()
        verdict = judge(entry, ANY, cache.policy, now_us=now_us, generations=generations)
        return entry if verdict in (Verdict.FRESH, Verdict.SOFT) else None

    def question(self, namespace: str) -> Question:
        """Return everything the answer depends on, for whom shares answers in `namespace`."""
        return self.cache.question(self.context, self.asked, namespace)

    def _judged(
        self, entry: Entry, key: CacheKey, slot: int, generations: dict[str, int]
    ) -> Hit | None:
        """Return what can be given of `entry`; None if that is nothing."""
        cache = self.cache
        verdict = judge(
            entry,
            self.plan,
            cache.policy,
            now_us=cache.clock_us(),
            generations=generations,
            names=self.names,
        )
        if verdict is Verdict.DEAD:
            return None
        if not cache.may_read(self.context, self.namespace, entry):
            self.context.cache_reason = "unproven-key"
            return None
        asked = self.asked
        told = replay(entry.wire_format, entry.form, entry.body, asked.wanted, entry.usage)
        return None if told is None else Hit(entry, verdict, *told, slot, key)
