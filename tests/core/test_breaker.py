from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asgi_llmgate.core.breaker import (
    CALL,
    TRANSITIONS,
    Breaker,
    BreakerPolicy,
    Event,
    State,
    Ticket,
)

POLICY = BreakerPolicy(failures=3, least_calls=10, open_s=5, max_open_s=60, jitter=0)


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(3):
        breaker.record(CALL, is_good=False, now_s=now_s)
    assert breaker.state is State.OPEN
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(POLICY)
    outcomes = [
        breaker.record(CALL, is_good=good, now_s=0) for good in (False, False, True, False, False)
    ]

    assert outcomes == [False] * 5
    assert breaker.record(CALL, is_good=False, now_s=0)
    assert breaker.admit(1) is None


def test_it_opens_where_half_of_many_calls_fail() -> None:
    breaker = Breaker(POLICY)
    for number in range(11):
        breaker.record(CALL, is_good=number % 2 == 1, now_s=number / 10)

    assert breaker.state is State.OPEN


def test_failures_that_are_long_past_do_not_count() -> None:
    breaker = Breaker(POLICY)
    for number in range(30):
        breaker.record(CALL, is_good=number % 2 == 1, now_s=number * 3)

    assert breaker.state is State.CLOSED


def test_one_probe_decides() -> None:
    breaker = opened()
    probe = breaker.admit(5)

    assert probe is not None
    assert breaker.admit(5) is None
    assert breaker.record(probe, is_good=True, now_s=6)
    assert breaker.admit(6) == CALL


def test_each_failed_probe_doubles_the_time() -> None:
    breaker = opened()
    waits = []
    now_s = 0.0
    for _ in range(6):
        waits.append(breaker.until_s - now_s)
        now_s = breaker.until_s
        probe = breaker.admit(now_s)
        assert probe is not None
        breaker.record(probe, is_good=False, now_s=now_s)

    assert waits == [5, 10, 20, 40, 60, 60]


def test_a_probe_whose_caller_left_is_given_to_the_next() -> None:
    breaker = opened()
    probe = breaker.admit(5)
    assert probe is not None
    breaker.record(probe, is_good=None, now_s=6)

    assert breaker.admit(6) is not None


def test_calls_from_before_it_opened_change_nothing() -> None:
    breaker = opened()
    breaker.record(CALL, is_good=True, now_s=1)

    assert breaker.state is State.OPEN


def test_who_does_not_grant_itself_waits_to_be_granted() -> None:
    breaker = Breaker(POLICY, grants_itself=False)
    breaker.hear(is_open=True, until_s=5)

    assert breaker.admit(100) is None
    assert breaker.grant() is not None
    assert breaker.grant() is None


def test_every_state_can_be_left() -> None:
    for state in State:
        following = {TRANSITIONS.get((state, event)) for event in Event}
        assert following - {state, None}


class BreakerMachine(RuleBasedStateMachine):
    """Calls, probes and news from elsewhere, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(POLICY)
        self.now_s = 0.0
        self.calls = 0
        self.probes: list[Ticket] = []
        """Given out, not handed back, not overtaken by news."""
        self.stale: list[Ticket] = []

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def ask(self) -> None:
        before, due = self.breaker.state, self.now_s >= self.breaker.until_s
        ticket = self.breaker.admit(self.now_s)
        if before is State.CLOSED:
            assert ticket == CALL
            self.calls += 1
        elif ticket is not None:
            assert before is State.OPEN
            assert due
            self.probes.append(ticket)

    @precondition(lambda self: self.calls)
    @rule(good=st.sampled_from([True, False, None]))
    def end_call(self, good: bool | None) -> None:
        self.calls -= 1
        before = self.breaker.state
        self.breaker.record(CALL, is_good=good, now_s=self.now_s)
        if before is not State.CLOSED:
            assert self.breaker.state is before

    @precondition(lambda self: self.probes)
    @rule(good=st.sampled_from([True, False, None]))
    def end_probe(self, good: bool | None) -> None:
        ticket = self.probes.pop()
        self.stale.append(ticket)
        self.breaker.record(ticket, is_good=good, now_s=self.now_s)
        expected = State.CLOSED if good else State.OPEN
        assert self.breaker.state is expected

    @precondition(lambda self: self.stale)
    @rule(good=st.booleans())
    def hand_back_twice(self, good: bool) -> None:
        before = self.breaker.state
        changed = self.breaker.record(self.stale[-1], is_good=good, now_s=self.now_s)
        if self.probes or before is not State.HALF_OPEN:
            assert not changed
            assert self.breaker.state is before

    @rule(is_open=st.booleans())
    def hear(self, is_open: bool) -> None:
        self.breaker.hear(is_open=is_open, until_s=self.now_s + 5)

    @invariant()
    def there_is_never_a_second_probe(self) -> None:
        assert len(self.probes) <= 1
        assert bool(self.probes) == (self.breaker.state is State.HALF_OPEN)

    @invariant()
    def an_open_one_is_due_in_bounded_time(self) -> None:
        if self.breaker.state is State.OPEN:
            assert self.breaker.until_s <= self.now_s + POLICY.max_open_s


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
