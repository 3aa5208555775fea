"""Numbers from providers, made safe to add up.

Providers are trusted with nothing: a number that is missing, negative, absurd or of another type
counts as 0, and a part larger than its total is cut to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.types import Usage

__all__ = ["count", "make_usage", "mapping", "named", "number"]

# More than any call has; beyond it a number is garbage, and might not fit a database column.
MAX_COUNT = 10**12

_NOTHING: Mapping[str, Any] = {}


def number(value: object) -> int | None:
    """Return a JSON value as a count, or None if it is none. Cohere sends floats."""
    if type(value) is int or type(value) is float:
        return int(value) if 0 <= value <= MAX_COUNT else None
    return None


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def count(value: object) -> int:
    """Return a JSON value as a count, 0 if it is none."""
    return (number(value) or 0) if value else 0


def make_usage(
    input_tokens: int,
    output_tokens: int,
    cache_read: int = 0,
    cache_write: int = 0,
    cache_write_1h: int = 0,
    reasoning: int = 0,
    input_audio: int = 0,
    output_audio: int = 0,
    others: tuple[tuple[str, int], ...] = (),
) -> Usage:
    """Return the usage, with parts cut to what their whole can hold."""
    if cache_read or cache_write:
        cache_read = min(cache_read, input_tokens)
        cache_write = min(cache_write, input_tokens - cache_read)
        cache_write_1h = min(cache_write_1h, cache_write)
    if reasoning or input_audio or output_audio:
        reasoning = min(reasoning, output_tokens)
        input_audio = min(input_audio, input_tokens)
        output_audio = min(output_audio, output_tokens)
    return Usage(
        input_tokens,
        output_tokens,
        cache_read,
        cache_write,
        cache_write_1h,
        reasoning,
        input_audio,
        output_audio,
        False,
        others,
    )


def named(**counts: int) -> tuple[tuple[str, int], ...]:
    """Return counts as `Usage.others` has them; those that are 0 are left out."""
    return tuple(pair for pair in counts.items() if pair[1])
