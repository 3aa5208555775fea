"""The semantic tier of the cache: find a question that means the same, and learn from answers.

    look ─ fit for it? ─ embed ─ nearest phrasings ─ decide ─┬─ serves ▶ the answer they share
                                                             └─ a miss, with the reason

    learn, behind the call: compare the new answer with the candidate's; the verdict is a label,
    and the question becomes a phrasing of that answer or of its own.

The tier stands on the exact one: answers are entries of the same store, with the same generations,
signatures and ends, under a key that all phrasings share. Whatever fails here costs a hit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.cache_entry import Entry
from asgi_llmgate.core.cache_key import is_exact, scope_key
from asgi_llmgate.core.cache_key import partition as partition_of
from asgi_llmgate.core.cache_plan import Verdict as Freshness
from asgi_llmgate.core.semantic.alias import Alias, Vector
from asgi_llmgate.core.semantic.asking import Asking, asking
from asgi_llmgate.core.semantic.mind import Decision
from asgi_llmgate.core.semantic.policy import SemanticPolicy, Way, way
from asgi_llmgate.core.semantic.wording import unfit
from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware._minds import Minds
from asgi_llmgate.middleware._semantic_learn import Lesson
from asgi_llmgate.middleware._served import remember
from asgi_llmgate.protocols import CacheStore, Count, Embedder, LabelStore, VectorIndex

if TYPE_CHECKING:  # They import this module.
    from asgi_llmgate.middleware._cache_call import Call
    from asgi_llmgate.middleware._cache_reading import Hit
    from asgi_llmgate.middleware.cache import CacheMiddleware

__all__ = ["Judge", "Seen", "SemanticTier"]

logger = logging.getLogger("asgi_llmgate")

Judge = Callable[[str, str, str, str], Awaitable[bool | None]]
"""Asked with question, answer, other question, other answer: do the answers say the same? None if
that could not be found out."""

NEIGHBOURS = 10
# Lessons wait for the store at most; more at once are not worth the memory.
MAX_LESSONS = 256
DESKS = 2
MAX_CHECKS = 8
# So many hits are checked whatever they saved: nothing is known before.
FREE_CHECKS = 50


class Seen(NamedTuple):
    """What the tier made of a request.

    Args:
        principal: Who asks: 16 hex digits.
        hit: What is served, if anything is.
        free: Slots of that answer that are still empty.
        reason: Why nothing is served.
    """

    question: str
    scope: str
    partition: str
    principal: str
    vector: Vector
    decision: Decision
    hit: Hit | None = None
    free: tuple[int, ...] = ()
    reason: str | None = None

    @property
    def detail(self) -> str | None:
        """For `Cache-Status`; None where nothing was near."""
        if self.hit is None:
            return self.reason if self.decision.neighbour is not None else None
        told = f"semantic;sim={self.decision.similarity:.3f}"
        if self.decision.probability is not None:
            told += f";p={self.decision.probability:.3f}"
        return told


class SemanticTier:
    """To be given to `CacheMiddleware(semantic=...)`.

    Args:
        embedder: Yours to close.
        index: Yours to close.
        labels: Yours to close.
        policy: What is allowed.
        judge: Settles what comparing two texts leaves open; asked behind calls only.
        count: Counts what happens.
        roll: Returns a number from 0 to 1 by chance: which hits are checked.
    """

    def __init__(
        self,
        *,
        embedder: Embedder,
        index: VectorIndex,
        labels: LabelStore,
        policy: SemanticPolicy = SemanticPolicy(),  # noqa: B008 -- frozen
        judge: Judge | None = None,
        count: Count | None = None,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self.embedder = embedder
        self.index = index
        self.labels = labels
        self.policy = policy
        self.judge = judge
        self._count = count
        self._minds: Minds | None = None
        self._lessons: set[asyncio.Task[None]] = set()
        self._roll = roll
        self._desks = asyncio.Semaphore(DESKS)
        self.checks_running = 0
        self._hits = self._checks = 0
        self._saved_nanousd = self._checked_nanousd = 0

    def minds(self, store: CacheStore) -> Minds:
        if self._minds is None:
            self._minds = Minds(self.labels, store, holder=os.urandom(8).hex())
        return self._minds

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if self._count is not None:
            self._count(f"llmgate_semantic_{name}", value, **labels)

    async def look(self, call: Call) -> Seen | str | None:
        """Return what the tier makes of a request; a word if it is only for the exact tier.

        None if the tier is not asked. Never raises because of a backend.
        """
        found = self._asking(call)
        if not isinstance(found, tuple):
            return found
        asked, how = found
        try:
            seen = await self._look(call, asked, how)
        except BackendError as error:
            call.cache.complain("The semantic cache is left out", error)
            self.count("failures_total")
            return "unavailable"
        reason = seen.reason
        self.count("looks_total", result="hit" if seen.hit is not None else reason or "none")
        return seen

    def _asking(self, call: Call) -> tuple[Asking, Way] | str | None:
        context = call.context
        principal = context.principal
        tenant = call.namespace if principal is None else principal.tenant
        how = way(context.directives, self.policy, tenant)
        body = context.body.data
        if how is None or body is None:
            return None
        asked = asking(
            call.asked.wire_format,
            call.asked.request,
            context=self.policy.context,
            standalone=context.directives.cache_question,
        )
        if isinstance(asked, str):
            return None if asked == "route" else asked
        if not is_exact(body):
            return "odd-numbers"
        return unfit(asked.question) or (asked, how)

    async def _look(self, call: Call, asked: Asking, how: Way) -> Seen:
        cache = call.cache
        who = _who(call.context)
        namespace = call.namespace
        if not self.policy.is_shared and who:
            # Lengths first, so that no two pairs of names join to the same.
            namespace = f"{len(namespace)}:{namespace}:{who}"
        scope = scope_key(
            cache.secret,
            call.question(namespace)._replace(request=asked.rest, body=None),
            embedder=self.embedder.id,
        )
        began_s = perf_counter()
        vector = await self.embedder.embed(asked.question)
        self.count("embed_seconds_total", perf_counter() - began_s)
        neighbours = await self.index.nearest(scope, vector, limit=NEIGHBOURS)
        mind = await self.minds(cache.store).of(call.partition)
        principal = partition_of(cache.secret, f"principal:{who}")
        shared = self.policy.is_shared
        if how.threshold is not None:
            decision = mind.decide_by_threshold(
                asked.question,
                neighbours,
                threshold=how.threshold,
                principal=principal,
                is_shared=shared,
            )
        else:
            decision = mind.decide(
                asked.question,
                neighbours,
                max_error=how.max_error,
                principal=principal,
                is_shared=shared,
            )
        seen = Seen(
            asked.question,
            scope,
            call.partition,
            principal,
            vector,
            decision,
            None,
            (),
            decision.reason,
        )
        if not decision.serves or decision.neighbour is None:
            return seen
        answers = await call.look_up(decision.neighbour.alias.answer)
        seen = seen._replace(free=tuple(answers.free))
        if answers.hit is None:
            return seen._replace(reason="filling" if call.plan.slots > 1 else "gone")
        if self.policy.observes:
            self.count("observed_usd_total", (answers.hit.entry.cost_nanousd or 0) / 1e9)
            return seen._replace(reason="observed")
        return seen._replace(hit=answers.hit)

    def wants_check(self, seen: Seen) -> bool:
        """Tell whether the provider is asked behind a hit that was just given."""
        hit = seen.hit
        if hit is None:
            return False
        self._hits += 1
        self._saved_nanousd += hit.entry.cost_nanousd or 0
        is_due = hit.verdict is Freshness.SOFT or self._roll() < seen.decision.look
        if not is_due:
            return False
        if self.checks_running >= MAX_CHECKS or not self._can_pay():
            self.count("checks_skipped_total")
            return False
        self._checks += 1
        self.count("checks_total")
        return True

    def _can_pay(self) -> bool:
        """Tell whether one more check keeps to the budget, in calls and, where known, in money."""
        share = self.policy.check_budget
        if self._checks >= FREE_CHECKS * (share > 0) + share * self._hits:
            return False
        is_new = self._checks < FREE_CHECKS
        return is_new or self._checked_nanousd <= share * self._saved_nanousd

    def checked(self, nanousd: int | None) -> None:
        """Account for a check."""
        self._checked_nanousd += nanousd or 0
        self.count("check_usd_total", (nanousd or 0) / 1e9)

    def remember(self, call: Call, seen: Seen) -> None:
        """Keep what was served, for who says later that it was wrong. Returns at once."""
        if len(self._lessons) < MAX_LESSONS:
            self._behind(remember(call, seen))

    def learn(self, call: Call, seen: Seen, entry: Entry) -> None:
        """Learn from an answer that the provider has just given. Returns at once."""
        if len(self._lessons) >= MAX_LESSONS:
            self.count("lessons_dropped_total")
            return
        self._behind(self._learn(Lesson(self, call, seen, entry)))

    async def _learn(self, lesson: Lesson) -> None:
        # Comparing answers takes the embedder longer than a question, which must not wait for it.
        async with self._desks:
            await lesson.run()

    async def take_back(
        self, cache: CacheMiddleware, partition: str, scope: str, alias: Alias
    ) -> None:
        """Forget a phrasing that led to a wrong answer; after the second time, the answer.

        Raises:
            BackendError: it may still be served.
        """
        self.count("quarantined_total")
        await self.index.remove(scope, [alias.id])
        mind = await self.minds(cache.store).of(partition)
        if mind.is_discredited(alias.answer):
            await self.index.remove_answer(scope, alias.answer)
            await cache.store.delete(alias.answer)

    def _behind(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._lessons.add(task)
        task.add_done_callback(self._lessons.discard)

    async def settled(self) -> None:
        """Wait until everything that was to be learned so far is learned."""
        while self._lessons:
            await asyncio.wait(tuple(self._lessons))

    async def aclose(self) -> None:
        """Finish lessons that are on their way; nothing of what was given is closed."""
        if self._lessons:
            _, late = await asyncio.wait(tuple(self._lessons), timeout=5.0)
            for task in late:
                task.cancel()
        if self._minds is not None:
            self._minds.forget()
            self._minds = None


def _who(context: GatewayContext) -> str:
    """Return the verified end user, else the principal; empty for nobody."""
    principal, tags = context.principal, context.tags
    if tags is not None and tags.user_id is not None and tags.user_trust == "verified":
        return f"user:{tags.user_id}"
    return "" if principal is None else f"{principal.kind.value}:{principal.id}"
