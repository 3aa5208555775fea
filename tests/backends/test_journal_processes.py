"""Several processes on one journal, and what is left when they end, gently or not."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE, Popen

import apsw
import pytest

from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.backends.journal_reader import JournalReader
from asgi_llmgate.backends.journal_schema import JOURNAL_FILE
from asgi_llmgate.backends.journal_upkeep import take_lease
from tests.backends.records import make_record, wait_until

ROOT = Path(__file__).parent.parent.parent


def start(folder: Path, way: str, number: int) -> Popen[str]:
    command = [sys.executable, "-m", "tests.backends.writing", str(folder), way, str(number)]
    return Popen(command, stdout=PIPE, text=True, cwd=ROOT)


def written(output: str) -> list[tuple[int, str]]:
    lines = (line.split() for line in output.splitlines(keepends=True) if line.endswith("\n"))
    return [(int(at), record_id) for at, record_id in lines]


def stored_ids(folder: Path) -> list[str]:
    reader = JournalReader(folder)
    try:
        return [record.id for record in reader.tail(1_000_000)[0]]
    finally:
        reader.close()


def is_intact(folder: Path) -> bool:
    connection = apsw.Connection(str(folder / JOURNAL_FILE), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return bool(connection.execute("PRAGMA integrity_check").get == "ok")
    finally:
        connection.close()


@pytest.mark.parametrize("way", ["return", "asyncio"])
def test_what_is_queued_is_written_at_exit(tmp_path: Path, way: str) -> None:
    process = start(tmp_path, way, 300)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert stored_ids(tmp_path) == [record_id for _, record_id in written(output)]


def test_forked_and_spawned_children_write_their_own_and_only_that(tmp_path: Path) -> None:
    process = start(tmp_path, "children", 200)
    output, _ = process.communicate(timeout=60)

    ids = stored_ids(tmp_path)
    assert process.returncode == 0
    assert len(ids) == len(set(ids)) == 800
    assert set(ids) == {record_id for _, record_id in written(output)}
    assert is_intact(tmp_path)


def test_four_processes_write_one_journal(tmp_path: Path) -> None:
    processes = [start(tmp_path, "return", 1500) for _ in range(4)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]

    ids = stored_ids(tmp_path)
    assert [process.returncode for process in processes] == [0] * 4
    assert len(ids) == len(set(ids)) == 6000
    assert set(ids) == {record_id for output in outputs for _, record_id in written(output)}
    assert is_intact(tmp_path)


def test_sigkill_under_load_loses_nothing_older_than_200_ms(tmp_path: Path) -> None:
    survivors = 0
    for _ in range(4):
        processes = [start(tmp_path, "forever", 1) for _ in range(2)]
        outputs = []
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(0.6)  # The load goes on; there is nothing to wait for.
        for process in processes:
            process.send_signal(signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        outputs = [written(process.communicate()[0]) for process in processes]
        found = set(stored_ids(tmp_path))
        for records in outputs:
            # A process that got no core for a while could not write either.
            moments = [at for at, _ in records] + [killed_ns]
            stalled_ns = max(after - before for before, after in pairwise(moments))
            due_ns = killed_ns - 200_000_000 - stalled_ns
            due = {record_id for at, record_id in records if at < due_ns}
            survivors += len(due)
            assert due <= found
        assert is_intact(tmp_path)

    assert survivors > 100
    assert len(stored_ids(tmp_path)) == len(set(stored_ids(tmp_path)))


def test_the_lease_passes_on_when_its_holder_is_killed(tmp_path: Path) -> None:
    holder = start(tmp_path, "forever", 1)
    wait_until(lambda: (tmp_path / "journal.lease").exists())
    wait_until(lambda: not can_lease(tmp_path))
    holder.kill()
    holder.communicate()

    assert can_lease(tmp_path)


def can_lease(folder: Path) -> bool:
    lease = take_lease(folder)
    if lease is None:
        return False
    lease.close()
    return True


def test_a_killed_writers_journal_is_read_without_a_writer(tmp_path: Path) -> None:
    process = start(tmp_path, "forever", 10)
    assert process.stdout is not None
    wait_until(lambda: (tmp_path / JOURNAL_FILE).exists())
    first = process.stdout.readline().split()[1]
    wait_until(lambda: any_stored(tmp_path))
    process.kill()
    process.communicate()
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}

    assert stored_ids(tmp_path)[0] == first
    # Reading changed nothing: the log of the killed writer is still there for the next one.
    assert (tmp_path / f"{JOURNAL_FILE}-wal").stat().st_size == before[f"{JOURNAL_FILE}-wal"] > 0


def any_stored(folder: Path) -> bool:
    try:
        return bool(stored_ids(folder))
    except Exception:
        return False


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of `size` bytes, or skip where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_drops_exactly_what_does_not_fit_and_harms_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as folder:
        filler = folder / "filler"
        sink = JournalLogSink(folder, queue=500)
        sink.write(make_record(id="first"))
        assert sink.flush_blocking()
        filler.write_bytes(b"")
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(b"x" * 8_000_000)
        started = time.perf_counter()
        records = [make_record(response_body=os.urandom(2000)) for _ in range(3000)]
        for record in records:
            sink.write(record)
        took_s = time.perf_counter() - started
        assert not sink.flush_blocking(timeout_s=0.5)
        dropped = sink.dropped
        filler.unlink()
        assert sink.flush_blocking(timeout_s=30)
        found = stored_ids(folder)
        assert is_intact(folder)
        sink.close()

    assert took_s < 0.5  # No call waited.
    assert sink.dropped == dropped == 3001 - len(found)
    assert len(found) >= 501
    assert set(found) <= {"first", *(record.id for record in records)}


def test_a_file_size_limit_is_survived(tmp_path: Path) -> None:
    """What a quota does: EFBIG in the middle of a write, without needing root."""
    code = f"""if 1:
        import resource, signal
        from pathlib import Path
        from asgi_llmgate.backends.journal import JournalLogSink
        from tests.backends.records import make_record
        folder = Path({str(tmp_path)!r})
        sink = JournalLogSink(folder, queue=100)
        sink.write(make_record(id="first"))
        assert sink.flush_blocking()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        for number in range(300):
            sink.write(make_record(id=str(number), response_body=bytes(range(256)) * 7))
        assert not sink.flush_blocking(timeout_s=0.5)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sink.flush_blocking(timeout_s=30)
        sink.close()
        print(sink.dropped)
    """
    assert resource.RLIMIT_FSIZE  # Not on Windows.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 301 - len(stored_ids(tmp_path)) == 200
    assert is_intact(tmp_path)
