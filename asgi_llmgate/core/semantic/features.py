"""What is known of a candidate before its answer is served, as numbers.

A candidate is an answer that some of the nearest phrasings lead to (its supporters). The others
among them speak for other answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from asgi_llmgate.core.semantic.words import Words, grams

__all__ = ["MADE_OF", "NAMES", "Evidence", "Lexical", "lexical", "vector"]

NAMES = (
    "is_proposed",  # 1 if it was the one to be served; 0 if guarded or second to another
    "similarity",
    "margin",
    "other",
    "votes",
    "share",
    "odds_near",
    "odds_far",
    "supporters",
    "mean",
    "answer_precision",
    "answer_right",
    "answer_wrong",
    "above_wrong",
    "alias_precision",
    "jaccard",
    "content_jaccard",
    "best_jaccard",
    "dice",
    "best_dice",
    "covered",
    "elsewhere",
    "numbers",
    "negation",
    "differs",
    "agreeing",
    "names",
    "asks",
    "length_ratio",
    "length",
    "only_question",
    "only_alias",
    "climate",
)
"""The first is not learned from; it says which labels the bound is about."""

MADE_OF = len(NAMES)


class Evidence(NamedTuple):
    """What verdicts said before about one answer, or one phrasing."""

    right: float = 0.0
    wrong: float = 0.0
    wrong_at: float = 0.0
    """The highest similarity at which it was wrong."""


class Lexical(NamedTuple):
    """How alike two texts are by their words, each 0 to 1."""

    jaccard: float
    content: float
    dice: float


def lexical(one: Words, other: Words, one_text: str, other_text: str) -> Lexical:
    shared = len(one.vocabulary & other.vocabulary)
    content = len(one.stems & other.stems)
    ours, theirs = grams(one_text), grams(other_text)
    return Lexical(
        shared / max(1, len(one.vocabulary) + len(other.vocabulary) - shared),
        content / max(1, len(one.stems) + len(other.stems) - content),
        2 * len(ours & theirs) / max(1, len(ours) + len(theirs)),
    )


def vector(
    question: Words,
    nearest: Words,
    *,
    is_proposed: bool,
    supporters: Sequence[tuple[float, Words, Lexical, tuple[str, ...]]],
    others: Sequence[tuple[float, Words]],
    answer: Evidence,
    alias: Evidence,
    climate: float,
) -> tuple[float, ...]:
    """Return the features of one candidate, in the order of NAMES.

    Args:
        supporters: Similarity, words, likeness and differences of each phrasing that leads to the
            candidate, nearest first; `nearest` belongs to the first.
        others: Similarity and words of the phrasings that lead elsewhere, nearest first.
    """
    similarity, _, alike, differs = supporters[0]
    other = others[0][0] if others else 0.0
    pro = [found[0] for found in supporters]
    con = [found[0] for found in others]
    known = frozenset().union(*(found[1].stems for found in supporters))
    new = question.stems - known
    elsewhere = sum(any(word in found[1].stems for found in others) for word in new)
    return (
        float(is_proposed),
        similarity,
        similarity - other,
        other,
        _mass(pro, 12, similarity) / (_mass(pro, 12, similarity) + _mass(con, 12, similarity)),
        len(pro) / (len(pro) + len(con)),
        math.log((_mass(pro, 25) + 1e-5) / (_mass(con, 25) + 1e-5)),
        math.log((_mass(pro, 10) + 5e-3) / (_mass(con, 10) + 5e-3)),
        math.log(len(pro)),
        sum(pro) / len(pro),
        (answer.right + 1) / (answer.right + answer.wrong + 2),
        math.log1p(answer.right),
        math.log1p(answer.wrong),
        max(-0.5, min(0.5, similarity - answer.wrong_at)),
        (alias.right + 1) / (alias.right + alias.wrong + 2),
        alike.jaccard,
        alike.content,
        max(found[2].content for found in supporters),
        alike.dice,
        max(found[2].dice for found in supporters),
        1 - len(new) / max(1, len(question.stems)),
        min(3.0, elsewhere),
        float("number" in differs),
        float("negation" in differs),
        float(len(differs)),
        sum(not found[3] for found in supporters) / len(supporters),
        float("name" in differs),
        float(question.asks == nearest.asks),
        min(len(question.tokens), len(nearest.tokens))
        / max(1, len(question.tokens), len(nearest.tokens)),
        float(min(20, len(question.tokens))),
        float(min(8, len(question.stems - nearest.stems))),
        float(min(8, len(nearest.stems - question.stems))),
        climate,
    )


def _mass(similarities: Sequence[float], sharpness: float, at: float = 1.0) -> float:
    return sum(math.exp(sharpness * (similarity - at)) for similarity in similarities)
