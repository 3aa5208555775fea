"""What a call may cost before anybody knows: what is reserved, and what is settled after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.estimate import estimate_input_tokens
from asgi_llmgate.types import Usage

__all__ = ["DEFAULT_OUTPUT_TOKENS", "LearnedOutputs", "expected_usage", "output_limit"]

# Until a model was seen: about what chat answers of today take at most (p95 of recorded ones).
DEFAULT_OUTPUT_TOKENS = 1000

# No model writes more; what a caller sends beyond is not believed.
MAX_OUTPUT_TOKENS = 1_000_000

_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens", "max_tokens_to_sample")
# Gemini's, and Bedrock's.
_NESTED = ("generationConfig", "generation_config", "inferenceConfig")
_LIMITS_NESTED = ("maxOutputTokens", "max_output_tokens", "maxTokens")
_NO_OUTPUT = frozenset(
    {"openai-embeddings", "gemini-embeddings", "openai-moderations", "openai-rerank"}
)

SAMPLES = 128
RELEARN_EVERY = 16
MAX_MODELS = 1000


class LearnedOutputs:
    """The 95th percentile of output tokens of each model, over its last 128 calls."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[int]] = {}
        self._p95: dict[str, int] = {}
        self._until_learned: dict[str, int] = {}

    def observe(self, model: str, output_tokens: int) -> None:
        seen = self._seen.get(model)
        if seen is None:
            if len(self._seen) >= MAX_MODELS:
                return
            seen = self._seen[model] = deque(maxlen=SAMPLES)
        seen.append(output_tokens)
        left = self._until_learned.get(model, 1) - 1
        if left <= 0:
            ordered = sorted(seen)
            self._p95[model] = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
            # Few samples say little, so the first ones are learned from one by one.
            left = RELEARN_EVERY if len(seen) >= RELEARN_EVERY else 1
        self._until_learned[model] = left

    def expect(self, model: str | None) -> int:
        return self._p95.get(model or "", DEFAULT_OUTPUT_TOKENS)


def output_limit(request: Mapping[str, Any]) -> int | None:
    """Return how many output tokens a request allows, all its choices together; None if any."""
    limit = _first(request, _LIMITS)
    for name in _NESTED:
        if limit is None and isinstance(nested := request.get(name), dict):
            limit = _first(nested, _LIMITS_NESTED)
    if limit is None:
        return None
    choices = _positive(request.get("n")) or 1
    return min(limit * min(choices, 128), MAX_OUTPUT_TOKENS)


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        if name in values and (found := _positive(values[name])) is not None:
            return found
    return None


def expected_usage(
    wire_format: str | None,
    request: Mapping[str, Any] | None,
    model: str | None,
    learned: LearnedOutputs,
) -> Usage:
    """Return what to reserve: input as estimated, output as limited, else as learned."""
    if request is None:
        return Usage(estimated=True)
    output = 0
    if wire_format not in _NO_OUTPUT:
        limit = output_limit(request)
        output = learned.expect(model) if limit is None else limit
    return Usage(estimate_input_tokens(wire_format, request, model), output, estimated=True)


def _positive(value: object) -> int | None:
    return value if type(value) is int and 0 < value <= MAX_OUTPUT_TOKENS else None
