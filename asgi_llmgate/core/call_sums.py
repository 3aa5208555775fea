"""What calls add up to, as lists of numbers that can be added: across calls and processes.

Everything is an integer (tokens, nano-dollars, microseconds), so that no order of adding
matters and nothing is lost to rounding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

from asgi_llmgate.core.exposition import Family
from asgi_llmgate.types import CallRecord

__all__ = ["CALLS", "MODELS", "Labels", "Numbers", "add_call", "call_families", "zeros"]

Labels = tuple[tuple[str, str], ...]
Numbers = list[float]

CALLS = "calls"
"""Family of sums per provider, model, dialect and status class: the number of calls."""

MODELS = "models:1"
"""Family of sums per provider and model, laid out as below. Another layout is another name."""

# Those of OpenTelemetry's `gen_ai.client.operation.duration` (0.01 s, doubling), with one below
# for cache hits and three above, up to our longest timeout of 900 s.
BOUNDS_S = (0.005, *(0.01 * 2**n for n in range(17)))
_BOUNDS_MS = [1000 * bound for bound in BOUNDS_S]
_WIDTH = len(BOUNDS_S) + 1  # The last bucket has no bound.

_DIRECTIONS = ("input", "output", "cache_read", "cache_write", "reasoning")
_COST = len(_DIRECTIONS)
_DURATION = _COST + 1  # Sum in microseconds, then the buckets, each for itself.
_FIRST_BYTE = _DURATION + 1 + _WIDTH
_SIZE = _FIRST_BYTE + 1 + _WIDTH


def zeros() -> Numbers:
    return [0] * _SIZE


def add_call(numbers: Numbers, record: CallRecord) -> None:
    """Add a call to the numbers of its provider and model."""
    if record.input_tokens is not None:
        numbers[0] += record.input_tokens
        numbers[1] += record.output_tokens or 0
        numbers[2] += record.cache_read_tokens or 0
        numbers[3] += record.cache_write_tokens or 0
        numbers[4] += record.reasoning_tokens or 0
    if record.cost_nanousd is not None:
        numbers[_COST] += record.cost_nanousd
    took_ms = record.duration_ms
    numbers[_DURATION] += int(took_ms * 1000)
    numbers[_DURATION + 1 + bisect_left(_BOUNDS_MS, took_ms)] += 1
    first_ms = record.first_byte_ms
    if first_ms is not None:
        numbers[_FIRST_BYTE] += int(first_ms * 1000)
        numbers[_FIRST_BYTE + 1 + bisect_left(_BOUNDS_MS, first_ms)] += 1


def call_families(
    calls: Mapping[Labels, Numbers], models: Mapping[Labels, Numbers]
) -> Iterator[Family]:
    """Return the metrics of all calls from their sums."""
    counted = [("", labels, numbers[0]) for labels, numbers in calls.items()]
    yield Family("llmgate_calls_total", "counter", "Calls, by outcome.", counted)
    yield _histogram(
        "llmgate_call_duration_seconds", "From the request to the last byte.", models, _DURATION
    )
    yield _histogram(
        "llmgate_first_byte_seconds",
        "From the request to the first byte of the answer.",
        models,
        _FIRST_BYTE,
    )
    tokens = [
        ("", (*labels, ("direction", direction)), numbers[place])
        for labels, numbers in models.items()
        for place, direction in enumerate(_DIRECTIONS)
    ]
    yield Family(
        "llmgate_tokens_total",
        "counter",
        "Tokens. input holds cache_read and cache_write, output holds reasoning.",
        tokens,
    )
    costs = [("", labels, numbers[_COST] / 1e9) for labels, numbers in models.items()]
    yield Family("llmgate_cost_usd_total", "counter", "Cost of calls with a known price.", costs)


def _histogram(name: str, text: str, models: Mapping[Labels, Numbers], start: int) -> Family:
    samples: list[tuple[str, Labels, float]] = []
    for labels, numbers in models.items():
        count: float = 0
        for bound, within in zip(
            (*map(repr, BOUNDS_S), "+Inf"), numbers[start + 1 : start + 1 + _WIDTH], strict=True
        ):
            count += within
            samples.append(("_bucket", (*labels, ("le", bound)), count))
        samples.append(("_sum", labels, numbers[start] / 1e6))
        samples.append(("_count", labels, count))
    return Family(name, "histogram", text, samples)
