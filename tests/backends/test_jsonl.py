"""JSON lines, where they go and how they survive what files go through."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_llmgate.backends.jsonl import JsonLinesLogSink
from tests.backends.records import make_record

ROOT = Path(__file__).parent.parent.parent


def ids(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


def test_a_line_is_the_public_record(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "calls.jsonl"
    sink = JsonLinesLogSink(path, price=lambda record: 42)
    sink.write(make_record(id="one", cost_nanousd=None, response_body=b"\xff\x1b\n"))
    sink.close()

    record = json.loads(path.read_bytes())
    assert (record["id"], record["cost_nanousd"]) == ("one", 42)
    assert record["response_body"] == "\ufffd\x1b\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_standard_output_gets_nothing_but_lines(tmp_path: Path) -> None:
    code = """if 1:
        from asgi_llmgate.backends.jsonl import JsonLinesLogSink
        from tests.backends.records import make_record
        sink = JsonLinesLogSink()
        for number in range(1500):
            sink.write(make_record(id=str(number)))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert ids(done.stdout) == [str(number) for number in range(1500)]


def test_a_file_that_was_moved_away_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    sink = JsonLinesLogSink(path)
    sink.write(make_record(id="old"))
    assert sink.flush_blocking()
    path.rename(tmp_path / "calls.jsonl.1")
    sink.write(make_record(id="new"))
    sink.close()

    assert ids((tmp_path / "calls.jsonl.1").read_text()) == ["old"]
    assert ids(path.read_text()) == ["new"]


def test_a_line_that_a_full_disk_cut_off_is_completed_first(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    code = f"""if 1:
        import resource, signal
        from pathlib import Path
        from asgi_llmgate.backends.jsonl import JsonLinesLogSink
        from tests.backends.records import make_record
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_001, limits[1]))
        sink = JsonLinesLogSink(Path({str(path)!r}), queue=200)
        for number in range(300):
            sink.write(make_record(id=str(number)))
        assert not sink.flush_blocking(timeout_s=0.3)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sink.flush_blocking(timeout_s=30)
        assert sink.dropped == 100, sink.dropped
    """
    assert resource.RLIMIT_FSIZE  # Not on Windows.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert ids(path.read_text()) == [str(number) for number in range(200)]


def test_a_reader_that_went_away_costs_records_and_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        sink = JsonLinesLogSink()
        sink.write(make_record())
        sink.close(timeout_s=0.1)
        monkeypatch.undo()

    assert sink.dropped == 1
