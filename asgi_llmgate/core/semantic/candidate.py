"""Which answers the nearest phrasings lead to, what speaks for each, and what forbids it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from asgi_llmgate.core.semantic.alias import Neighbour
from asgi_llmgate.core.semantic.features import Evidence, Lexical, lexical, vector
from asgi_llmgate.core.semantic.guards import HARD, differences
from asgi_llmgate.core.semantic.words import Words, words

__all__ = ["Candidate", "candidates"]

MAX_CANDIDATES = 3

# An attacker can move a vector by a suffix of any words. What shares hardly a word with any
# phrasing of the answer, or is many times as long, is not served.
LEAST_CONTENT = 0.2
LEAST_DICE = 0.3
LEAST_LENGTH_RATIO = 0.25
SHORT_TOKENS = 8

# One word in the place of another is two; "not" is one; two that changed places are none.
TWIN_WORDS = 2


class Candidate(NamedTuple):
    """An answer that might serve.

    Args:
        neighbour: The nearest phrasing of it that no hard difference tells from the question.
        similarity: Cosine of that one.
        forbidden: Why it must not be served, whatever its likelihood; None if it may.
        features: In the order of `features.NAMES`, as one that is not proposed.
    """

    neighbour: Neighbour
    similarity: float
    forbidden: str | None
    features: tuple[float, ...]


class _Seen(NamedTuple):
    neighbour: Neighbour
    similarity: float
    words: Words
    alike: Lexical
    differs: tuple[str, ...]


def candidates(
    question: str,
    neighbours: Sequence[Neighbour],
    answer_evidence: Callable[[str], Evidence],
    alias_evidence: Callable[[str], Evidence],
    climate: float,
) -> list[Candidate]:
    """Return up to MAX_CANDIDATES answers, that of the nearest phrasing first."""
    asked = words(question)
    seen = []
    for neighbour in sorted(neighbours, key=lambda found: found.distance):
        text = neighbour.alias.question
        theirs = words(text)
        seen.append(
            _Seen(
                neighbour,
                1.0 - neighbour.distance,
                theirs,
                lexical(asked, theirs, question, text),
                differences(asked, theirs),
            )
        )
    by_answer: dict[str, list[_Seen]] = {}
    for one in seen:
        by_answer.setdefault(one.neighbour.alias.answer, []).append(one)
    found = []
    for answer in list(by_answer)[:MAX_CANDIDATES]:
        supporters = by_answer[answer]
        usable = [one for one in supporters if HARD.isdisjoint(one.differs)]
        forbidden = _twin(asked, supporters) or _forbidden(
            asked, usable or supporters, bool(usable)
        )
        usable = usable or supporters
        nearest = usable[0]
        others = [one for one in seen if one.neighbour.alias.answer != answer]
        features = vector(
            asked,
            nearest.words,
            is_proposed=False,
            supporters=[(one.similarity, one.words, one.alike, one.differs) for one in usable],
            others=[(one.similarity, one.words) for one in others],
            answer=answer_evidence(answer),
            alias=alias_evidence(nearest.neighbour.alias.id),
            climate=climate,
        )
        found.append(Candidate(nearest.neighbour, nearest.similarity, forbidden, features))
    return found


def _twin(asked: Words, supporters: Sequence[_Seen]) -> str | None:
    """Return what tells the question from a phrasing that is the same but for a word or two.

    Other phrasings without that word say nothing of it: who asks for 5 in the words in which
    somebody asked for 7 means 5, whatever else the answer is given to. Only the very same words,
    whose answer was found to be this one, settle it.
    """
    if any(one.words.tokens == asked.tokens for one in supporters):
        return None
    for one in supporters:
        if one.differs and _apart(asked, one.words) <= TWIN_WORDS:
            return f"veto:{one.differs[0]}"
    return None


def _apart(one: Words, other: Words) -> int:
    """Return how many words only one of the two has."""
    ours, theirs = Counter(one.tokens), Counter(other.tokens)
    return (ours - theirs).total() + (theirs - ours).total()


def _forbidden(asked: Words, supporters: Sequence[_Seen], usable: bool) -> str | None:
    nearest = supporters[0]
    if not usable:
        return f"veto:{nearest.differs[0]}"
    agreeing = sum(not one.differs for one in supporters)
    if nearest.differs and agreeing < 2:
        return f"veto:{nearest.differs[0]}"
    if all(one.alike.content < LEAST_CONTENT and one.alike.dice < LEAST_DICE for one in supporters):
        return "floor"
    short, long = sorted((len(asked.tokens), len(nearest.words.tokens)))
    if long > SHORT_TOKENS and short < long * LEAST_LENGTH_RATIO:
        return "length"
    return None
