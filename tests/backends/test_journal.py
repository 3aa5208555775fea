"""The journal as one process sees it: what is stored, how, and what no trouble may do."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest

from asgi_llmgate.backends import batching
from asgi_llmgate.backends.batching import BATCH_RECORDS
from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.backends.journal_reader import JournalReader
from asgi_llmgate.backends.journal_schema import JOURNAL_FILE
from asgi_llmgate.backends.sqlite_file import require_recent_sqlite
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.types import AttemptRecord, CallRecord
from tests.backends.records import ATTEMPT, make_record, wait_until

ODD = AttemptRecord(
    provider="b", key_id=None, model=None, status=None, reason="connect", duration_ms=0.1
)
EMPTY = CallRecord(*[None] * len(CallRecord._fields))._replace(  # type: ignore[arg-type]
    id="empty",
    started_at_us=1,
    duration_ms=0.0,
    is_stream=False,
    complete=False,
    client_left=True,
    usage_estimated=False,
    attempts=(),
    request_bytes=0,
    response_bytes=0,
    request_truncated=True,
    response_truncated=False,
)


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[JournalLogSink]:
    sink = JournalLogSink(tmp_path)
    yield sink
    sink.close()


def stored(folder: Path) -> list[CallRecord]:
    reader = JournalReader(folder)
    try:
        return reader.tail(1_000_000, bodies=True)[0]
    finally:
        reader.close()


@pytest.mark.parametrize(
    "record",
    [
        EMPTY,
        make_record(),
        make_record(request_body=b"", response_body=b"\x00\xff" * 5),
        make_record(request_body=b"{}" * 4000, response_body=None),
        make_record(request_body=None, response_body=os.urandom(300_000)),
        make_record(request_body=b"a" * 1023, response_body=b"b" * 1024),
        make_record(attempts=(ODD, ATTEMPT), properties={'q"': "a\x00b", "empty": ""}),
        make_record(user_id="日本\U0001f600", cost_nanousd=2**62, is_stream=False),
    ],
    ids=["empty", "plain", "tiny", "large", "random", "edge", "nested", "unicode"],
)
def test_a_record_comes_back_as_it_was(
    sink: JournalLogSink, tmp_path: Path, record: CallRecord
) -> None:
    sink.write(record)
    assert sink.flush_blocking()

    assert stored(tmp_path) == [record]


def test_bodies_belong_to_their_records_in_mixed_batches(
    sink: JournalLogSink, tmp_path: Path
) -> None:
    records = [make_record(request_body=str(n).encode() * n if n % 3 else None) for n in range(777)]
    for record in records:
        sink.write(record)
    assert sink.flush_blocking()

    assert stored(tmp_path) == records


@pytest.mark.parametrize(("records", "is_packed"), [(5, True), (500, False)])
def test_bodies_are_deflated_unless_calls_come_thick_and_fast(
    tmp_path: Path, records: int, is_packed: bool
) -> None:
    sink = JournalLogSink(tmp_path)
    body = b'{"role": "user"}' * 200
    sink._insert(sink._opened(), [make_record(response_body=body) for _ in range(records)])
    sink.close()
    connection = apsw.Connection(str(tmp_path / JOURNAL_FILE))
    length = connection.execute("SELECT max(length(response_body)) FROM bodies").get
    connection.close()

    assert (length < len(body) // 10) == is_packed
    assert {record.response_body for record in stored(tmp_path)} == {body}


def test_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    before = os.umask(0)
    try:
        sink = JournalLogSink(folder)
        sink.write(make_record())
        assert sink.flush_blocking()
        assert sink.metrics is not None
        sink.metrics.publish()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    finally:
        os.umask(before)
    sink.close()

    assert {"journal.sqlite", "journal.sqlite-wal", "metrics.sqlite"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_record_is_readable_within_200_ms_without_a_flush(
    sink: JournalLogSink, tmp_path: Path
) -> None:
    sink.write(make_record())
    assert sink.flush_blocking()
    reader = JournalReader(tmp_path)
    took_s = []
    for number in range(5):
        sink.write(make_record(id=f"call-{number}"))
        took_s.append(wait_until(partial(reader.get, f"call-{number}")))
    reader.close()

    # The best of five: the others may have waited for a core that other programs kept busy.
    assert min(took_s) <= 0.2


def test_an_unencodable_record_harms_no_other(sink: JournalLogSink, tmp_path: Path) -> None:
    records = [make_record(id=str(n)) for n in range(200)]
    records[50] = make_record(id="surrogate", model_requested="a\udcffz")
    records[120] = make_record(id="too-big", input_tokens=2**64)
    for record in records:
        sink.write(record)
    assert sink.flush_blocking()

    found = {record.id: record for record in stored(tmp_path)}
    assert len(found) == 199
    assert found["surrogate"].model_requested == "a?z"
    assert "too-big" not in found
    assert sink.dropped == 1


def test_late_prices_are_asked_only_where_there_are_tokens_and_no_cost(tmp_path: Path) -> None:
    asked = []

    def price(record: CallRecord) -> int | None:
        asked.append(record.id)
        return {"tiered": 42, "unknown": None}[record.id]

    sink = JournalLogSink(tmp_path, price=price)
    sink.write(make_record(id="tiered", cost_nanousd=None))
    sink.write(make_record(id="unknown", cost_nanousd=None))
    sink.write(make_record(id="priced", cost_nanousd=7))
    sink.write(make_record(id="no-usage", cost_nanousd=None, input_tokens=None))
    sink.close()

    assert asked == ["tiered", "unknown"]
    costs = {record.id: record.cost_nanousd for record in stored(tmp_path)}
    assert costs == {"tiered": 42, "unknown": None, "priced": 7, "no-usage": None}


def test_a_failing_price_costs_only_the_price(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def price(record: CallRecord) -> int:
        raise RuntimeError("no such table")

    sink = JournalLogSink(tmp_path, price=price)
    sink.write(make_record(cost_nanousd=None))
    sink.close()

    assert [record.cost_nanousd for record in stored(tmp_path)] == [None]
    assert "no such table" in caplog.text


def test_a_locked_journal_drops_exactly_what_does_not_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = JournalLogSink(tmp_path, queue=50)
    sink.flush_timeout_s = 1.5
    sink.write(make_record(id="before"))
    assert sink.flush_blocking()
    other = apsw.Connection(str(tmp_path / JOURNAL_FILE))
    other.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.ERROR):
        for number in range(80):
            sink.write(make_record(id=str(number), request_body=b"secret"))
        with pytest.raises(BackendError, match="cannot be written: Busy"):
            asyncio.run(sink.flush())

    assert (sink.dropped, sink.queue_length) == (30, 50)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1  # One a minute.
    assert "50 records wait, 30 were dropped" in messages[0]
    assert "secret" not in caplog.text

    other.execute("ROLLBACK")
    other.close()
    assert sink.flush_blocking()
    assert sink.dropped == 30
    assert [r.id for r in stored(tmp_path)] == ["before", *map(str, range(50))]
    sink.close()


def test_bytes_of_bodies_are_bounded_too(tmp_path: Path) -> None:
    with locked(tmp_path):
        sink = JournalLogSink(tmp_path, queue_bytes=1000)
        for _ in range(4):
            sink.write(make_record(request_body=b"x" * 200, response_body=b"y" * 200))
        sink.write(make_record(request_body=b"z" * 200))
        sink.write(make_record())
        waiting = sink.queue_length

    assert (waiting, sink.dropped) == (4, 2)
    sink.close()
    assert len(stored(tmp_path)) == 4


def test_closing_gives_up_in_the_end_and_counts_what_is_lost(tmp_path: Path) -> None:
    with locked(tmp_path):
        sink = JournalLogSink(tmp_path)
        for _ in range(BATCH_RECORDS + 500):
            sink.write(make_record())
        sink.close(timeout_s=0.1)

    assert sink.dropped == BATCH_RECORDS + 500
    assert stored(tmp_path) == []


class locked:  # noqa: N801 -- a context manager, used like a function
    """The journal of `folder`, held by somebody else."""

    def __init__(self, folder: Path) -> None:
        maker = JournalLogSink(folder)
        maker._opened()
        maker.close()
        self._other = apsw.Connection(str(folder / JOURNAL_FILE))

    def __enter__(self) -> None:
        self._other.execute("BEGIN EXCLUSIVE")

    def __exit__(self, *_: object) -> None:
        self._other.execute("ROLLBACK")
        self._other.close()


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    sink = JournalLogSink(folder)
    sink.write(make_record(id="lost"))
    assert sink.flush_blocking()
    shutil.rmtree(folder)
    sink.write(make_record(id="kept"))
    sink.close()

    assert [record.id for record in stored(folder)] == ["kept"]


def test_a_folder_that_cannot_be_made_delays_no_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sink = JournalLogSink(tmp_path / "file" / "data")
    sink.write(make_record())
    sink.close(timeout_s=0.1)

    assert sink.dropped == 1


def test_a_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / JOURNAL_FILE))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    sink = JournalLogSink(tmp_path)
    sink.write(make_record())
    sink.close(timeout_s=0.1)

    assert sink.dropped == 1
    with pytest.raises(BackendError, match="format 99"):
        JournalReader(tmp_path).tail(1)


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0"])
def test_an_sqlite_that_may_corrupt_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match=r"HINT: `pip install --upgrade apsw`"):
        require_recent_sqlite(version)


def test_the_oldest_good_sqlite_is_accepted() -> None:
    require_recent_sqlite("3.51.3")
    require_recent_sqlite("3.100.0")


def test_writers_in_several_threads_lose_and_double_nothing(
    sink: JournalLogSink, tmp_path: Path
) -> None:
    async def write_many(name: int) -> None:
        def write() -> None:
            for number in range(500):
                sink.write(make_record(id=f"{name}-{number}"))

        await asyncio.to_thread(write)

    async def all_at_once() -> None:
        await asyncio.gather(*map(write_many, range(4)))
        await sink.flush()

    asyncio.run(all_at_once())

    ids = [record.id for record in stored(tmp_path)]
    assert sorted(ids) == sorted(f"{name}-{n}" for name in range(4) for n in range(500))


async def test_a_hasty_journal_gathers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "INTERVAL_S", 600)
    journal = JournalLogSink(tmp_path)
    journal.write(make_record(id="queued"))

    assert journal.hasten(10)
    assert journal.queue_length == 0
    journal.write(make_record(id="later"))
    wait_until(lambda: journal.queue_length == 0)
    await journal.aclose()
