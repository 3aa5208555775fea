"""Go through calls that were made once, and count what caches would have answered of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from asgi_llmgate.core.semantic.alias import Neighbour, Vector
from asgi_llmgate.core.semantic.history import Past
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.mind import Decision, Mind
from asgi_llmgate.core.semantic.model import fit
from asgi_llmgate.core.semantic.simulate import Shelf
from asgi_llmgate.core.semantic.verdict import Verdict, compare
from asgi_llmgate.protocols import Embedder

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.candidate import Candidate

__all__ = ["Tally", "simulate"]

NEIGHBOURS = 10
MAX_EMBEDDED_CHARS = 2000


@dataclass(slots=True)
class Tally:
    """What one policy would have done.

    Args:
        max_error: The bound it was to keep; None if it keeps none.
        wrong: Semantic hits whose answer says something else than the one that was given.
        unsure: Semantic hits of which that cannot be told without asking a model.
        checks: Hits behind which the provider would have been asked.
        saved_nanousd: Cost of hits, less that of checks.
    """

    name: str
    max_error: float | None
    calls: int = 0
    exact: int = 0
    semantic: int = 0
    wrong: int = 0
    unsure: int = 0
    checks: int = 0
    saved_nanousd: int = 0

    @property
    def hits(self) -> int:
        return self.exact + self.semantic


class _Seen(NamedTuple):
    past: Past
    question: Vector | None
    answer: Vector


class _Texts:
    """Compares answers, once per pair."""

    def __init__(self, seen: Sequence[_Seen]) -> None:
        self._seen = seen
        self._known: dict[tuple[int, int], Verdict] = {}

    def verdict(self, one: int, other: int) -> Verdict:
        pair = min(one, other), max(one, other)
        found = self._known.get(pair)
        if found is None:
            ours, theirs = self._seen[pair[0]], self._seen[pair[1]]
            similarity = float(ours.answer @ theirs.answer)
            found = compare(ours.past.answer, theirs.past.answer, similarity=similarity)
            self._known[pair] = found
        return found


async def simulate(
    calls: Sequence[Past],
    embedder: Embedder,
    *,
    max_errors: Sequence[float],
    thresholds: Sequence[float] = (),
    by_asker: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Tally]:
    """Return what the exact cache, thresholds and bounds would have done, in this order.

    Nothing expires, and the same calls always give the same figures.

    Args:
        by_asker: Answers are shared within one asker only; else among all, once two got the same.
        progress: Told how many steps are done, of `2 * len(calls)`.

    Raises:
        BackendError: the embedder failed.
    """
    seen = []
    for number, past in enumerate(calls, 1):
        question = None if past.question is None else await embedder.embed(past.question)
        answer = await embedder.embed(past.answer[:MAX_EMBEDDED_CHARS])
        seen.append(_Seen(past, question, answer))
        progress(number)
    texts = _Texts(seen)
    caches: list[_Cache] = [_Cache("exact", by_asker)]
    caches += [_ThresholdCache(threshold, by_asker, texts) for threshold in thresholds]
    caches += [_BoundedCache(max_error, by_asker, texts) for max_error in max_errors]
    for number, one in enumerate(seen):
        for cache in caches:
            cache.ask(number, one)
        progress(len(seen) + number + 1)
    return [cache.tally for cache in caches]


class _Cache:
    """The very same request is a hit; nothing else."""

    def __init__(self, name: str, by_asker: bool, max_error: float | None = None) -> None:
        self.tally = Tally(name, max_error)
        self._by_asker = by_asker
        self._keys: set[tuple[str, str]] = set()
        self._shelves: dict[tuple[str, str], Shelf] = {}

    def ask(self, number: int, seen: _Seen) -> None:
        tally, past = self.tally, seen.past
        tally.calls += 1
        asker = past.asker if self._by_asker else ""
        key = past.key, asker
        if key in self._keys:
            tally.exact += 1
            tally.saved_nanousd += past.cost_nanousd or 0
            return
        self._keys.add(key)
        if seen.question is not None:
            place = past.scope, asker
            if place not in self._shelves:
                self._shelves[place] = Shelf(len(seen.question))
            if self._alike(number, seen, self._shelves[place]):
                self._keys.discard(key)  # What a hit answers is stored under no key of its own.

    def _alike(self, number: int, seen: _Seen, shelf: Shelf) -> bool:
        """Look by meaning; return whether that was a hit that was not checked."""
        return False

    def _served(self, seen: _Seen, verdict: Verdict) -> None:
        self.tally.semantic += 1
        self.tally.wrong += verdict is Verdict.DIFFERENT
        self.tally.unsure += verdict is Verdict.UNSURE
        self.tally.saved_nanousd += seen.past.cost_nanousd or 0


class _ThresholdCache(_Cache):
    """Serves the nearest from a cosine on, as other caches do."""

    def __init__(self, threshold: float, by_asker: bool, texts: _Texts) -> None:
        super().__init__(f"cosine {threshold:.2f}", by_asker)
        self._threshold = threshold
        self._texts = texts

    def _alike(self, number: int, seen: _Seen, shelf: Shelf) -> bool:
        assert seen.question is not None
        assert seen.past.question is not None
        nearest = shelf.nearest(seen.question, 1)
        if nearest and 1 - nearest[0].distance >= self._threshold:
            self._served(seen, self._texts.verdict(number, int(nearest[0].alias.answer)))
            return True
        shelf.add(seen.past.question, str(number), seen.question)
        return False


class _BoundedCache(_Cache):
    """Our own: evidence first, then hits under a bound on being wrong."""

    def __init__(self, max_error: float, by_asker: bool, texts: _Texts) -> None:
        super().__init__(f"bound {max_error:.3g}", by_asker, max_error)
        self._max_error = max_error
        self._texts = texts
        self._mind = Mind()
        self._random = Random(0)  # noqa: S311 -- no secret

    def _alike(self, number: int, seen: _Seen, shelf: Shelf) -> bool:
        past, vector = seen.past, seen.question
        assert vector is not None
        assert past.question is not None
        decision = self._mind.decide(
            past.question,
            shelf.nearest(vector, NEIGHBOURS),
            max_error=self._max_error,
            principal=past.asker,
            is_shared=not self._by_asker and past.asker != "",
        )
        if not decision.serves or decision.neighbour is None:
            answer = self._compared(number, decision)
            shelf.add(past.question, answer or str(number), vector, past.asker)
            return False
        alias = decision.neighbour.alias
        verdict = self._texts.verdict(number, int(alias.answer))
        self._served(seen, verdict)
        if self._random.random() >= decision.look:
            return True
        self.tally.checks += 1
        self.tally.saved_nanousd -= past.cost_nanousd or 0
        if verdict is not Verdict.UNSURE:
            weight, is_right = 1 / decision.look, verdict is Verdict.SAME
            label = self._label(number, decision.neighbour, decision.features, is_right)
            self._learn([label._replace(weight=weight, source=Source.SHADOW)])
            if not is_right:
                shelf.remove(alias.id)
        answer = alias.answer if verdict is Verdict.SAME else str(number)
        shelf.add(past.question, answer, vector, past.asker)
        return False

    def _compared(self, number: int, decision: Decision) -> str | None:
        """Learn from a miss; return the answer that says the same, if there is one."""
        if decision.neighbour is None:
            return None
        labels: list[Label] = []
        same: str | None = None
        others: tuple[Candidate, ...] = decision.others
        pairs = [(decision.neighbour, decision.features)]
        pairs += [(other.neighbour, other.features) for other in others]
        for neighbour, features in pairs:
            verdict = self._texts.verdict(number, int(neighbour.alias.answer))
            if verdict is not Verdict.UNSURE:
                is_right = verdict is Verdict.SAME
                labels.append(self._label(number, neighbour, features, is_right))
            if verdict is Verdict.SAME:
                same = neighbour.alias.answer
                break
        self._learn(labels)
        return same

    def _label(
        self, number: int, neighbour: Neighbour, features: tuple[float, ...], is_right: bool
    ) -> Label:
        alias, similarity = neighbour.alias, 1 - neighbour.distance
        return Label(
            features, is_right, 1.0, Source.MISS, alias.id, alias.answer, similarity, number
        )

    def _learn(self, labels: Sequence[Label]) -> None:
        self._mind.learn(labels)
        if self._mind.needs_fit(0.0):
            self._mind.model = fit(self._mind.snapshot())
