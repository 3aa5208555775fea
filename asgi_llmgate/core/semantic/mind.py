"""What one partition has learned from verdicts, and what it decides by it. Pure.

    nearest phrasings ── candidates (answers they lead to) ── guards ── likelihood ── threshold

Nothing is served before a bound on wrong hits is known to hold. What was decided becomes a label
as soon as somebody knows whether it was right, and `fit` makes the next model of the labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from asgi_llmgate.core.semantic import prior
from asgi_llmgate.core.semantic.alias import Neighbour
from asgi_llmgate.core.semantic.candidate import Candidate, candidates
from asgi_llmgate.core.semantic.features import MADE_OF, Evidence
from asgi_llmgate.core.semantic.guards import HARD
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.model import Model, Snapshot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["WINDOW", "Decision", "Mind"]

WINDOW = 6_000
LEAST_LABELS = 100
LEAST_RIGHT = 20
REFIT_LABELS = 250
REFIT_S = 30.0

CLIMATE_LABELS = 200
LOOK = 0.10
LEAST_LOOK = 0.03
LOOK_LABELS = 400
# After a wrong hit the next ones are looked at more often, up to this: answers may have changed.
DOUBTING_LOOK = 0.25
DOUBT_SHARE = 0.2

_PRIOR = Model(prior.folded())


class Decision(NamedTuple):
    """What becomes of a question.

    Args:
        neighbour: The phrasing whose answer is proposed; None if nothing is near.
        serves: Its answer may be served.
        similarity: Its cosine, -1 to 1; 0 if there is none.
        probability: That the answer is right; None if nothing is near.
        reason: Why it is not served: "none", "veto:number" (or another difference), "floor",
            "length", "unconfirmed", "cold" (too few labels), "unproven" (no threshold keeps the
            bound), "below". None if it is.
        features: To be kept for the label, whether served or not.
        look: The probability with which the provider should be asked behind a hit. A label that
            comes of it has the weight `1 / look`.
        others: Further candidates. On a miss the new answer may be compared with theirs, too:
            if one says the same, the question is another phrasing of that one.
    """

    neighbour: Neighbour | None
    serves: bool
    similarity: float
    probability: float | None
    reason: str | None
    features: tuple[float, ...]
    look: float
    others: tuple[Candidate, ...] = ()


class _Known:
    """Verdicts on one answer or phrasing that are still in the window."""

    __slots__ = ("right", "run", "wrong")

    def __init__(self) -> None:
        self.right = 0
        self.wrong: list[float] = []
        self.run = 0
        """Wrong hits since it was last right."""

    def evidence(self) -> Evidence:
        return Evidence(self.right, len(self.wrong), max(self.wrong, default=0.0))


class _Kept(NamedTuple):
    answer: str
    alias: str
    is_right: bool
    similarity: float


class Mind:
    """What one partition has learned; decides. Pure, not thread-safe."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self._begin()

    def _begin(self) -> None:
        self._kept: list[_Kept | None] = [None] * WINDOW
        self._features: npt.NDArray[np.float32] | None = None
        self._right: npt.NDArray[np.bool_] | None = None
        self._weights: npt.NDArray[np.float32] | None = None
        self._count = 0
        self._rights = 0
        self._climate = 0.5
        self._doubt = 0.0
        self._since_fit = 0
        self._asked_s: float | None = None
        self._fitted_s: float | None = None
        self._answers: dict[str, _Known] = {}
        self._aliases: dict[str, _Known] = {}

    def forget(self) -> None:
        """Know nothing any more, and have no model."""
        self.model = None
        self._begin()

    @property
    def labels(self) -> int:
        """How many labels are in the window."""
        return min(self._count, WINDOW)

    def learn(self, labels: Iterable[Label]) -> None:
        import numpy as np

        if self._features is None:
            self._features = np.zeros((WINDOW, MADE_OF), np.float32)
            self._right = np.zeros(WINDOW, np.bool_)
            self._weights = np.zeros(WINDOW, np.float32)
        assert self._right is not None
        assert self._weights is not None
        for label in labels:
            if len(label.features) != MADE_OF:
                continue  # Of another version.
            at = self._count % WINDOW
            self._drop(self._kept[at])
            self._features[at] = label.features
            self._right[at] = label.is_right
            self._weights[at] = label.weight
            self._count += 1
            self._since_fit += 1
            self._rights += label.is_right
            is_proposed = label.features[0] > 0
            self._kept[at] = self._note(label, is_proposed)
            if label.source is not Source.MISS:
                self._doubt += DOUBT_SHARE * ((not label.is_right) - self._doubt)
            if is_proposed:
                share = min(0.5, label.weight / CLIMATE_LABELS)
                self._climate += share * (label.is_right - self._climate)

    def _note(self, label: Label, is_proposed: bool) -> _Kept:
        kept = _Kept(label.answer, label.alias, label.is_right, label.similarity)
        for known in (
            self._answers.setdefault(kept.answer, _Known()),
            self._aliases.setdefault(kept.alias, _Known()),
        ):
            if label.is_right:
                known.right += 1
                known.run = 0
            else:
                known.wrong.append(label.similarity)
                known.run += label.source is not Source.MISS
        return kept

    def _drop(self, kept: _Kept | None) -> None:
        if kept is None:
            return
        self._rights -= kept.is_right
        for table, key in ((self._answers, kept.answer), (self._aliases, kept.alias)):
            known = table.get(key)
            if known is None:
                continue
            if kept.is_right:
                known.right -= 1
            else:
                known.wrong.remove(kept.similarity)
            if not known.right and not known.wrong:
                del table[key]

    def needs_fit(self, now_s: float) -> bool:
        """Whether enough was learned since `snapshot` was last taken. `now_s` only ever grows."""
        self._asked_s = now_s
        if self.labels < LEAST_LABELS or self._rights < LEAST_RIGHT or not self._since_fit:
            return False
        if self.model is None and self._fitted_s is None:
            return True
        due = min(REFIT_LABELS, max(25, self.labels // 8))
        waited_s = now_s - (self._fitted_s if self._fitted_s is not None else now_s)
        return self._since_fit >= due or waited_s >= REFIT_S

    def snapshot(self) -> Snapshot:
        """Return what `fit` needs; a copy, which another thread may read."""
        assert self._features is not None, "nothing was learned yet"
        assert self._right is not None
        assert self._weights is not None
        self._since_fit = 0
        self._fitted_s = self._asked_s
        end = self.labels
        # In the order in which they were added does not matter to `fit`, but that it is the same
        # for all who learned the same does.
        return Snapshot(
            self._features[:end].copy(), self._right[:end].copy(), self._weights[:end].copy()
        )

    def decide(
        self,
        question: str,
        neighbours: Sequence[Neighbour],
        *,
        max_error: float,
        principal: str,
        is_shared: bool = False,
    ) -> Decision:
        """Decide whether an answer may be served so that of all hits at most `max_error` are wrong.

        Args:
            neighbours: Of the question's own scope, at most ten or so.
            principal: Who asks.
            is_shared: They may be of other principals, whose answers are served only if two of
                them lead there, or the asker does.
        """
        found = self._candidates(question, neighbours)
        if not found:
            return Decision(None, False, 0.0, None, "none", (), LOOK)
        model = self.model or _PRIOR
        odds = [model.probability(one.features) for one in found]
        best = max(range(len(found)), key=lambda at: (found[at].forbidden is None, odds[at], -at))
        chosen, probability = found[best], odds[best]
        reason = chosen.forbidden
        if reason is None and is_shared and not _is_confirmed(chosen, neighbours, principal):
            reason = "unconfirmed"
        features = chosen.features if reason else (1.0, *chosen.features[1:])
        if reason is None:
            if self.model is None:
                reason = "cold"
            else:
                threshold = self.model.threshold(max_error)
                if threshold is None:
                    reason = "unproven"
                elif probability < threshold:
                    reason = "below"
        return Decision(
            chosen.neighbour,
            reason is None,
            chosen.similarity,
            probability,
            reason,
            features,
            self._look(max_error),
            tuple(one for at, one in enumerate(found) if at != best),
        )

    def decide_by_threshold(
        self,
        question: str,
        neighbours: Sequence[Neighbour],
        *,
        threshold: float,
        principal: str,
        is_shared: bool = False,
    ) -> Decision:
        """Decide as other caches do: serve the nearest if its cosine is at least `threshold`.

        Nothing is known of how many hits are wrong. Other numbers, dates and ids still keep an
        answer from being served, and so does `is_shared`.
        """
        found = self._candidates(question, neighbours)
        if not found:
            return Decision(None, False, 0.0, None, "none", (), LOOK)
        nearest = max(found, key=lambda one: (not _is_hard(one.forbidden), one.similarity))
        reason = nearest.forbidden if _is_hard(nearest.forbidden) else None
        if reason is None and is_shared and not _is_confirmed(nearest, neighbours, principal):
            reason = "unconfirmed"
        if reason is None and nearest.similarity < threshold:
            reason = "below"
        probability = (self.model or _PRIOR).probability(nearest.features)
        return Decision(
            nearest.neighbour,
            reason is None,
            nearest.similarity,
            probability,
            reason,
            nearest.features if reason and reason != "below" else (1.0, *nearest.features[1:]),
            LOOK,
            tuple(one for one in found if one is not nearest),
        )

    def is_discredited(self, answer: str) -> bool:
        """Whether its last two hits that anybody looked at were wrong."""
        known = self._answers.get(answer)
        return known is not None and known.run >= 2

    def _candidates(self, question: str, neighbours: Sequence[Neighbour]) -> list[Candidate]:
        nothing = Evidence()

        def of(table: dict[str, _Known], key: str) -> Evidence:
            known = table.get(key)
            return known.evidence() if known is not None else nothing

        return candidates(
            question,
            neighbours,
            lambda answer: of(self._answers, answer),
            lambda alias: of(self._aliases, alias),
            self._climate,
        )

    def _look(self, max_error: float) -> float:
        """Look often while a threshold rests on few labels or hits prove wrong, else seldom."""
        estimate = self.model.estimate(max_error) if self.model is not None else None
        if estimate is None:
            return LOOK
        usual = max(LEAST_LOOK, min(LOOK, LOOK * LOOK_LABELS / estimate.labels))
        return max(usual, min(DOUBTING_LOOK, self._doubt))


def _is_hard(forbidden: str | None) -> bool:
    return forbidden is not None and forbidden.removeprefix("veto:") in HARD


def _is_confirmed(chosen: Candidate, neighbours: Sequence[Neighbour], principal: str) -> bool:
    asked_by = {
        found.alias.principal
        for found in neighbours
        if found.alias.answer == chosen.neighbour.alias.answer
    }
    return principal in asked_by or len(asked_by) >= 2
