"""Tell what came of an attempt, in the words of `core/fallback.py`."""

from __future__ import annotations

import time

from asgi_llmgate.core.fallback import Outcome, Reason
from asgi_llmgate.core.retry import asked_wait
from asgi_llmgate.errors import GatewayError, UpstreamTimeoutError
from asgi_llmgate.middleware._gate import ResponseGate
from asgi_llmgate.providers.provider_errors import decode_error

__all__ = ["is_the_upstreams_fault", "judge_answer", "judge_error"]

# Nothing is wrong with the provider itself where it says these.
_REASONS = {
    "context_overflow": Reason.CONTEXT_WINDOW,
    "content_filter": Reason.CONTENT_FILTER,
    "quota": Reason.QUOTA,
    "billing": Reason.QUOTA,
}


def judge_answer(
    gate: ResponseGate,
    answer_headers: list[tuple[bytes, bytes]],
    *,
    is_broken: bool,
    reads_end: bool,
) -> Outcome:
    """Return what to make of an answer that came to its end.

    Args:
        answer_headers: The provider's, as they came.
        is_broken: Its stream ended in an error event of ours.
    """
    status = gate.status
    headers = dict(reversed(answer_headers or gate.headers))  # the first of each
    if gate.is_open or status is None:
        asked_s = asked_wait(headers, status=status, now_s=time.time())
        return Outcome(status, asked_s=asked_s, committed=gate.is_open)
    if status < 400:
        if is_broken or gate.is_good_stream is False:
            return Outcome(status, Reason.STREAM_ERROR)
        if reads_end and gate.was_filtered:
            return Outcome(status, Reason.CONTENT_FILTER)
        return Outcome(status)
    error = decode_error(status, list(headers.items()), gate.body)
    asked_s = asked_wait(headers, status=status, now_s=time.time())
    if asked_s is None:
        asked_s = error.retry_after_s
    reason = _REASONS.get(error.type, Reason.STATUS)
    # Anthropic's spending limit is a 429 that names no time to wait.
    should_retry = {b"true": True, b"false": False}.get(headers.get(b"x-should-retry", b""))
    return Outcome(status, reason, asked_s, should_retry)


def judge_error(error: GatewayError, status: int | None) -> Outcome:
    """Return what to make of a call that ended without an answer for the caller."""
    if error.code == "upstream_auth":
        return Outcome(status or 401, Reason.AUTH)
    if isinstance(error, UpstreamTimeoutError):
        return Outcome(None, Reason.TIMEOUT)
    return Outcome(None, Reason.CONNECT)


def is_the_upstreams_fault(outcome: Outcome) -> bool:
    """Tell whether an outcome speaks against the provider, rather than against what was asked."""
    match outcome.reason:
        case Reason.CONNECT | Reason.TIMEOUT | Reason.STREAM_ERROR | Reason.STALLED:
            return True
        case _:
            return outcome.status is not None and outcome.status >= 500
