"""What a policy would have done with questions that were really asked, without asking anybody.

The flow is the cache's own: nearest phrasings, decision, and what is learned of misses and of hits
that are looked at. What it says of wrong hits is the truth, as answers are known.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Neighbour, Vector
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.mind import Decision, Mind
from asgi_llmgate.core.semantic.model import fit
from asgi_llmgate.core.semantic.wording import unfit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Asked", "LearnedPolicy", "Outcome", "Policy", "Replay", "Shelf"]

_FAR_US = 2**62


class Asked(NamedTuple):
    """A question, and its answer: a text, or whatever is equal for answers that say the same."""

    question: str
    answer: str
    vector: Vector


class Outcome(NamedTuple):
    """What became of one question.

    Args:
        is_hit: Answered from what is stored.
        is_wrong: That answer does not say what the right one says.
        is_looked_at: The provider was asked behind the hit.
        reason: Why it is not a hit.
    """

    is_hit: bool
    is_wrong: bool = False
    is_looked_at: bool = False
    reason: str | None = None


Judge = Callable[[str, str], bool]
"""Whether two answers say the same."""


class Shelf:
    """Phrasings with their vectors, searched exactly. For one stream of questions."""

    def __init__(self, dims: int) -> None:
        import numpy as np

        self._vectors: npt.NDArray[np.float32] = np.zeros((256, dims), np.float32)
        self._aliases: list[Alias | None] = []
        self._rows: dict[str, int] = {}
        self._by_answer: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, question: str, answer: str, vector: Vector, principal: str = "") -> Alias:
        import numpy as np

        row = len(self._aliases)
        if row == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        alias = Alias(f"{row:032x}", CacheKey(answer), question, "", principal, row, _FAR_US)
        self._vectors[row] = vector
        self._aliases.append(alias)
        self._rows[alias.id] = row
        self._by_answer.setdefault(answer, []).append(alias.id)
        return alias

    def nearest(self, vector: Vector, limit: int) -> list[Neighbour]:
        import numpy as np

        count = len(self._aliases)
        if not count:
            return []
        similar = self._vectors[:count] @ vector
        limit = min(limit, count)
        top = np.argpartition(-similar, limit - 1)[:limit]
        found = []
        for row in top[np.argsort(-similar[top], kind="stable")]:
            alias = self._aliases[row]
            if alias is not None:
                found.append(Neighbour(alias, 1.0 - float(similar[row])))
        return found

    def remove(self, alias: str) -> None:
        row = self._rows.pop(alias, None)
        if row is not None:
            self._vectors[row] = 0
            gone = self._aliases[row]
            assert gone is not None
            self._by_answer[gone.answer].remove(alias)
            self._aliases[row] = None

    def remove_answer(self, answer: str) -> None:
        for alias in list(self._by_answer.get(answer, ())):
            self.remove(alias)


class Policy(Protocol):
    """Decides, and is told what came of it."""

    def decide(self, question: str, neighbours: list[Neighbour]) -> Decision: ...

    def learn(self, labels: list[Label]) -> None: ...


class LearnedPolicy:
    """A `Mind` that keeps at most `max_error` of the hits wrong."""

    def __init__(self, max_error: float, mind: Mind | None = None) -> None:
        self.mind = mind or Mind()
        self.max_error = max_error

    def decide(self, question: str, neighbours: list[Neighbour]) -> Decision:
        return self.mind.decide(question, neighbours, max_error=self.max_error, principal="")

    def learn(self, labels: list[Label]) -> None:
        self.mind.learn(labels)
        if self.mind.needs_fit(0.0):
            self.mind.model = fit(self.mind.snapshot())


class Replay:
    """Goes through questions in their order.

    Args:
        judge: Compares answers for the policy; may err. Whether a hit is wrong it does not decide.
        limit: How many phrasings are looked at.
        unfit: Says why a question has no part in this at all; None if it has.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        dims: int,
        judge: Judge | None = None,
        limit: int = 10,
        seed: int = 0,
        unfit: Callable[[str], str | None] = unfit,
    ) -> None:
        self.policy = policy
        self.judge = judge or str.__eq__
        self.limit = limit
        self.unfit = unfit
        self.shelf = Shelf(dims)
        self.random = Random(seed)  # noqa: S311 -- no secret
        self.answers: dict[str, str] = {}
        self.asked = 0

    def ask(self, asked: Asked) -> Outcome:
        self.asked += 1
        reason = self.unfit(asked.question)
        if reason is not None:
            return Outcome(is_hit=False, reason=reason)
        decision = self.policy.decide(asked.question, self.shelf.nearest(asked.vector, self.limit))
        if decision.neighbour is None:
            self._add(asked)
            return Outcome(is_hit=False, reason=decision.reason)
        alias = decision.neighbour.alias
        stored = self.answers[alias.answer]
        if not decision.serves:
            self._miss(asked, decision)
            return Outcome(is_hit=False, reason=decision.reason)
        is_looked_at = self.random.random() < decision.look
        if is_looked_at:
            self._look(asked, decision)
        return Outcome(True, stored != asked.answer, is_looked_at)

    def _miss(self, asked: Asked, decision: Decision) -> None:
        assert decision.neighbour is not None
        labels, same = [], None
        pairs = [(decision.neighbour, decision.features)]
        pairs += [(other.neighbour, other.features) for other in decision.others]
        for neighbour, features in pairs:
            is_right = self._judged(asked, neighbour)
            labels.append(self._label(neighbour, features, is_right, 1.0, Source.MISS))
            if is_right:
                same = neighbour.alias.answer
                break
        self.policy.learn(labels)
        self._add(asked, same)

    def _look(self, asked: Asked, decision: Decision) -> None:
        neighbour = decision.neighbour
        assert neighbour is not None
        is_right = self._judged(asked, neighbour)
        weight = 1 / decision.look
        self.policy.learn(
            [self._label(neighbour, decision.features, is_right, weight, Source.SHADOW)]
        )
        if is_right:
            self._add(asked, neighbour.alias.answer)
        else:
            self.shelf.remove(neighbour.alias.id)
            self._add(asked)

    def _judged(self, asked: Asked, neighbour: Neighbour) -> bool:
        """Ask the judge; what it calls different once more."""
        stored = self.answers[neighbour.alias.answer]
        return self.judge(asked.answer, stored) or self.judge(asked.answer, stored)

    def _label(
        self,
        neighbour: Neighbour,
        features: tuple[float, ...],
        is_right: bool,
        weight: float,
        source: Source,
    ) -> Label:
        alias = neighbour.alias
        return Label(
            features,
            is_right,
            weight,
            source,
            alias.id,
            alias.answer,
            1.0 - neighbour.distance,
            self.asked,
        )

    def _add(self, asked: Asked, answer: str | None = None) -> None:
        if answer is None:
            answer = f"{self.asked:x}"
            self.answers[answer] = asked.answer
        self.shelf.add(asked.question, answer, asked.vector)
