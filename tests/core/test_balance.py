from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asgi_llmgate.core.balance import KeyLimits, Load, by_cost, by_load, by_weight


@settings(max_examples=20)
@given(st.lists(st.floats(0.5, 10), min_size=2, max_size=5), st.integers(0, 2**32))
def test_members_come_first_in_proportion_to_their_weight(weights: list[float], seed: int) -> None:
    rolls = random.Random(seed)
    number = 4000
    firsts = [0] * len(weights)
    for _ in range(number):
        order = by_weight(weights, [rolls.random() for _ in weights])
        assert sorted(order) == list(range(len(weights)))
        firsts[order[0]] += 1

    for count, weight in zip(firsts, weights, strict=True):
        share = weight / sum(weights)
        # Five standard deviations: wrong once in two million.
        assert abs(count - number * share) <= 5 * (number * share * (1 - share)) ** 0.5 + 1


def test_the_less_loaded_of_two_goes_first() -> None:
    assert by_load([2, 0, 1], [5.0, 1.0, 9.0]) == [0, 2, 1]
    assert by_load([0, 2, 1], [5.0, 1.0, 9.0]) == [0, 2, 1]


def test_unknown_prices_come_last() -> None:
    assert by_cost([None, 5, 3, 5]) == [2, 1, 3, 0]


def test_a_latency_that_is_old_is_forgotten() -> None:
    load = Load()
    load.note(8.0, 0.0)

    assert load.latency_s(0) == 8
    assert load.latency_s(10) == 4
    assert load.latency_s(100) < 0.01


def test_a_key_is_near_its_limit_until_it_resets() -> None:
    limits = KeyLimits()
    limits.learn(
        {
            b"x-ratelimit-limit-requests": b"500",
            b"x-ratelimit-remaining-requests": b"3",
            b"x-ratelimit-reset-requests": b"12s",
        },
        now_s=100,
        wall_s=0,
    )

    assert limits.is_near(105)
    assert not limits.is_near(113)


def test_what_is_unreadable_is_not_a_limit() -> None:
    limits = KeyLimits()
    limits.learn(
        {b"x-ratelimit-remaining-requests": b"few", b"x-ratelimit-limit-requests": b"nan"},
        now_s=0,
        wall_s=0,
    )

    assert not limits.is_near(0)


class LoadMachine(RuleBasedStateMachine):
    """A pool by load whose members have any latency: nobody is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.rolls = random.Random(7)
        self.loads = [Load() for _ in range(3)]
        self.now_s = 0.0
        self.last_first = [0.0] * 3

    @rule(latencies=st.tuples(*[st.floats(0.01, 30)] * 3), seconds=st.floats(0.01, 3))
    def a_minute_of_calls(self, latencies: tuple[float, float, float], seconds: float) -> None:
        end_s = self.now_s + 60
        while self.now_s < end_s:
            self.now_s += seconds
            order = by_load(
                by_weight([1, 1, 1], [self.rolls.random() for _ in range(3)]),
                [load.score(self.now_s) for load in self.loads],
            )
            first = order[0]
            self.last_first[first] = self.now_s
            self.loads[first].note(latencies[first], self.now_s)

    @invariant()
    def nobody_is_starved(self) -> None:
        assert all(self.now_s - last < 240 for last in self.last_first)

    @invariant()
    def latencies_are_bounded_by_what_was_seen(self) -> None:
        assert all(0 <= load.latency_s(self.now_s) <= 30 for load in self.loads)


TestLoadMachine = LoadMachine.TestCase
TestLoadMachine.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)
