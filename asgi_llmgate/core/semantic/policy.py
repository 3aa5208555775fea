"""What an operator allows the semantic cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from asgi_llmgate.core.directives import Directives
from asgi_llmgate.core.semantic.asking import FULL, Context
from asgi_llmgate.errors import InvalidRequestError

__all__ = ["SemanticPolicy", "Way", "way"]

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SemanticPolicy:
    """Times are seconds.

    Args:
        max_error: The bound on the share of hits that are wrong, 0 to 1. A request may name a
            smaller one.
        max_errors: By tenant, where that differs.
        threshold: Cosine from which all is served, without a bound; None goes by the bound.
        is_shared: Answers are shared within the namespace, once two callers got the same; else
            only within one end user, or one principal where the user is not verified.
        observes: Nothing is served; what would have been is recorded.
        ttl_s: Life of an answer, from the last time a provider gave it.
        alias_ttl_s: How long a phrasing is remembered; what it means outlives any one answer.
        context: What of the conversation must be equal.
        check_budget: Share of what hits saved that may be spent on checking them.
    """

    max_error: float = 0.02
    max_errors: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None
    is_shared: bool = False
    observes: bool = False
    ttl_s: float = 3600.0
    alias_ttl_s: float = 7 * DAY_S
    context: Context = FULL
    check_budget: float = 0.25


@dataclass(frozen=True, slots=True)
class Way:
    """How one request is matched: by the bound, or by a threshold of the caller's own."""

    max_error: float
    threshold: float | None = None


def way(directives: Directives, policy: SemanticPolicy, tenant: str | None) -> Way | None:
    """Return how to match; None if only the very same request counts.

    Raises:
        InvalidRequestError: a threshold without its mode, or the mode without a threshold.
    """
    mode, threshold = directives.cache_mode, directives.cache_threshold
    if mode == "threshold" and threshold is None:
        raise _incomplete("LLMGate-Cache-Mode: threshold needs LLMGate-Cache-Threshold, 0 to 1.")
    if threshold is not None and mode != "threshold":
        raise _incomplete("LLMGate-Cache-Threshold needs LLMGate-Cache-Mode: threshold.")
    if mode == "exact":
        return None
    allowed = (
        policy.max_error if tenant is None else policy.max_errors.get(tenant, policy.max_error)
    )
    asked = directives.cache_max_error
    max_error = allowed if asked is None else min(asked, allowed)
    if mode is None and asked is None:
        threshold = policy.threshold
    return Way(max_error * policy.context.share_of_error, threshold)


def _incomplete(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, code="invalid_header", param="LLMGate-Cache-Threshold")
