from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.retry import RetryBudget, RetryPolicy, asked_wait, duration_s, moment_s

NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "status", "seconds"),
    [
        ({b"retry-after-ms": b"1500", b"retry-after": b"9"}, 429, 1.5),
        ({b"retry-after": b"7"}, 503, 7.0),
        ({b"retry-after": b"0.5"}, 503, 0.5),
        ({b"retry-after": b"Fri, 15 Jan 2027 08:00:30 GMT"}, 429, 30.0),
        (
            {
                b"retry-after": b"Fri, 15 Jan 2027 08:00:30 GMT",
                b"date": b"Fri, 15 Jan 2027 08:00:20 GMT",
            },
            429,
            10.0,
        ),
        (
            {
                b"x-ratelimit-remaining-requests": b"0",
                b"x-ratelimit-reset-requests": b"6m0s",
                b"x-ratelimit-remaining-tokens": b"10",
                b"x-ratelimit-reset-tokens": b"9h",
            },
            429,
            360.0,
        ),
        (
            {b"x-ratelimit-remaining-requests": b"0", b"x-ratelimit-reset-requests": b"6m0s"},
            500,
            None,
        ),
        (
            {
                b"anthropic-ratelimit-requests-remaining": b"0",
                b"anthropic-ratelimit-requests-reset": b"2027-01-15T08:00:05Z",
            },
            429,
            5.0,
        ),
        ({b"retry-after": b"soon"}, 429, None),
        ({b"retry-after": b"nan"}, 429, None),
        ({b"retry-after": b"-3"}, 429, 0.0),
        ({}, 429, None),
    ],
    ids=[
        "milliseconds-first",
        "seconds",
        "fraction",
        "date",
        "date-of-their-clock",
        "reset-of-what-is-used-up",
        "resets-count-for-429-only",
        "anthropic",
        "nonsense",
        "nan",
        "past",
        "nothing",
    ],
)
def test_what_a_provider_asks_for_is_read(
    headers: dict[bytes, bytes], status: int, seconds: float | None
) -> None:
    assert asked_wait(headers, status=status, now_s=NOW_S) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("1d", 86_400),
        ("12", 12),
        ("", None),
        ("m", None),
    ],
)
def test_durations_have_several_spellings(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


def test_a_reset_may_be_a_moment() -> None:
    assert moment_s("1800000060", NOW_S) == 60
    assert moment_s("1800000060000", NOW_S) == 60
    assert moment_s("tomorrow", NOW_S) is None


@given(st.text(max_size=50))
def test_no_reset_makes_it_raise(text: str) -> None:
    wait = moment_s(text, NOW_S)

    assert wait is None or wait >= 0


@given(st.integers(1, 50), st.floats(0, 0.999), st.floats(0, 1e6) | st.none())
def test_a_pause_lies_between_what_is_asked_and_the_longest(
    tried: int, roll: float, asked_s: float | None
) -> None:
    policy = RetryPolicy(attempts=100, factor=3, min_s=0.5, max_s=20)
    pause = policy.pause_s(tried, asked_s, roll)

    if asked_s is not None and asked_s > policy.max_s:
        assert pause is None
    else:
        assert pause is not None
        assert (asked_s or 0) <= pause <= policy.max_s


def test_pauses_grow() -> None:
    policy = RetryPolicy(attempts=9, factor=2, min_s=1, max_s=10)

    assert [policy.pause_s(tried, None, 1.0) for tried in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 10]


def test_the_number_counts_attempts_not_retries() -> None:
    assert RetryPolicy(attempts=2).pause_s(1, None, 0.5) is not None
    assert RetryPolicy(attempts=2).pause_s(2, None, 0.5) is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["call", "take"]), st.floats(0, 5)), min_size=1, max_size=300
    )
)
def test_retries_never_exceed_a_fifth_of_the_calls_and_ten_per_begun_second(
    steps: list[tuple[str, float]],
) -> None:
    budget = RetryBudget()
    now_s, calls, retries = 0.0, 0, 0
    for action, wait_s in steps:
        now_s += wait_s
        if action == "call":
            budget.calls += 1
            calls += 1
        else:
            retries += budget.take(now_s)

    assert retries <= 0.2 * calls + 10 * (now_s + 1) + 1e-6
