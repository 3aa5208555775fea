from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

import apsw
import pytest

from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.backends.journal_reader import AmbiguousIdError, JournalReader
from asgi_llmgate.backends.journal_schema import JOURNAL_FILE
from asgi_llmgate.core.stats import CallFilter
from asgi_llmgate.errors import BackendError
from asgi_llmgate.types import CallRecord
from tests.backends.records import make_record

DAY_US = 86_400_000_000

CALLS = [
    make_record(id="a1", user_id="ann", started_at_us=DAY_US, properties={"env": "prod"}),
    make_record(id="a2", user_id="ann", started_at_us=2 * DAY_US, status=429, error_code="x"),
    make_record(id="b1", user_id="bob", started_at_us=2 * DAY_US + 1, provider="anthropic"),
    make_record(id="b2", user_id="bob", started_at_us=3 * DAY_US, status=503, tenant="other"),
    make_record(
        id="n1",
        user_id=None,
        started_at_us=4 * DAY_US,
        status=None,
        complete=False,
        model=None,
        model_requested="big",
        session_id=None,
        principal_id=None,
        properties={"env": "dev", "päth/x.y": "1"},
        input_tokens=None,
        output_tokens=None,
        cost_nanousd=None,
        first_byte_ms=None,
    ),
    make_record(id="n2", user_id=None, started_at_us=5 * DAY_US, cost_nanousd=None, complete=False),
]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[JournalReader]:
    sink = JournalLogSink(tmp_path)
    for record in CALLS:
        sink.write(record)
    sink.close()
    reader = JournalReader(tmp_path)
    yield reader
    reader.close()


def ids(records: list[CallRecord]) -> list[str]:
    return [record.id for record in records]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (CallFilter(), "a1 a2 b1 b2 n1 n2"),
        (CallFilter(user="bob"), "b1 b2"),
        (CallFilter(provider="anthropic"), "b1"),
        (CallFilter(model="big"), "n1"),
        (CallFilter(model="gpt-4o-mini", user="ann"), "a1 a2"),
        (CallFilter(session="s1", tenant="other"), "b2"),
        (CallFilter(since_us=2 * DAY_US, until_us=3 * DAY_US), "a2 b1"),
        (CallFilter(status="429"), "a2"),
        (CallFilter(status="5xx"), "b2"),
        (CallFilter(status="none"), "n1"),
        (CallFilter(errors_only=True), "a2 b2 n1 n2"),
        (CallFilter(properties={"env": "dev"}), "n1"),
        (CallFilter(properties={"ENV": "prod"}, user="ann"), "a1 a2"),
        (CallFilter(properties={"päth/x.y": "1", "env": "dev"}), "n1"),
        (CallFilter(user="' OR 1 --"), ""),
    ],
)
def test_filters_choose(reader: JournalReader, filters: CallFilter, expected: str) -> None:
    assert ids(reader.tail(100, filters)[0]) == expected.split()


def test_tail_returns_the_last_ones_oldest_first(reader: JournalReader) -> None:
    assert ids(reader.tail(2)[0]) == ["n1", "n2"]
    assert reader.tail(0)[0] == []


def test_since_goes_on_where_tail_stopped_and_skips_what_is_filtered(
    reader: JournalReader, tmp_path: Path
) -> None:
    records, place = reader.tail(1)
    assert ids(records) == ["n2"]
    assert reader.since(place) == ([], place)

    sink = JournalLogSink(tmp_path)
    for name in ("ann", "bob", "ann"):
        sink.write(make_record(id=f"later-{name}", user_id=name))
    sink.close()
    only_ann = CallFilter(user="ann")
    first, place = reader.since(place, only_ann, limit=1)
    second, place = reader.since(place, only_ann, limit=1)
    third, place = reader.since(place, only_ann, limit=1)

    assert [ids(first), ids(second), ids(third)] == [["later-ann"], ["later-ann"], []]


def test_pages_go_back_in_time_without_gaps(reader: JournalReader) -> None:
    pages, before = [], None
    while True:
        records, before = reader.query(limit=4, before=before)
        pages.append(ids(records))
        if before is None:
            break

    assert pages == [["n2", "n1", "b2", "b1"], ["a2", "a1"]]


def test_get_takes_an_id_or_its_beginning(reader: JournalReader) -> None:
    assert reader.get("b2") == CALLS[3]
    unique = reader.get("n1"[:2])
    assert unique == CALLS[4]
    assert reader.get("zzz") is None
    assert reader.get("a%") is None
    with pytest.raises(AmbiguousIdError) as caught:
        reader.get("a")
    assert caught.value.ids == ["a1", "a2"]


def test_a_whole_id_wins_over_longer_ones(tmp_path: Path) -> None:
    sink = JournalLogSink(tmp_path)
    for name in ("x", "xy"):
        sink.write(make_record(id=name))
    sink.write(make_record(id="xy", tenant="other"))
    sink.close()
    reader = JournalReader(tmp_path)

    found = reader.get("x")
    assert found is not None
    assert found.id == "x"
    with pytest.raises(AmbiguousIdError):
        reader.get("xy")
    other = reader.get("xy", tenant="other")
    assert other is not None
    assert other.tenant == "other"
    reader.close()


def test_stats_add_up_by_user(reader: JournalReader) -> None:
    rows = {row.key: row for row in reader.stats("user")}

    assert list(rows) == [None, "ann", "bob"]
    ann, nobody = rows["ann"], rows[None]
    assert (ann.calls, ann.errors, ann.input_tokens, ann.output_tokens) == (2, 1, 200, 40)
    assert (ann.cost_nanousd, ann.unpriced) == (2 * 1_234_567, 0)
    assert (nobody.calls, nobody.errors, nobody.input_tokens) == (2, 2, 100)
    # A call without usage has no price to miss; one with tokens but no cost has.
    assert (nobody.cost_nanousd, nobody.unpriced) == (0, 1)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("user", {"ann": 2, "bob": 2, None: 2}),
        ("model", {"gpt-4o-mini-2024-07-18": 5, "big": 1}),
        ("provider", {"openai": 5, "anthropic": 1}),
        ("session", {"s1": 5, None: 1}),
        ("status", {"200": 3, "429": 1, "503": 1, None: 1}),
        ("key", {"ci": 5, None: 1}),
        ("tenant", {"acme": 5, "other": 1}),
        ("route", {"/v1/chat/completions": 6}),
        ("team", {None: 6}),
        ("property:env", {"prod": 5, "dev": 1}),
        ("property:Päth/x.y", {None: 5, "1": 1}),
        (
            "day",
            {"1970-01-02": 1, "1970-01-03": 2, "1970-01-04": 1, "1970-01-05": 1, "1970-01-06": 1},
        ),
    ],
)
def test_every_grouping_counts_every_call_once(
    reader: JournalReader, by: str, expected: dict[str | None, int]
) -> None:
    assert {row.key: row.calls for row in reader.stats(by)} == expected


def test_days_come_in_order_and_filters_hold(reader: JournalReader) -> None:
    rows = reader.stats("day", CallFilter(since_us=2 * DAY_US))

    assert [row.key for row in rows] == ["1970-01-03", "1970-01-04", "1970-01-05", "1970-01-06"]


def test_percentiles_are_exact(tmp_path: Path) -> None:
    durations = [float((7 * n) % 1000) for n in range(1000)]
    sink = JournalLogSink(tmp_path)
    for number, duration in enumerate(durations):
        first = duration / 2 if number % 2 else None
        sink.write(make_record(duration_ms=duration, first_byte_ms=first))
    sink.close()
    reader = JournalReader(tmp_path)
    (row,) = reader.stats("model")
    reader.close()

    cuts = quantiles(durations, n=100, method="inclusive")
    assert row.duration_ms == pytest.approx((cuts[49], cuts[94], cuts[98]))
    firsts = [duration / 2 for duration in durations[1::2]]
    cuts = quantiles(firsts, n=100, method="inclusive")
    assert row.first_byte_ms == pytest.approx((cuts[49], cuts[94], cuts[98]))


def test_a_group_without_first_bytes_has_no_percentiles_of_them(reader: JournalReader) -> None:
    rows = {row.key: row for row in reader.stats("model")}

    assert rows["big"].first_byte_ms is None
    assert rows["big"].duration_ms == (120.5, 120.5, 120.5)


def test_a_grouping_that_does_not_exist_is_refused(reader: JournalReader) -> None:
    with pytest.raises(ValueError, match="choose one of user, model"):
        reader.stats("tenant; DROP TABLE calls")


def test_a_missing_journal_is_said_and_not_made(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path)

    assert not reader.exists
    with pytest.raises(BackendError, match="there is no call log"):
        reader.tail(1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_journal_is_a_backend_error(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_bytes(b"not a database, whatever it is called" * 50)

    with pytest.raises(BackendError, match="not a database"):
        JournalReader(tmp_path).tail(1)


def test_a_question_in_progress_delays_no_writer(reader: JournalReader, tmp_path: Path) -> None:
    reading = apsw.Connection(str(tmp_path / JOURNAL_FILE), flags=apsw.SQLITE_OPEN_READONLY)
    reading.execute("BEGIN")
    rows = reading.execute("SELECT id FROM calls")
    next(rows)
    sink = JournalLogSink(tmp_path)
    sink.write(make_record(id="meanwhile"))

    assert sink.flush_blocking(timeout_s=2)
    assert ids(reader.tail(1)[0]) == ["meanwhile"]
    reading.close(force=True)
    sink.close()


def test_progress_is_told_during_a_slow_question_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_llmgate.backends.journal_reader.PROGRESS_STEPS", 100)
    monkeypatch.setattr("asgi_llmgate.backends.journal_reader.PROGRESS_EVERY_S", 0.0)
    sink = JournalLogSink(tmp_path)
    for _ in range(500):
        sink.write(make_record())
    sink.close()
    told: list[float | None] = []
    reader = JournalReader(tmp_path, progress=told.append)
    reader.stats("user")
    reader.close()

    assert len(told) > 2
    assert told[-1] is None
    assert None not in told[:-1]
