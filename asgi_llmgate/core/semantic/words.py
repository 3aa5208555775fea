"""What a question is made of, found once per text: words, numbers, ids, dates, names, negation."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from asgi_llmgate.core.semantic.lexicon import (
    DATES,
    FAILING,
    NEGATIONS,
    NUMBERS,
    STOP_WORDS,
    UNITS,
)

__all__ = ["MAX_CHARS", "Words", "grams", "stem", "words"]

MAX_CHARS = 4_000
"""Of a longer text only the beginning is looked at."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,:/]\d+)*")
_ID = re.compile(
    r"\b(?:[^\W\d_]+[-_]?\d[\w-]*|\d+[^\W\d][\w-]*)\b"
    r"|[\w.+-]+@[\w-]+\.[\w.]+|https?://\S+|`[^`]+`|\"[^\"]{1,60}\""
)
_UNIT = re.compile(r"(\d[\d.,:]*)(?:st|nd|rd|th|(" + "|".join(UNITS) + r"))", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![^\W\d_])\d[\d,]*(?:[.:/]\d+)*")
_NAME = re.compile(r"[^\W_][\w'&-]*")
_ENDS_SENTENCE = frozenset('.?!:;\n"\u201c(')
_SUFFIXES = ("ing", "edly", "ies", "ed", "es", "ly", "s")
_QUESTION_WORDS = frozenset(
    {
        *("how-many", "how-much", "how-long", "how-old", "how-far", "how-often", "how", "who"),
        *("whom", "whose", "when", "where", "why", "which", "what", "is", "are", "can", "does"),
        *("do", "should", "will"),
    }
)


class Words(NamedTuple):
    """One text, analysed.

    Args:
        tokens: Words and numbers in lower case, in their order.
        vocabulary: The same as a set.
        content: Stems of the words that carry meaning, in their order.
        stems: The same as a set.
        numbers: Sorted, with repetitions; words are digits ("two" is "2").
        dates: Months, weekdays, and days like "tomorrow".
        ids: Whatever mixes letters and digits, addresses, and what is quoted.
        names: Words with a capital letter that do not begin a sentence, in lower case.
        is_negated: An odd number of negations.
        failing: Words by which it says that something does not work, without a negation.
        asks: The question word that it begins with.
    """

    tokens: tuple[str, ...]
    vocabulary: frozenset[str]
    content: tuple[str, ...]
    stems: frozenset[str]
    numbers: tuple[str, ...]
    dates: frozenset[str]
    ids: frozenset[str]
    names: frozenset[str]
    is_negated: bool
    failing: frozenset[str]
    asks: str


@lru_cache(maxsize=8192)
def words(text: str) -> Words:
    text = text[:MAX_CHARS].replace("\u2019", "'")
    tokens = tuple(word.lower() for word in _WORD.findall(text))
    vocabulary = frozenset(tokens)
    content = tuple(stem(word) for word in tokens if word not in STOP_WORDS)
    negations = sum(word in NEGATIONS or word.endswith("n't") for word in tokens)
    numbers, ids = _numbers_and_ids(text)
    return Words(
        tokens=tokens,
        vocabulary=vocabulary,
        content=content,
        stems=frozenset(content),
        numbers=numbers,
        dates=vocabulary & DATES,
        ids=ids,
        names=_names(text),
        is_negated=negations % 2 == 1,
        failing=vocabulary & FAILING,
        asks=_asks(tokens),
    )


@lru_cache(maxsize=8192)
def grams(text: str) -> frozenset[str]:
    """Return all three letters that follow each other in the words of a text."""
    joined = f" {' '.join(words(text).tokens)} "
    return frozenset([joined[at : at + 3] for at in range(len(joined) - 2)])


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """Return a word without its ending, roughly: enough to see that two are forms of one."""
    word = word.removesuffix("'s")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)] + ("y" if suffix == "ies" else "")
    return word


def _numbers_and_ids(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    # "5kg", "3pm" and "2nd" are numbers that have a unit, no ids.
    text = _UNIT_AT.sub(lambda found: f"{found[1]} {found[2] or ''} ", text)
    ids = [found.lower().strip('"`').rstrip(".?!,") for found in _ID.findall(text)]
    rest = _ID.sub(" ", text)
    numbers = [number.replace(",", "").rstrip(".:/") for number in _NUMBER.findall(rest)]
    numbers += [NUMBERS[word] for word in map(str.lower, _WORD.findall(rest)) if word in NUMBERS]
    return tuple(sorted(_plain(number) for number in numbers)), frozenset(ids)


_UNIT_AT = re.compile(r"(?<![\w-])" + _UNIT.pattern + r"(?![\w-])", re.IGNORECASE)


def _plain(number: str) -> str:
    """Return "1.50" as "1.5" and "007" as it is: a leading zero belongs to a code."""
    if number.count(".") == 1 and number.replace(".", "").isdigit():
        return number.rstrip("0").rstrip(".")
    return number


def _names(text: str) -> frozenset[str]:
    found = []
    letters = [letter for letter in text if letter.isalpha()]
    if sum(map(str.isupper, letters)) * 2 > len(letters):
        return frozenset()  # All is shouted; capitals say nothing.
    for match in _NAME.finditer(text):
        word = match[0].removesuffix("'s")
        if len(word) < 2 or word.isdigit():
            continue
        before = text[: match.start()].rstrip(" \t'(")
        begins = not before or before[-1] in _ENDS_SENTENCE
        inner = any(map(str.isupper, word[1:]))
        if inner or (word[0].isupper() and not begins):
            lower = word.lower()
            if lower not in STOP_WORDS and not any(map(str.isdigit, lower)):
                found.append(lower)
    return frozenset(found)


def _asks(tokens: tuple[str, ...]) -> str:
    for begin in ("-".join(tokens[:2]), *tokens[:1]):
        if begin in _QUESTION_WORDS:
            return begin
    return ""
