"""What the record of a call says that made none of its own, or took one over."""

from __future__ import annotations

import time

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.replay import JSON
from asgi_llmgate.middleware._cache_ask import Asked
from asgi_llmgate.types import Usage

__all__ = ["FREE", "adopt", "note_free", "note_joined", "note_saved"]

FREE = Usage()


def note_free(context: GatewayContext, asked: Asked) -> None:
    """Fill in what a provider's call would have: this one was free."""
    context.metered = context.complete = True
    context.usage, context.cost_nanousd = FREE, 0
    context.is_stream = asked.wanted.form != JSON
    context.model_requested = asked.model


def note_saved(
    context: GatewayContext, call_id: str, nanousd: int | None, duration_ms: float
) -> None:
    """Note which call paid instead, and how much."""
    context.original_id = call_id
    context.saved_nanousd, context.saved_ms = nanousd, duration_ms


def note_joined(context: GatewayContext, leader: GatewayContext) -> None:
    """Note that the answer came of a call that somebody else began."""
    context.complete = leader.complete
    context.error_code = leader.error_code
    context.target_provider = leader.target_provider
    context.target_model = leader.target_model
    duration_ms = (time.perf_counter_ns() - leader.started_ns) / 1e6
    note_saved(context, leader.id, leader.cost_nanousd, duration_ms)


def adopt(context: GatewayContext, leader: GatewayContext) -> None:
    """Account for a call whose beginner was cancelled before it was over."""
    context.usage, context.cost_nanousd = leader.usage, leader.cost_nanousd
    context.attempts = leader.attempts
    context.complete, context.error_code = leader.complete, leader.error_code
    context.target_provider = leader.target_provider
    context.target_model = leader.target_model
