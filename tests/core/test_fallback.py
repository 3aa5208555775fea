from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.fallback import (
    Attempt,
    Leg,
    MoveOn,
    Outcome,
    PassOver,
    Pause,
    Reason,
    Step,
    fallback_plan,
)
from asgi_llmgate.core.retry import NO_RETRY, RetryPolicy

GOOD = Outcome(200)


def refused(status: int, **more: float | bool) -> Outcome:
    return Outcome(status, Reason.STATUS, **more)  # type: ignore[arg-type]  # by name


def run(
    legs: Sequence[Leg], outcomes: Sequence[Outcome], retry: RetryPolicy = NO_RETRY
) -> list[Step]:
    """Return the steps of a plan whose attempts have `outcomes`, then none but good ones."""
    left = list(outcomes)
    steps: list[Step] = []
    plan = fallback_plan(legs, retry)
    try:
        step = next(plan)
        while True:
            steps.append(step)
            outcome = None
            if isinstance(step, Attempt):
                outcome = left.pop(0) if left else GOOD
            step = plan.send(outcome)
    except StopIteration:
        return steps


def called(steps: Sequence[Step]) -> list[tuple[int, int]]:
    return [(step.leg, step.key) for step in steps if isinstance(step, Attempt)]


def test_a_good_answer_is_the_last() -> None:
    assert called(run([Leg(), Leg()], [GOOD])) == [(0, 0)]


def test_a_client_error_is_not_retried() -> None:
    assert called(run([Leg(keys=2), Leg()], [refused(400)])) == [(0, 0)]


def test_keys_come_before_targets_and_without_a_pause() -> None:
    steps = run([Leg(keys=2), Leg()], [refused(429), refused(503)])

    assert called(steps) == [(0, 0), (0, 1), (1, 0)]
    assert not any(isinstance(step, Pause) for step in steps)


def test_another_key_does_not_help_against_a_500() -> None:
    assert called(run([Leg(keys=2), Leg()], [refused(500)])) == [(0, 0), (1, 0)]


def test_a_target_is_asked_again_after_pauses() -> None:
    policy = RetryPolicy(attempts=3, min_s=1, factor=2)
    steps = run([Leg(), Leg()], [refused(503)] * 3, policy)

    assert [type(step) for step in steps] == [Attempt, Pause, Attempt, Pause, Attempt, Attempt]
    assert [step.seconds for step in steps if isinstance(step, Pause)] == [1, 2]


def test_the_shortest_wait_among_keys_counts() -> None:
    policy = RetryPolicy(attempts=3, min_s=0)
    steps = run([Leg(keys=2)], [refused(429, asked_s=9.0), refused(429, asked_s=2.0)], policy)

    assert [step.seconds for step in steps if isinstance(step, Pause)] == [2]


def test_a_refused_key_is_not_asked_again() -> None:
    policy = RetryPolicy(attempts=4, min_s=0)
    steps = run([Leg(keys=2)], [Outcome(401, Reason.AUTH), refused(503)], policy)

    assert called(steps) == [(0, 0), (0, 1), (0, 1)]


def test_a_quota_is_not_waited_for() -> None:
    policy = RetryPolicy(attempts=4, min_s=0)

    assert called(run([Leg(), Leg()], [Outcome(429, Reason.QUOTA)], policy)) == [(0, 0), (1, 0)]


def test_the_provider_has_the_last_word_on_retries() -> None:
    policy = RetryPolicy(attempts=2, min_s=0)

    assert called(run([Leg()], [refused(503, should_retry=False)], policy)) == [(0, 0)]
    assert called(run([Leg()], [refused(418, should_retry=True)], policy)) == [(0, 0), (0, 0)]


def test_too_long_a_prompt_skips_models_that_are_no_larger() -> None:
    legs = [Leg(window=8000), Leg(window=4000), Leg(window=None), Leg(window=100_000)]
    steps = run(legs, [Outcome(400, Reason.CONTEXT_WINDOW), Outcome(400, Reason.CONTEXT_WINDOW)])

    assert called(steps) == [(0, 0), (2, 0), (3, 0)]
    assert PassOver(1, Reason.CONTEXT_WINDOW) in steps


def test_who_is_known_to_fail_comes_last_and_is_noted() -> None:
    near = Leg(defer=Reason.NEAR_LIMIT)
    steps = run([near, Leg()], [refused(500), refused(429)])

    assert steps[0] == PassOver(0, Reason.NEAR_LIMIT)
    assert called(steps) == [(1, 0), (0, 0)]
    assert [step.is_last for step in steps if isinstance(step, Attempt)] == [False, True]


def test_who_has_nobody_else_defers_nothing() -> None:
    legs = [Leg(defer=Reason.AUTH_OUT), Leg(unfit=Reason.NO_KEY), Leg(defer=Reason.NEAR_LIMIT)]

    assert called(run(legs, [refused(500)])) == [(0, 0), (2, 0)]


def test_a_reason_can_be_switched_off() -> None:
    never = MoveOn(connect=False, timeout=False, statuses=frozenset({500}), stream=False)
    legs = [Leg(moves=never), Leg()]

    for reason in (Reason.CONNECT, Reason.TIMEOUT, Reason.STALLED, Reason.STREAM_ERROR):
        assert called(run(legs, [Outcome(None, reason)])) == [(0, 0)]
    assert called(run(legs, [refused(503)])) == [(0, 0)]
    assert called(run(legs, [refused(500)])) == [(0, 0), (1, 0)]


def test_who_was_not_called_does_not_count() -> None:
    closed = Outcome(None, Reason.BREAKER_OPEN, was_sent=False)

    assert called(run([Leg(keys=2), Leg()], [closed, closed])) == [(0, 0), (0, 1), (1, 0)]


OUTCOMES = st.builds(
    Outcome,
    status=st.none() | st.sampled_from([200, 400, 401, 404, 429, 500, 503]),
    reason=st.none()
    | st.sampled_from(
        [
            Reason.CONNECT,
            Reason.STATUS,
            Reason.AUTH,
            Reason.QUOTA,
            Reason.CONTEXT_WINDOW,
            Reason.STREAM_ERROR,
        ]
    ),
    asked_s=st.none() | st.floats(0, 20),
    should_retry=st.none() | st.booleans(),
    committed=st.booleans(),
    was_sent=st.booleans(),
)
LEGS = st.lists(
    st.builds(
        Leg,
        keys=st.integers(0, 3),
        unfit=st.none() | st.just(Reason.NO_KEY),
        window=st.none() | st.sampled_from([1000, 2000]),
        defer=st.none() | st.just(Reason.NEAR_LIMIT),
    ),
    max_size=5,
)


def is_attempt_at(step: Step, places: set[int]) -> bool:
    return isinstance(step, Attempt) and step.leg in places


@given(LEGS, st.lists(OUTCOMES, max_size=60), st.integers(1, 5))
def test_every_plan_ends_in_order_and_after_what_was_committed(
    legs: list[Leg], outcomes: list[Outcome], attempts: int
) -> None:
    steps = run(legs, outcomes, RetryPolicy(attempts=attempts))
    places = [step.leg for step in steps if isinstance(step, Attempt | PassOver)]
    number = len([step for step in steps if isinstance(step, Attempt)])

    fit = [leg for leg in legs if leg.unfit is None]
    deferred = {place for place, leg in enumerate(legs) if leg.unfit is None and leg.defer}
    if len(deferred) == len(fit):
        deferred = set()
    late = [place for place in places if place in deferred]
    at_once = [place for place in places if place not in deferred]
    assert at_once == sorted(at_once)
    assert late[: len(set(late))] == sorted(set(late))
    called_late = [index for index, step in enumerate(steps) if is_attempt_at(step, deferred)]
    called_soon = [
        index
        for index, step in enumerate(steps)
        if isinstance(step, Attempt) and step.leg not in deferred
    ]
    assert not called_late or not called_soon or max(called_soon) < min(called_late)
    assert number <= sum(max(leg.keys, attempts + leg.keys) for leg in legs)
    for index, outcome in enumerate(outcomes[: number - 1] if number else []):
        assert not (outcome.committed and outcome.was_sent), index
    for before, step in pairwise(steps):
        if isinstance(before, Attempt) and before.is_last and not isinstance(step, PassOver):
            raise AssertionError(f"{step} follows what was to be the last")
