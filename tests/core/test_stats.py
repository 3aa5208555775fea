from __future__ import annotations

import pytest

from asgi_llmgate.core.stats import CallFilter, parse_grouping, parse_status, parse_when

NOW_US = 1_800_000_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_an_age_counts_back_from_now(text: str, seconds: int) -> None:
    assert parse_when(text, now_us=NOW_US) == NOW_US - seconds * 1_000_000


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("2027-01-15", 1_799_971_200),
        ("2027-01-15T08:00:00", 1_800_000_000),
        ("2027-01-15T08:00:00Z", 1_800_000_000),
        ("2027-01-15T09:00:00+01:00", 1_800_000_000),
    ],
)
def test_a_time_without_a_zone_is_utc(text: str, unix_s: int) -> None:
    assert parse_when(text, now_us=NOW_US) == unix_s * 1_000_000


@pytest.mark.parametrize("text", ["", "yesterday", "24", "-1h", "1y", "٣h", "99999999999d"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="write 24h, 7d"):
        parse_when(text, now_us=NOW_US)


def test_groupings_are_named_ones_or_properties_in_lower_case() -> None:
    assert parse_grouping("user") == ("user", None)
    assert parse_grouping("property:Env") == ("property", "env")


@pytest.mark.parametrize("text", ["", "users", "property", "property:", "user:x", 'property:"'])
def test_other_groupings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot"):
        parse_grouping(text)


def test_a_status_is_a_number_a_class_or_none() -> None:
    assert parse_status("429") == (429, 429)
    assert parse_status("4xx") == (400, 499)
    assert parse_status("none") is None


@pytest.mark.parametrize("status", ["", "6xx", "4x", "42", "4290", "٤xx", "200 OR 1"])
def test_a_filter_refuses_what_is_no_status(status: str) -> None:
    with pytest.raises(ValueError, match="is no status"):
        CallFilter(status=status)


@pytest.mark.parametrize("name", ["", 'a"b', "a\\b", "a\nb"])
def test_a_filter_refuses_names_that_no_property_has(name: str) -> None:
    with pytest.raises(ValueError, match="name of a property"):
        CallFilter(properties={name: "x"})
