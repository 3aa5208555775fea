"""What is learned from one answer of the provider.

the answer that would have been given, or was ─▶ says the same? ─▶ a label
                                                      │
same: one more phrasing of that answer, which is told anew from now on
different: a question of its own; behind a hit, the phrasing that led there is taken back
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, NamedTuple

from asgi_llmgate.core.cache_entry import Entry, encode_entry
from asgi_llmgate.core.cache_key import CacheKey, answer_key
from asgi_llmgate.core.cache_plan import BUMPS, jittered
from asgi_llmgate.core.semantic.alias import Alias, Neighbour
from asgi_llmgate.core.semantic.answers import answer_text
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.verdict import Verdict, compare
from asgi_llmgate.errors import BackendError

if TYPE_CHECKING:  # They import this module.
    from asgi_llmgate.middleware._cache_call import Call
    from asgi_llmgate.middleware.semantic import Seen, SemanticTier

__all__ = ["Lesson", "alias_id"]

# An embedding takes in the first sentences; comparing more costs time and says no more.
MAX_EMBEDDED_CHARS = 1000

# A judge that errs says "different" too often; whoever differs is heard twice.
HEARINGS = 2

# The same words, and yet another answer: not the question has changed, but what is true.
SAME_WORDS = 0.98
# Of its life; a younger answer that is wrong was wrong from the start.
OLD_SHARE = 0.25


class Compared(NamedTuple):
    """A candidate, with what was found out about it."""

    neighbour: Neighbour
    features: tuple[float, ...]
    similarity: float
    verdict: Verdict
    entry: Entry


def alias_id(scope: str, question: str) -> str:
    """Return the id of a phrasing: the same words in the same scope are one phrasing."""
    text = f"{scope}\0{question}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:32]


class Lesson:
    """One answer, compared with what was or would have been given instead."""

    def __init__(self, tier: SemanticTier, call: Call, seen: Seen, entry: Entry) -> None:
        self.tier = tier
        self.call = call
        self.seen = seen
        self.entry = entry

    async def run(self) -> None:
        try:
            await self._run()
        except BackendError as error:
            self.call.cache.complain("The semantic cache did not learn", error)
            self.tier.count("failures_total")

    async def _run(self) -> None:
        seen, entry = self.seen, self.entry
        text = answer_text(entry.wire_format, entry.form, entry.body)
        if text is None:
            return
        compared = await self._compare(text)
        await self._note(compared)
        neighbour = seen.decision.neighbour
        if compared and compared[-1].verdict is Verdict.SAME:
            answer = compared[-1].neighbour.alias.answer
        elif not compared and neighbour is not None and seen.decision.serves:
            # What the question means is known; only its answer is gone.
            answer = neighbour.alias.answer
        else:
            own = alias_id(seen.scope, seen.question)
            answer = answer_key(self.call.cache.secret, seen.scope, own)
        await self._keep(answer)

    async def _compare(self, text: str) -> list[Compared]:
        """Compare with the candidates' answers, likeliest first, up to one that says the same."""
        decision = self.seen.decision
        if decision.neighbour is None:
            return []
        candidates = [(decision.neighbour, decision.features, decision.similarity)]
        if self.seen.hit is None:
            candidates += [(one.neighbour, one.features, one.similarity) for one in decision.others]
        compared: list[Compared] = []
        for neighbour, features, similarity in candidates:
            entry = await self.call.entry_at(neighbour.alias.answer)
            if entry is None:
                continue
            verdict = await self._verdict(text, neighbour.alias, entry)
            compared.append(Compared(neighbour, features, similarity, verdict, entry))
            if verdict is Verdict.SAME:
                break
        return compared

    async def _verdict(self, text: str, alias: Alias, entry: Entry) -> Verdict:
        other = answer_text(entry.wire_format, entry.form, entry.body)
        if other is None:
            return Verdict.UNSURE
        verdict = compare(text, other)
        if verdict is Verdict.UNSURE:
            embed = self.tier.embedder.embed
            one = await embed(text[:MAX_EMBEDDED_CHARS])
            another = await embed(other[:MAX_EMBEDDED_CHARS])
            verdict = compare(text, other, similarity=float(one @ another))
        judge = self.tier.judge
        if verdict is Verdict.UNSURE and judge is not None:
            for _ in range(HEARINGS):
                is_same = await judge(self.seen.question, text, alias.question, other)
                if is_same is None:
                    return Verdict.UNSURE
                if is_same:
                    return Verdict.SAME
            return Verdict.DIFFERENT
        return verdict

    async def _note(self, compared: list[Compared]) -> None:
        """Keep the verdicts; take back what led to a wrong answer."""
        tier, seen, cache = self.tier, self.seen, self.call.cache
        is_check = seen.hit is not None
        labels = [
            Label(
                features=one.features,
                is_right=one.verdict is Verdict.SAME,
                weight=1 / seen.decision.look if is_check else 1.0,
                source=Source.SHADOW if is_check else Source.MISS,
                alias=one.neighbour.alias.id,
                answer=one.neighbour.alias.answer,
                similarity=one.similarity,
                made_us=cache.clock_us(),
            )
            for one in compared
            # Where nobody settles it, what may be wrong counts as wrong, or the bound would be that
            # of the easy cases. Where somebody should have and did not, nothing is known.
            if one.verdict is not Verdict.UNSURE or tier.judge is None
        ]
        if not labels:
            return
        await tier.minds(cache.store).add(seen.partition, labels)
        for label in labels:
            right = str(label.is_right).lower()
            tier.count("labels_total", source=label.source.value, right=right)
        if is_check and compared[0].verdict is Verdict.DIFFERENT:
            await tier.take_back(cache, seen.partition, seen.scope, compared[0].neighbour.alias)
        await self._note_age(compared[0])

    async def _note_age(self, compared: Compared) -> None:
        """Move the tags of an old answer that is now another one, to the same words."""
        entry, cache = compared.entry, self.call.cache
        if compared.verdict is not Verdict.DIFFERENT or compared.similarity < SAME_WORDS:
            return
        life_us = entry.expires_us - entry.created_us
        if cache.clock_us() - entry.created_us < OLD_SHARE * life_us:
            return
        mind = await self.tier.minds(cache.store).of(self.seen.partition)
        if not mind.is_discredited(compared.neighbour.alias.answer):
            return
        tags = [name for name in entry.generations if name.startswith(("tag:", "tag#"))]
        if tags:
            await cache.store.bump([*tags, BUMPS])
            self.tier.count("stale_tags_total", len(tags))

    async def _keep(self, answer: CacheKey) -> None:
        """Store the answer where all its phrasings find it, and the phrasing with it."""
        call, seen, policy = self.call, self.seen, self.tier.policy
        cache, entry = call.cache, self.entry
        now_us = cache.clock_us()
        ttl_s = min(policy.ttl_s, (entry.expires_us - now_us) / 1e6)
        ttl_s = jittered(ttl_s, random.random())  # noqa: S311 -- no secret
        if ttl_s <= 0:
            return
        slot = 0
        if call.plan.slots > 1:
            found = await call.look_up(answer)
            slot = random.choice(found.free)  # noqa: S311 -- no secret
        told = entry._replace(expires_us=now_us + int(ttl_s * 1e6))
        await cache.store.write(
            answer,
            slot,
            encode_entry(cache.secret, answer, told),
            partition=seen.partition,
            ttl_s=ttl_s,
        )
        alias = Alias(
            id=alias_id(seen.scope, seen.question),
            answer=answer,
            question=seen.question,
            partition=seen.partition,
            principal=seen.principal,
            created_us=now_us,
            expires_us=now_us + int(policy.alias_ttl_s * 1e6),
        )
        await self.tier.index.add(seen.scope, alias, seen.vector)
