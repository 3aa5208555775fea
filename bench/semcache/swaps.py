"""Questions that must not share an answer, made of real ones by changing one decisive word."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from asgi_llmgate.core.semantic.lexicon import OPPOSITES

__all__ = ["KINDS", "generate", "with_ids"]

_YEAR = re.compile(r"\b(?:1[5-9]\d\d|20[0-3]\d)\b")
_NUMBER = re.compile(r"(?<![\w.,-])\d{1,3}(?![\w.,-])")
_AUXILIARY = re.compile(
    r"\b(?:should|can|could|would|will|is|are|was|were|does|do|did|has|have|had)\b(?! n)",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}\b")
_FROM_TO = re.compile(r"\bfrom (?P<one>\w+) (?P<by>to|into) (?P<other>\w+)\b")
_NOUN = re.compile(r"\b(?:account|order|card|transfer|payment|ticket|file|case|project|number)\b")

Swap = Callable[[str, random.Random, Sequence[str]], str | None]


def generate(texts: Sequence[str], each: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Return up to `each` pairs of every kind, each text used once."""
    chosen = random.Random(seed)
    names = sorted({name for text in texts for name in _NAME.findall(text)})
    rest = list(dict.fromkeys(texts))
    chosen.shuffle(rest)
    found: dict[str, list[tuple[str, str]]] = {}
    # Those that few texts allow come first.
    for kind, swap in KINDS.items():
        pairs, left = [], []
        for text in rest:
            other = swap(text, chosen, names) if len(pairs) < each else None
            if other is not None and other != text:
                pairs.append((text, other))
            else:
                left.append(text)
        found[kind], rest = pairs, left
    return found


def _direction(text: str, chosen: random.Random, names: Sequence[str]) -> str | None:
    match = _FROM_TO.search(text)
    if match is None or match["one"].lower() == match["other"].lower():
        return None
    turned = f"from {match['other']} {match['by']} {match['one']}"
    return text[: match.start()] + turned + text[match.end() :]


def _year(text: str, chosen: random.Random, names: Sequence[str]) -> str | None:
    return _shift(_YEAR, text, chosen.choice([-3, -2, -1, 1, 2, 3]))


def _number(text: str, chosen: random.Random, names: Sequence[str]) -> str | None:
    return _shift(_NUMBER, text, chosen.choice([1, 2, 3, 5, 10]))


def _shift(pattern: re.Pattern[str], text: str, by: int) -> str | None:
    match = pattern.search(text)
    if match is None:
        return None
    return f"{text[: match.start()]}{int(match[0]) + by}{text[match.end() :]}"


def with_ids(texts: Sequence[str], each: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return pairs that name different ids, once near each other and once not."""
    chosen = random.Random(seed)
    pairs = []
    for text in texts:
        match = _NOUN.search(text)
        if match is None or len(pairs) == each or re.search(r"\d", text):
            continue
        letters, number = chosen.choice(["WT-", "D", "LN-", "A"]), chosen.randint(1000, 99_999)
        other = number + chosen.choice([1, 9, 90, -900])
        one, two = (
            f"{text[: match.end()]} {letters}{found}{text[match.end() :]}"
            for found in (number, other)
        )
        pairs.append((one, two))
    return pairs


def _antonym(text: str, chosen: random.Random, names: Sequence[str]) -> str | None:
    for word in re.findall(r"[A-Za-z]+", text):
        opposites = sorted(OPPOSITES.get(word.lower(), ()))
        # "in", "on", "like", "over" are seldom the opposite of anything in a sentence.
        if opposites and len(word) > 3 and word.lower() not in {"like", "over", "most", "more"}:
            return re.sub(rf"\b{word}\b", chosen.choice(opposites), text, count=1)
    return None


def _negation(text: str, chosen: random.Random, names: Sequence[str]) -> str | None:
    match = _AUXILIARY.search(text)
    if match is None or re.search(r"n't\b|\bnot\b|\bnever\b|\bno\b", text, re.IGNORECASE):
        return None
    return f"{text[: match.end()]} not{text[match.end() :]}"


def _entity(text: str, chosen: random.Random, names: Sequence[str]) -> str | None:
    found = _NAME.findall(text)
    if not found or not names:
        return None
    name, other = chosen.choice(found), chosen.choice(names)
    return re.sub(rf"\b{name}\b", other, text) if other not in text else None


KINDS: dict[str, Swap] = {
    "direction": _direction,
    "year": _year,
    "number": _number,
    "antonym": _antonym,
    "entity": _entity,
    "negation": _negation,
}
