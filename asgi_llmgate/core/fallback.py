"""Decide what to try next: which target, with which of its keys, after which pause.

A plan is a generator: it yields a step and is sent what came of it. It does no I/O and reads no
clock, so the middleware and a test that never sleeps are driven by the same decisions.

    for each target, in order, those last whose keys are known not to work:
        each of its keys, at once                     (429, 503, no connection, key refused)
        again after a pause, while the policy allows  (`Retry-Enabled`)
    until an answer is good, or nobody else may be asked what was refused
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from asgi_llmgate.core.retry import NO_RETRY, RETRYABLE, RetryPolicy

__all__ = [
    "DEFAULT_MOVES",
    "PASSED_OVER",
    "Attempt",
    "Leg",
    "MoveOn",
    "Outcome",
    "PassOver",
    "Pause",
    "Reason",
    "Step",
    "fallback_plan",
    "same_key_moves",
]


class Reason:
    """Why an answer was not the last word. The names are those of the record."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STATUS = "status"
    QUOTA = "quota"
    """429, but no wait helps: the money is gone."""
    AUTH = "auth"
    """The operator's key was refused."""
    CONTEXT_WINDOW = "context_window"
    CONTENT_FILTER = "content_filter"
    STREAM_ERROR = "stream_error"
    STALLED = "stalled"
    # Nobody was called:
    NO_KEY = "no_key"
    BREAKER_OPEN = "breaker_open"
    NEAR_LIMIT = "near_limit"
    AUTH_OUT = "key_out"
    """The key was refused not long ago."""
    RETRY_BUDGET = "retry_budget"
    UNTRANSLATABLE = "translation_unavailable"
    TOOLS = "tools"
    IMAGES = "images"


PASSED_OVER = frozenset(
    {
        Reason.NO_KEY,
        Reason.BREAKER_OPEN,
        Reason.NEAR_LIMIT,
        Reason.AUTH_OUT,
        Reason.RETRY_BUDGET,
        Reason.UNTRANSLATABLE,
        Reason.TOOLS,
        Reason.IMAGES,
    }
)
"""Reasons of attempts that were none. `context_window` may be either."""

STATUSES = frozenset({401, 402, 403, 404, 408, 409, 425, 429, *range(500, 600)})


@dataclass(frozen=True, slots=True)
class MoveOn:
    """What is reason enough to ask another target. Each can be switched off."""

    connect: bool = True
    timeout: bool = True
    statuses: frozenset[int] = STATUSES
    context_window: bool = True
    content_filter: bool = False
    """Off: a refusal is an answer, and shopping for a laxer model is the caller's decision."""
    stream: bool = True
    """A stream that fails or stalls before its first content."""

    def allows(self, outcome: Outcome) -> bool:
        match outcome.reason:
            case Reason.CONNECT:
                return self.connect
            case Reason.TIMEOUT:
                return self.timeout
            case Reason.CONTEXT_WINDOW:
                return self.context_window
            case Reason.CONTENT_FILTER:
                return self.content_filter
            case Reason.STREAM_ERROR | Reason.STALLED:
                return self.stream
            case _:
                return outcome.status in self.statuses


DEFAULT_MOVES = MoveOn()


@dataclass(frozen=True, slots=True)
class Leg:
    """One target of a plan.

    Args:
        keys: How many credentials there are for it; 0 if it cannot be called.
        unfit: Why it cannot be called, or must not.
        moves: What is reason enough to go on to the next target.
        window: Tokens its model takes; None if unknown.
        model: Two legs of one model fail alike at what is about the prompt.
        defer: Why it comes after all others: its keys were refused, or are near a limit.
    """

    keys: int = 1
    unfit: str | None = None
    moves: MoveOn = DEFAULT_MOVES
    window: int | None = None
    model: str | None = None
    defer: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """Call the target at `leg` with its credential number `key`, and report what came of it.

    `is_last` says that nothing would follow whatever comes, so nothing needs to be held back.
    """

    leg: int
    key: int
    is_last: bool
    is_repeat: bool
    """The same target was called before, so that this counts as a retry."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, then ask for the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PassOver:
    """Note that the target at `leg` is not called, and why."""

    leg: int
    reason: str


Step = Attempt | Pause | PassOver


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt.

    Args:
        status: None if no response head arrived.
        reason: None if the answer was good, or is none of our business.
        asked_s: How long the provider asks to wait.
        should_retry: What it says itself (`x-should-retry`).
        committed: Something of it has reached the caller, so it is the last.
        was_sent: False if nobody was called after all.
    """

    status: int | None
    reason: str | None = None
    asked_s: float | None = None
    should_retry: bool | None = None
    committed: bool = False
    was_sent: bool = True


def same_key_moves(outcome: Outcome) -> bool:
    """Tell whether another key of the same target may do what this one could not."""
    if outcome.reason in (Reason.CONNECT, Reason.AUTH, Reason.QUOTA):
        return True
    if outcome.reason != Reason.STATUS:
        return False
    # A limit is that of a key. Who is overloaded and says for how long is so for all keys.
    return outcome.status in (402, 429) or (
        outcome.status in (503, 529) and outcome.asked_s is None
    )


def fallback_plan(
    legs: Sequence[Leg],
    retry: RetryPolicy = NO_RETRY,
    roll: Callable[[], float] = lambda: 1.0,
) -> Generator[Step, Outcome | None, None]:
    """Try each target in turn, until an answer is good or the last word.

    Send an `Outcome` after an `Attempt`, and None after the other steps.

    Args:
        roll: Returns a random number in [0, 1), for the jitter of pauses.
    """
    too_long_for: int | None = None
    for place, is_last in _in_order(legs):
        leg = legs[place]
        if leg.unfit is not None:
            yield PassOver(place, leg.unfit)
            continue
        if is_last is None:
            yield PassOver(place, leg.defer or "")
            continue
        if too_long_for is not None and leg.window is not None and leg.window <= too_long_for:
            yield PassOver(place, Reason.CONTEXT_WINDOW)
            continue
        outcome = yield from _one_leg(place, leg, retry, roll, is_last_leg=is_last)
        if outcome is None:  # All its keys were passed over.
            continue
        if outcome.committed or outcome.reason is None or not leg.moves.allows(outcome):
            return
        if outcome.reason == Reason.CONTEXT_WINDOW and leg.window is not None:
            too_long_for = max(too_long_for or 0, leg.window)


def _in_order(legs: Sequence[Leg]) -> list[tuple[int, bool | None]]:
    """Return the places to come to, each with whether it is the last to call.

    None where it is not yet called, but deferred. Who has nobody else defers nothing.
    """
    fit = [place for place, leg in enumerate(legs) if leg.unfit is None]
    late = [place for place in fit if legs[place].defer is not None]
    if len(late) == len(fit):
        late = []
    last = (late or fit)[-1] if fit else None
    order: list[tuple[int, bool | None]] = [
        (place, None if place in late else place == last) for place in range(len(legs))
    ]
    return order + [(place, place == last) for place in late]


def _one_leg(
    place: int,
    leg: Leg,
    retry: RetryPolicy,
    roll: Callable[[], float],
    *,
    is_last_leg: bool,
) -> Generator[Step, Outcome | None, Outcome | None]:
    last: Outcome | None = None
    tried = 0
    usable = list(range(leg.keys))
    while True:
        refused: list[int] = []
        asked_s: float | None = None
        for index, key in enumerate(usable):
            # Only so many attempts in all are asked for, but each key has one.
            is_last_key = index == len(usable) - 1
            is_last = is_last_leg and is_last_key and tried + 1 >= retry.attempts
            outcome = yield Attempt(place, key, is_last, tried > 0)
            assert outcome is not None, "an Attempt is answered with an Outcome"
            if not outcome.was_sent:
                continue
            last = outcome
            tried += 1
            if outcome.committed or outcome.reason is None:
                return outcome
            if outcome.asked_s is not None:
                asked_s = outcome.asked_s if asked_s is None else min(asked_s, outcome.asked_s)
            if outcome.reason in (Reason.AUTH, Reason.QUOTA):
                refused.append(key)
            if not same_key_moves(outcome):
                break
        if last is None or not _may_repeat(last):
            return last
        usable = [key for key in usable if key not in refused]
        seconds = retry.pause_s(tried, asked_s, roll())
        if seconds is None or not usable:
            return last
        yield Pause(seconds)


def _may_repeat(outcome: Outcome) -> bool:
    """Tell whether the same target may do later what it could not now."""
    if outcome.should_retry is not None and outcome.reason == Reason.STATUS:
        return outcome.should_retry
    match outcome.reason:
        case Reason.CONNECT | Reason.TIMEOUT | Reason.STREAM_ERROR | Reason.STALLED:
            return True
        case Reason.STATUS:
            return outcome.status in RETRYABLE
        case _:
            return False
