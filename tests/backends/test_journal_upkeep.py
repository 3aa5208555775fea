"""Caps, checkpoints and the lease."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.backends.journal_reader import JournalReader
from asgi_llmgate.backends.journal_schema import JOURNAL_FILE, open_journal
from asgi_llmgate.backends.journal_upkeep import checkpoint, prune_step, take_lease
from asgi_llmgate.types import CallRecord
from tests.backends.records import make_record, wait_until

LARGE = 10**12


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_journal(tmp_path)
    yield connection
    connection.close()


def fill(folder: Path, *records: CallRecord) -> None:
    sink = JournalLogSink(folder)
    for record in records:
        sink.write(record)
    sink.close()


def ids(folder: Path) -> list[str]:
    reader = JournalReader(folder)
    try:
        return [record.id for record in reader.tail(1_000_000)[0]]
    finally:
        reader.close()


def prune(connection: apsw.Connection, *, oldest_us: int = 0, max_bytes: int = LARGE) -> int:
    steps = 0
    while prune_step(connection, oldest_us=oldest_us, max_bytes=max_bytes, rows=100):
        steps += 1
    return steps


def used_bytes(connection: apsw.Connection) -> int:
    pages = connection.pragma("page_count") - connection.pragma("freelist_count")
    return int(pages * connection.pragma("page_size"))


def test_old_calls_are_removed_with_their_bodies(
    tmp_path: Path, connection: apsw.Connection
) -> None:
    # A call that took long is stored after younger ones that were quick.
    ages = [5, 1, 3, 9, 2]
    fill(tmp_path, *(make_record(id=str(n), started_at_us=n, request_body=b"x") for n in ages))
    prune(connection, oldest_us=4)

    assert ids(tmp_path) == ["5", "9"]
    assert connection.execute("SELECT count(*) FROM bodies").get == 2


def test_the_oldest_go_first_until_the_rest_fits(
    tmp_path: Path, connection: apsw.Connection
) -> None:
    records = [
        make_record(id=str(n), started_at_us=n, response_body=os.urandom(8000)) for n in range(600)
    ]
    fill(tmp_path, *records)
    before = used_bytes(connection)
    prune(connection, max_bytes=before // 2)

    kept = ids(tmp_path)
    assert used_bytes(connection) <= before // 2
    assert 200 <= len(kept) < 300
    assert kept == [record.id for record in records[-len(kept) :]]


def test_a_step_is_small(tmp_path: Path, connection: apsw.Connection) -> None:
    fill(tmp_path, *(make_record(started_at_us=1) for _ in range(250)))

    assert prune_step(connection, oldest_us=2, max_bytes=LARGE, rows=100)
    assert len(ids(tmp_path)) == 150
    assert prune(connection, oldest_us=2) == 2


def test_nothing_to_remove_removes_nothing(tmp_path: Path, connection: apsw.Connection) -> None:
    fill(tmp_path, make_record())

    assert prune(connection) == 0
    assert len(ids(tmp_path)) == 1


def test_a_file_that_is_mostly_free_gets_shorter(
    tmp_path: Path, connection: apsw.Connection
) -> None:
    fill(tmp_path, *(make_record(response_body=os.urandom(100_000)) for _ in range(300)))
    prune(connection, max_bytes=1_000_000)
    checkpoint(connection)

    assert (tmp_path / JOURNAL_FILE).stat().st_size < 20_000_000


def test_row_numbers_are_never_used_again(tmp_path: Path, connection: apsw.Connection) -> None:
    fill(tmp_path, make_record(started_at_us=1), make_record(started_at_us=1))
    reader = JournalReader(tmp_path)
    place = reader.tail(10)[1]
    prune(connection, oldest_us=2)
    fill(tmp_path, make_record(id="new"))

    assert [record.id for record in reader.since(place)[0]] == ["new"]
    reader.close()


def test_a_locked_journal_is_pruned_another_time(
    tmp_path: Path, connection: apsw.Connection
) -> None:
    fill(tmp_path, make_record(started_at_us=1))
    connection.set_busy_timeout(1)
    other = apsw.Connection(str(tmp_path / JOURNAL_FILE))
    other.execute("BEGIN IMMEDIATE")

    assert not prune_step(connection, oldest_us=2, max_bytes=LARGE, rows=10)
    other.execute("ROLLBACK")
    assert prune_step(connection, oldest_us=2, max_bytes=LARGE, rows=10)
    other.close()


def log_bytes(folder: Path) -> int:
    return (folder / f"{JOURNAL_FILE}-wal").stat().st_size


def test_after_a_checkpoint_the_log_is_started_anew_although_a_reader_has_the_file_open(
    tmp_path: Path, connection: apsw.Connection
) -> None:
    fill(tmp_path, *(make_record() for _ in range(500)))
    before = log_bytes(tmp_path)
    reader = JournalReader(tmp_path)
    reader.tail(1)
    for _ in range(3):
        checkpoint(connection)
        fill(tmp_path, *(make_record() for _ in range(100)))

    assert log_bytes(tmp_path) == before > 0
    assert len(reader.tail(1000)[0]) == 800
    reader.close()


def test_a_log_that_grew_large_is_cut_at_once(
    tmp_path: Path, connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, *(make_record() for _ in range(500)))
    monkeypatch.setattr("asgi_llmgate.backends.journal_upkeep.ROUNDS", 0)
    checkpoint(connection, force=True)

    assert log_bytes(tmp_path) == 0


def test_a_checkpoint_does_not_wait_for_a_reader_in_the_middle_of_a_question(
    tmp_path: Path, connection: apsw.Connection
) -> None:
    connection.set_busy_timeout(10)
    fill(tmp_path, make_record(id="1"))
    reading = apsw.Connection(str(tmp_path / JOURNAL_FILE))
    reading.execute("BEGIN; SELECT * FROM calls").fetchall()
    fill(tmp_path, make_record(id="2"))
    checkpoint(connection)

    checkpoint(connection, force=True)

    assert ids(tmp_path) == ["1", "2"]
    assert reading.execute("SELECT count(*) FROM calls").get == 1
    reading.close()


def test_only_one_holds_the_lease(tmp_path: Path) -> None:
    first = take_lease(tmp_path)
    assert first is not None
    assert take_lease(tmp_path) is None

    first.close()
    second = take_lease(tmp_path)
    assert second is not None
    second.close()


def test_the_caps_hold_without_anybody_asking(tmp_path: Path) -> None:
    sink = JournalLogSink(tmp_path, max_age_s=3600, max_bytes=2_000_000)
    now_us = 4_000_000_000_000_000  # Far in the future: these are never too old.
    sink.write(make_record(id="old", started_at_us=1_000_000))
    for number in range(300):
        body = os.urandom(10_000)
        sink.write(make_record(started_at_us=now_us + number, response_body=body))
    assert sink.flush_blocking()
    assert "old" in ids(tmp_path)

    wait_until(lambda: "old" not in ids(tmp_path) and len(ids(tmp_path)) < 200)
    sink.close()
    assert take_and_close_lease(tmp_path)


def take_and_close_lease(folder: Path) -> bool:
    lease = take_lease(folder)
    if lease is not None:
        lease.close()
    return lease is not None
