from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.budgets import Budget, Period, budget_from, budget_meter, period_of
from asgi_llmgate.core.ledger import Ledger
from asgi_llmgate.core.limits import BadPolicyError, Identity
from asgi_llmgate.core.meters import Claim, Kind, Meter, sliding
from asgi_llmgate.core.reserve import LearnedOutputs, expected_usage, output_limit

SECOND = 10**9
RATE = Meter("rate", Kind.RATE, 10, 60 * SECOND)


def test_a_bucket_starts_full_and_refills_continuously() -> None:
    ledger = Ledger()
    burst = [ledger.take([Claim(RATE, 1, 1)], 0, 0)[0].allowed for _ in range(11)]
    [refused] = ledger.take([Claim(RATE, 1, 1)], 0, 0)
    [later] = ledger.take([Claim(RATE, 1, 1)], 6 * SECOND, 0)
    [again] = ledger.take([Claim(RATE, 1, 1)], 6 * SECOND, 0)

    assert burst == [True] * 10 + [False]
    assert refused.wait_ns == 6 * SECOND
    assert refused.reset_ns == 60 * SECOND
    assert later.allowed
    assert not again.allowed


@given(
    st.integers(1, 10**14),
    st.integers(1, 31_536_000),
    st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 10**13)), max_size=50),
)
def test_no_window_admits_more_than_twice_the_quota_nor_time_more_than_its_share(
    quota: int, window_s: int, calls: list[tuple[int, int]]
) -> None:
    """A bucket that holds the quota and refills it once a window."""
    meter = Meter("m", Kind.RATE, quota, window_s * SECOND)
    ledger, now_ns, admitted = Ledger(), 0, 0
    for pause_ns, amount in calls:
        now_ns += pause_ns
        amount = min(amount, quota)
        [standing] = ledger.take([Claim(meter, amount, amount)], now_ns, 0)
        admitted += amount if standing.allowed else 0

        assert 0 <= standing.remaining <= quota
        assert standing.wait_ns >= 0
        assert admitted <= quota + now_ns * quota // meter.window_ns + 1


@given(st.integers(1, 10**12), st.integers(1, 1000), st.integers(0, 10**12), st.integers(0, 10**12))
def test_after_the_wait_it_says_a_call_is_let_through(
    quota: int, window_s: int, first: int, second: int
) -> None:
    meter = Meter("m", Kind.RATE, quota, window_s * SECOND)
    ledger = Ledger()
    ledger.take([Claim(meter, min(first, quota), 0)], 0, 0)
    second = max(1, min(second, quota))

    [standing] = ledger.take([Claim(meter, second, second)], 0, 0)
    [after] = ledger.take([Claim(meter, 0, second)], standing.wait_ns, 0)

    assert standing.allowed or after.allowed


def test_all_claims_are_taken_or_none() -> None:
    ledger = Ledger()
    small = Meter("small", Kind.BUDGET, 5, ends_ns=10**18)

    refused = ledger.take([Claim(RATE, 1, 1), Claim(small, 6, 6)], 0, 0)
    [rate] = ledger.take([Claim(RATE, 1, 1)], 0, 0)

    assert [standing.allowed for standing in refused] == [True, False]
    assert rate.remaining == 9


def test_what_was_reserved_too_much_is_there_again() -> None:
    ledger = Ledger()
    ledger.take([Claim(RATE, 10, 10)], 0, 0)
    ledger.settle(RATE, 10, 3, 0)

    assert ledger.take([Claim(RATE, 1, 1)], 0, 0)[0].remaining == 6


def test_what_was_spent_beyond_the_reservation_is_owed() -> None:
    ledger = Ledger()
    ledger.take([Claim(RATE, 1, 1)], 0, 0)
    ledger.settle(RATE, 1, 15, 0)

    [standing] = ledger.take([Claim(RATE, 1, 1)], 0, 0)

    assert not standing.allowed
    assert standing.wait_ns == 36 * SECOND


def test_sweeping_drops_only_what_is_the_same_as_nothing() -> None:
    ledger = Ledger()
    ended = Meter("ended", Kind.BUDGET, 5, ends_ns=100)
    for meter in (RATE, ended, ended._replace(key="on", ends_ns=10**18)):
        ledger.take([Claim(meter, 5, 5)], 0, 0)
        ledger.settle(meter, 5, 5, 0)
    ledger.sweep(RATE.window_ns, 200)

    assert ledger.spent("") == {"on": 5}
    assert ledger.take([Claim(RATE, 1, 1)], RATE.window_ns, 200)[0].remaining == 9


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 10**12))
def test_a_sliding_window_weighs_the_last_one_by_what_is_left_of_it(
    last: int, current: int, now_ns: int
) -> None:
    used, left_ns = sliding(last, current, now_ns, RATE)

    assert current <= used <= current + last
    assert 0 < left_ns <= RATE.window_ns
    assert (used - current) * RATE.window_ns >= last * left_ns


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("period", "now", "begin", "end"),
    [
        (Period.MONTH, "2026-02-14T12:00", "2026-02-01T00:00+01:00", "2026-03-01T00:00+01:00"),
        (Period.MONTH, "2026-12-31T23:59", "2026-12-01T00:00+01:00", "2027-01-01T00:00+01:00"),
        (Period.MONTH, "2026-03-31T23:59", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
        (Period.DAY, "2026-03-29T12:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        (Period.DAY, "2026-10-25T12:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        (Period.HOUR, "2026-07-01T12:34", "2026-07-01T12:00+02:00", "2026-07-01T13:00+02:00"),
    ],
)
def test_periods_are_of_the_calendar_and_the_time_zone(
    period: Period, now: str, begin: str, end: str
) -> None:
    found = period_of(period, datetime.fromisoformat(now).replace(tzinfo=BERLIN))

    assert [moment.isoformat("T", "minutes") for moment in found] == [begin, end]


def test_the_hour_that_comes_twice_is_two_budgets() -> None:
    budget = Budget("b", "all", 100, Period.HOUR)
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    meters = [
        budget_meter(budget, "", int((first + timedelta(hours=hours)).timestamp()) * SECOND, BERLIN)
        for hours in (0, 1)
    ]

    assert meters[0].key != meters[1].key
    assert meters[0].ends_ns == int((first + timedelta(minutes=30)).timestamp()) * SECOND


@given(st.integers(946_684_800, 4_102_444_800))
def test_every_moment_lies_in_its_period(moment_s: int) -> None:
    for zone in (UTC, BERLIN, ZoneInfo("Asia/Kolkata"), ZoneInfo("Pacific/Apia")):
        now = datetime.fromtimestamp(moment_s, zone)
        for period in Period:
            begin, end = period_of(period, now)

            assert begin.astimezone(UTC) <= now.astimezone(UTC) < end.astimezone(UTC)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"name": "a b"}, "name"),
        ({"per": "planet"}, "per"),
        ({"period": "year"}, "period"),
        ({"limit_nanousd": 0}, "limit"),
        ({"soft_nanousd": 11}, "soft"),
        ({"subject": ""}, "subject"),
    ],
)
def test_a_bad_budget_is_refused_by_the_part_that_is_wrong(
    values: dict[str, object], part: str
) -> None:
    with pytest.raises(BadPolicyError, match=part):
        budget_from({"name": "b", "limit_nanousd": 10} | values)


def test_a_budget_is_for_each_value_or_for_one() -> None:
    each = budget_from({"name": "b", "per": "team", "limit_nanousd": 10})
    one = budget_from({"name": "b", "per": "user", "subject": "ada", "limit_nanousd": 10})
    identity = Identity("t", "k", "ada", properties={"team": "x"})

    assert each.subject_of(identity) == "t/x"
    assert each.subject_of(Identity("t")) is None
    assert one.subject_of(identity) == "ada"
    assert one.subject_of(Identity("t", user="grace")) is None


@pytest.mark.parametrize(
    ("request_body", "limit"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 10, "n": 3}, 30),
        ({"generationConfig": {"maxOutputTokens": 7}}, 7),
        ({"inferenceConfig": {"maxTokens": 7}}, 7),
        ({"max_tokens": "10"}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": True}, None),
        ({}, None),
    ],
)
def test_the_output_limit_is_read_in_every_dialect(
    request_body: dict[str, object], limit: int | None
) -> None:
    assert output_limit(request_body) == limit


def test_without_a_limit_the_output_is_what_the_model_mostly_stays_below() -> None:
    learned = LearnedOutputs()
    body = {"messages": [{"role": "user", "content": "hi"}]}
    before = expected_usage("openai-chat", body, "m", learned)
    for tokens in range(1, 101):
        learned.observe("m", tokens)
    after = expected_usage("openai-chat", body, "m", learned)

    assert before.output_tokens == 1000
    assert 88 <= after.output_tokens <= 100
    assert expected_usage("openai-embeddings", {"input": "hi"}, "m", learned).output_tokens == 0
