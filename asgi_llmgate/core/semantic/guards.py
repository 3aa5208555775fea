"""What two questions must not differ in, if one answer is to serve both.

Cosine hardly sees these: at 0.80 MiniLM takes 97 to 100 % of questions with another number, year,
id or a "not" for the same question.

- HARD differences (numbers, dates, ids) always keep an answer from being served.
- The others say much and can be wrong ("can't log in", "unable to log in"), so that they count only
  until enough other phrasings of the same answer have none of them.

Every guard is symmetric, and None of them says anything about a text and itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import lru_cache

from asgi_llmgate.core.semantic.lexicon import KINDS, OPPOSITES, PREFIXES
from asgi_llmgate.core.semantic.words import Words, stem

__all__ = ["HARD", "differences"]

HARD = frozenset({"number", "date", "id"})

_TOWARDS = frozenset({"to", "into", "towards"})
_DIRECTED = frozenset({"from", "to", "into", "than", "towards"})


def differences(one: Words, other: Words) -> tuple[str, ...]:
    """Return what tells the two apart: of number, date, id, negation, prefix, opposite, kind,
    name, order. Those in HARD come first."""
    found = []
    if one.numbers != other.numbers:
        found.append("number")
    if one.dates != other.dates:
        found.append("date")
    if one.ids != other.ids:
        found.append("id")
    if one.is_negated != other.is_negated:
        negated, plain = (one, other) if one.is_negated else (other, one)
        # "I can't log in", "I am unable to log in"; but not "it is broken", "it is not broken".
        if plain.failing <= negated.failing:
            found.append("negation")
    if one.tokens == other.tokens:
        return tuple(found)
    only_one, only_other = _only(one, other)
    if only_one and only_other:
        if _has_opposites(only_one, only_other):
            found.append("opposite")
        if _has_other_kind(only_one, only_other):
            found.append("kind")
        if _has_negated(only_one, only_other) or _has_negated(only_other, only_one):
            found.append("prefix")
        if _names_in(only_one, one, only_other) and _names_in(only_other, other, only_one):
            found.append("name")
    if _is_turned_round(one, other):
        found.append("order")
    return tuple(found)


def _only(one: Words, other: Words) -> tuple[Collection[str], Collection[str]]:
    """Return the words that only one of them has, or has more often."""
    if len(one.tokens) == len(one.vocabulary) and len(other.tokens) == len(other.vocabulary):
        return one.vocabulary - other.vocabulary, other.vocabulary - one.vocabulary
    ours, theirs = Counter(one.tokens), Counter(other.tokens)
    return (ours - theirs).keys(), (theirs - ours).keys()


def _has_opposites(only_one: Collection[str], only_other: Collection[str]) -> bool:
    return any(not OPPOSITES[word].isdisjoint(only_other) for word in only_one if word in OPPOSITES)


def _has_other_kind(only_one: Collection[str], only_other: Collection[str]) -> bool:
    kinds = {KINDS[word] for word in only_one if word in KINDS}
    return bool(kinds) and any(KINDS.get(word) in kinds for word in only_other)


def _has_negated(only_one: Collection[str], only_other: Collection[str]) -> bool:
    """Whether a word of one is a word of the other behind "un-", "in-", "dis-" …"""
    return any(
        rest in only_other or (len(rest) >= 6 and any(stem(rest) == stem(w) for w in only_other))
        for word in only_one
        for rest in _behind_prefix(word)
    )


@lru_cache(maxsize=16384)
def _behind_prefix(word: str) -> tuple[str, ...]:
    return tuple(
        word[len(prefix) :]
        for prefix in PREFIXES
        if word.startswith(prefix) and len(word) - len(prefix) > 3
    )


def _names_in(only: Collection[str], text: Words, only_other: Collection[str]) -> bool:
    """Whether a name is among the words that only `text` has, in whatever form."""
    parts = {
        part
        for name in text.names
        for part in name.replace("'", "-").replace("&", "-").split("-")
        if part in only
    }
    return bool(parts) and bool({stem(part) for part in parts} - {stem(w) for w in only_other})


def _is_turned_round(one: Words, other: Words) -> bool:
    """Whether what comes from there goes there instead: "from A to B", "A is more than B"."""
    if one.vocabulary.isdisjoint(_DIRECTED) or other.vocabulary.isdisjoint(_DIRECTED):
        return False
    from_one, to_one = _ends(one)
    from_other, to_other = _ends(other)
    begins, ends = from_one - to_one, to_one - from_one
    if begins & (to_other - from_other) or ends & (from_other - to_other):
        return True
    if len(one.content) < 2 or one.content == other.content:
        return False
    is_reordered = one.stems == other.stems and Counter(one.content) == Counter(other.content)
    return is_reordered and "than" in one.vocabulary and "than" in other.vocabulary


def _ends(text: Words) -> tuple[set[str], set[str]]:
    """Return the words right behind "from", and those right behind "to"."""
    begins, ends = set(), set()
    for before, word in zip(text.tokens, text.tokens[1:], strict=False):
        if before == "from":
            begins.add(stem(word))
        elif before in _TOWARDS:
            ends.add(stem(word))
    return begins, ends
