"""What usage costs, in integers.

A price list names a price for some units (input, output, cached input, audio …). Units nest:
cached input is input, too. Each token is billed once, by the most special unit that has a price,
so the cost is

    price(input) * input + (price(cached) - price(input)) * cached + …

which is a weight per unit, whatever the nesting. Weights are integers over one denominator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from asgi_llmgate.types import Usage

__all__ = ["UNITS", "FlatPrice", "Unit", "flat_price", "quantities"]

NANO = 10**9


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that is billed. A unit is part of another if it has all of its traits."""

    name: str
    per: int
    traits: frozenset[str]


def _unit(name: str, per: int, *traits: str) -> Unit:
    return Unit(name, per, frozenset(traits))


_MILLION = 10**6

UNITS: Final[Mapping[str, Unit]] = {
    "input_mtok": _unit("input_tokens", _MILLION, "input"),
    "output_mtok": _unit("output_tokens", _MILLION, "output"),
    "cache_read_mtok": _unit("cache_read_tokens", _MILLION, "input", "read"),
    "cache_write_mtok": _unit("cache_write_tokens", _MILLION, "input", "write"),
    "cache_write_1h_mtok": _unit("cache_write_1h_tokens", _MILLION, "input", "write", "1h"),
    "input_audio_mtok": _unit("input_audio_tokens", _MILLION, "input", "audio"),
    "input_image_mtok": _unit("input_image_tokens", _MILLION, "input", "image"),
    "input_video_mtok": _unit("input_video_tokens", _MILLION, "input", "video"),
    "cache_audio_read_mtok": _unit("cache_audio_read_tokens", _MILLION, "input", "audio", "read"),
    "cache_image_read_mtok": _unit("cache_image_read_tokens", _MILLION, "input", "image", "read"),
    "cache_video_read_mtok": _unit("cache_video_read_tokens", _MILLION, "input", "video", "read"),
    "output_audio_mtok": _unit("output_audio_tokens", _MILLION, "output", "audio"),
    "output_image_mtok": _unit("output_image_tokens", _MILLION, "output", "image"),
    "output_video_mtok": _unit("output_video_tokens", _MILLION, "output", "video"),
    "output_reasoning_mtok": _unit("output_reasoning_tokens", _MILLION, "output", "reasoning"),
    "output_citation_mtok": _unit("output_citation_tokens", _MILLION, "output", "citation"),
    "audio_hours": _unit("audio_seconds", 3600, "duration"),
    "requests_kcount": _unit("requests", 1000, "request"),
    "rerank_searches_kcount": _unit("rerank_searches", 1000, "rerank"),
    "web_searches_kcount": _unit("web_searches", 1000, "search"),
}
"""The units that a `Usage` can hold, by their price keys in genai-prices."""

# The units that `FlatPrice` has fields for; all others are rare.
_FIELDS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_tokens": "cache_read",
    "cache_write_tokens": "cache_write",
    "cache_write_1h_tokens": "cache_write_1h",
    "output_reasoning_tokens": "reasoning",
    "requests": "request",
}


@dataclass(frozen=True, slots=True)
class FlatPrice:
    """Prices that do not depend on how much is used.

    Args:
        denominator: Positive. All weights are nano-dollars per unit, times this.
        input, output: Per token.
        cache_read, cache_write, cache_write_1h, reasoning: Added per token to what the token
            costs as part of the larger unit; usually negative for reads.
        request: Per call.
        others: Weights of rare units by name.
    """

    denominator: int
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    request: int = 0
    others: tuple[tuple[str, int], ...] = ()

    def cost_nanousd(self, usage: Usage) -> int:
        """Return the cost, rounded once, half to even."""
        total = (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
            + usage.cache_write_1h_tokens * self.cache_write_1h
            + usage.reasoning_tokens * self.reasoning
            + self.request
        )
        if self.others and (usage.others or usage.input_audio_tokens or usage.output_audio_tokens):
            counts = quantities(usage)
            for name, weight in self.others:
                total += counts.get(name, 0) * weight
        cost, rest = divmod(total, self.denominator)
        rest *= 2
        if rest > self.denominator or (rest == self.denominator and cost & 1):
            cost += 1
        return cost


def flat_price(usd: Mapping[str, Fraction]) -> FlatPrice:
    """Return the weights for dollars per `Unit.per`, by price key. Keys not in `UNITS` have none.

    Such units are not in a `Usage` either, so their tokens are billed as the larger unit's.
    """
    priced = {UNITS[key].name: (UNITS[key], price) for key, price in usd.items() if key in UNITS}
    weights: dict[str, Fraction] = {}
    for name, (unit, price) in priced.items():
        # Whatever larger units already charge for this one is taken back.
        weights[name] = price / unit.per * NANO
    by_size = sorted(priced, key=lambda name: len(priced[name][0].traits))
    for name in by_size:
        unit = priced[name][0]
        weights[name] -= sum(
            (weights[larger] for larger in by_size if priced[larger][0].traits < unit.traits),
            Fraction(0),
        )
    denominator = math.lcm(*(weight.denominator for weight in weights.values()))
    whole = {name: int(weight * denominator) for name, weight in weights.items()}
    fields = {field: whole.pop(name, 0) for name, field in _FIELDS.items()}
    return FlatPrice(denominator, **fields, others=tuple(whole.items()))


def quantities(usage: Usage) -> dict[str, int]:
    """Return all counts of `usage` by unit name, made consistent where they contradict.

    Parts never exceed their whole. Of tokens that are cached and audio (image, video) at once,
    providers mostly tell only both sums; then as few overlap as the sums allow.
    """
    counts = dict(usage.others)
    counts["input_tokens"] = usage.input_tokens
    counts["output_tokens"] = usage.output_tokens
    counts["cache_read_tokens"] = usage.cache_read_tokens
    counts["cache_write_tokens"] = usage.cache_write_tokens
    counts["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    counts["output_reasoning_tokens"] = usage.reasoning_tokens
    counts["input_audio_tokens"] = usage.input_audio_tokens
    counts["output_audio_tokens"] = usage.output_audio_tokens
    _fit(counts, "output_tokens", "output_{}_tokens", ("reasoning", "citation", *_MEDIA))
    _fit(counts, "input_tokens", "input_{}_tokens", _MEDIA)
    cached = usage.cache_read_tokens
    media = sum(counts.get(f"input_{kind}_tokens", 0) for kind in _MEDIA)
    needed = max(0, media + cached + usage.cache_write_tokens - usage.input_tokens)
    for kind in _MEDIA:
        name = f"cache_{kind}_read_tokens"
        limit = min(counts.get(f"input_{kind}_tokens", 0), cached)
        overlap = min(max(counts.get(name, 0), needed), limit)
        counts[name] = overlap
        cached -= overlap
        needed = max(0, needed - overlap)
    return counts


_MEDIA = ("audio", "image", "video")


def _fit(counts: dict[str, int], whole: str, pattern: str, kinds: tuple[str, ...]) -> None:
    """Cut parts that exclude one another down until they fit into the whole."""
    left = counts[whole]
    for kind in kinds:
        name = pattern.format(kind)
        if name in counts:
            counts[name] = min(counts[name], left)
            left -= counts[name]
