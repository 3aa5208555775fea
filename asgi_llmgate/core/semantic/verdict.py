"""Whether two answers say the same, as far as that can be told without asking a model.

    equal texts, equal JSON ── vectors, with guards for numbers and names ── somebody else

What is UNSURE is no verdict: a model is asked; where there is none, it counts as wrong.
"""

from __future__ import annotations

import enum
import re
from typing import Any

import orjson

from asgi_llmgate.core.semantic.guards import differences
from asgi_llmgate.core.semantic.words import MAX_CHARS, words

__all__ = ["Verdict", "compare"]

SAME_AT = 0.93
DIFFERENT_BELOW = 0.60
# In longer answers that say the same, some number often differs.
SHORT_TOKENS = 60

_LIST_MARK = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+", re.MULTILINE)
_MARKUP = re.compile(r"[*_#`>]+")


class Verdict(enum.Enum):
    SAME = "same"
    DIFFERENT = "different"
    UNSURE = "unsure"


def compare(one: str, other: str, similarity: float | None = None) -> Verdict:
    """Compare two answers.

    Args:
        similarity: Cosine of their embeddings; None if there are none.
    """
    plain, other_plain = _plain(one), _plain(other)
    if plain.casefold() == other_plain.casefold():
        return Verdict.SAME
    parsed, other_parsed = _json(one), _json(other)
    if parsed is not None and other_parsed is not None:
        return _compare_json(parsed, other_parsed)
    if (parsed is None) != (other_parsed is None):
        return Verdict.DIFFERENT
    ours, theirs = words(plain), words(other_plain)
    found = set(differences(ours, theirs))
    is_short = max(len(ours.tokens), len(theirs.tokens)) <= SHORT_TOKENS
    if is_short and _replaced(ours.numbers, theirs.numbers):
        return Verdict.DIFFERENT
    if similarity is None:
        return Verdict.UNSURE
    if similarity < DIFFERENT_BELOW:
        return Verdict.DIFFERENT
    if max(len(plain), len(other_plain)) > MAX_CHARS:
        return Verdict.UNSURE
    if similarity >= SAME_AT and not found:
        return Verdict.SAME
    return Verdict.UNSURE


def _plain(text: str) -> str:
    return " ".join(_MARKUP.sub("", _LIST_MARK.sub("", text)).split()).strip(" .!\"'")


def _json(text: str) -> dict[str, Any] | list[Any] | None:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict | list) else None


def _compare_json(one: object, other: object) -> Verdict:
    """Strings that differ may still say the same; all else may not differ."""
    if isinstance(one, str) and isinstance(other, str):
        return (
            Verdict.SAME if _plain(one).casefold() == _plain(other).casefold() else Verdict.UNSURE
        )
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return Verdict.DIFFERENT
        return _worst([_compare_json(value, other[key]) for key, value in one.items()])
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return Verdict.DIFFERENT
        return _worst([_compare_json(*both) for both in zip(one, other, strict=True)])
    # 1 == True, and 1 == 1.0; only the second is meant.
    same = one == other and isinstance(one, bool) == isinstance(other, bool)
    return Verdict.SAME if same else Verdict.DIFFERENT


def _worst(verdicts: list[Verdict]) -> Verdict:
    for verdict in (Verdict.DIFFERENT, Verdict.UNSURE):
        if verdict in verdicts:
            return verdict
    return Verdict.SAME


def _replaced(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether each has a number that the other lacks."""
    return bool(set(one) - set(other)) and bool(set(other) - set(one))
