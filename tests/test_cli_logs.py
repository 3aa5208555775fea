"""`llmgate logs` and `llmgate stats`, as a person and as a script use them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.cli_logs import Waiting, app_logs, stats
from asgi_llmgate.cli_table import CALL_HEADER, call_line, clip
from asgi_llmgate.core.record import PUBLIC_FIELDS
from tests.backends.records import make_record

ROOT = Path(__file__).parent.parent
NASTY = "\x1b[31mred\x07\r\nforged line\x9b2J\u202e"

cli = typer.Typer(pretty_exceptions_enable=False)
cli.add_typer(app_logs, name="logs")
cli.command()(stats)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sink = JournalLogSink(tmp_path)
    sink.write(make_record(id="first", request_body=b'{"model":"x"}', response_body=b"a\nb\x1b[1m"))
    sink.write(make_record(id="second", status=429, error_code="rate_limited", user_id="bob"))
    sink.write(make_record(id="third", user_id=NASTY, model=NASTY, session_name=NASTY, cache="HIT"))
    sink.close()
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, [*arguments, "--data-dir", str(folder)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tail_is_a_table_with_one_line_per_call(folder: Path) -> None:
    header, first, second, third = run(folder, "logs", "tail").splitlines()

    assert header == CALL_HEADER
    assert re.search(
        r"200 +100 +20 +\$0.001235 +120 +80 +- +ann +openai → openai/gpt-4o-mini", first
    )
    assert second.endswith("rate_limited")
    assert " 429 " in second
    assert " HIT " in third


def test_columns_line_up_under_their_titles(folder: Path) -> None:
    header, *lines = run(folder, "logs", "tail").splitlines()

    place = header.index("CALL")
    assert {line[place:].split(" ")[0] for line in lines} == {"openai"}


def test_tail_takes_a_number_and_filters(folder: Path) -> None:
    assert len(run(folder, "logs", "tail", "-n", "1").splitlines()) == 2
    for filters in (["--user", "bob"], ["--status", "4xx"], ["--errors"], ["--status", "429"]):
        assert "rate_limited" in run(folder, "logs", "tail", *filters)
        assert len(run(folder, "logs", "tail", *filters).splitlines()) == 2
    assert len(run(folder, "logs", "tail", "--property", "env=dev").splitlines()) == 1
    assert len(run(folder, "logs", "tail", "--since", "2020-01-01").splitlines()) == 4
    assert len(run(folder, "logs", "tail", "--until", "2020-01-01").splitlines()) == 1


def test_tail_as_json_is_one_whole_record_per_line(folder: Path) -> None:
    records = [json.loads(line) for line in run(folder, "logs", "tail", "--json").splitlines()]

    assert [record["id"] for record in records] == ["first", "second", "third"]
    assert all(tuple(record) == PUBLIC_FIELDS for record in records)
    assert records[0]["request_body"] == '{"model":"x"}'
    assert records[2]["user_id"] == NASTY


@pytest.mark.parametrize(
    "arguments",
    [
        ["logs", "tail"],
        ["logs", "tail", "--json"],
        ["logs", "show", "first"],
        ["logs", "show", "third"],
        ["logs", "show", "third", "--json"],
        ["stats", "--by", "user"],
        ["stats", "--by", "model"],
    ],
    ids=" ".join,
)
def test_no_control_of_the_data_reaches_the_terminal(folder: Path, arguments: list[str]) -> None:
    text = run(folder, *arguments)

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)
    assert not [line for line in text.splitlines() if line.startswith("forged")]


def test_show_tells_everything_with_bodies(folder: Path) -> None:
    text = run(folder, "logs", "show", "fir")

    assert re.search(r"^id +first$", text, re.MULTILINE)
    assert re.search(r"^cost_usd +0.001234567$", text, re.MULTILINE)
    assert re.search(r"^error_code +-$", text, re.MULTILINE)
    assert re.search(r"^is_stream +true$", text, re.MULTILINE)
    assert re.search(r"^output_tokens +20$", text, re.MULTILINE)
    assert re.search(r"^property env +prod$", text, re.MULTILINE)
    assert re.search(r'^attempt 1 +\{"provider": "openai"', text, re.MULTILINE)
    assert 'request:\n  {\n    "model": "x"\n  }\n' in text
    assert "response:\n  a\n  b\\x1b[1m\n" in text


def test_show_as_json_is_the_record(folder: Path) -> None:
    record = json.loads(run(folder, "logs", "show", "first", "--json"))

    assert (record["id"], record["response_body"]) == ("first", "a\nb\x1b[1m")


def test_stats_are_a_table_with_a_sum(folder: Path) -> None:
    header, *lines, total = run(folder, "stats", "--by", "user").splitlines()

    assert re.split(" {2,}", header) == [
        *("USER", "CALLS", "ERRORS", "IN", "OUT", "COST", "UNPRICED"),
        *("P50 MS", "P95 MS", "P99 MS", "FIRST P50", "P95", "P99"),
    ]
    assert len(lines) == 3
    assert total.split() == ["all", "3", "1", "300", "60", "$0.003704", "0"]


def test_stats_as_json_are_one_object_per_line(folder: Path) -> None:
    rows = [json.loads(line) for line in run(folder, "stats", "--json").splitlines()]
    by_model = {row["key"]: row for row in rows}

    assert by_model["gpt-4o-mini-2024-07-18"] == {
        "key": "gpt-4o-mini-2024-07-18",
        "calls": 2,
        "errors": 1,
        "input_tokens": 200,
        "output_tokens": 40,
        "cost_nanousd": 2469134,
        "cost_usd": "0.002469134",
        "unpriced": 0,
        "duration_ms": {"p50": 120.5, "p95": 120.5, "p99": 120.5},
        "first_byte_ms": {"p50": 80.25, "p95": 80.25, "p99": 80.25},
    }


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["logs", "show", "zzz"], 1, "no call 'zzz'"),
        (["logs", "show", ""], 1, "several calls"),
        (["logs", "show", "\x1b[2J"], 1, r"'\x1b[2J'"),
        (["stats", "--by", "planet"], 2, "cannot group by"),
        (["logs", "tail", "--since", "yesterday"], 2, "is no time"),
        (["logs", "tail", "--status", "ok"], 2, "is no status"),
        (["logs", "tail", "--property", "env"], 2, "is not NAME=VALUE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_mistakes_are_told_on_standard_error(
    folder: Path, arguments: list[str], code: int, says: str
) -> None:
    result = CliRunner().invoke(cli, [*arguments, "--data-dir", str(folder)])

    assert result.exit_code == code
    assert says in result.stderr
    assert "\x1b" not in result.stderr
    assert result.stdout == ""


def test_without_a_journal_it_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["logs", "tail"], env={"LLMGATE_DATA_DIR": str(tmp_path)})

    assert result.exit_code == 1
    assert f"no call log in {tmp_path} yet" in result.stderr
    assert "HINT: start the gateway" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_broken_journal_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"x" * 5000)
    result = CliRunner().invoke(cli, ["logs", "tail", "--data-dir", str(tmp_path)])

    assert result.exit_code == 1
    assert "cannot be read: NotADB" in result.stderr
    assert "Traceback" not in result.output


def test_follow_shows_calls_as_they_come_and_ends_quietly(folder: Path) -> None:
    code = "from tests.test_cli_logs import cli; cli()"
    command = ["logs", "tail", "-n", "1", "--follow", "--json", "--data-dir", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["id"]]
        sink = JournalLogSink(folder)
        for name in ("x", "y"):
            sink.write(make_record(id=name))
            seen.append(json.loads(process.stdout.readline())["id"])
        sink.close()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)

    assert seen == ["third", "x", "y"]
    assert (process.returncode, rest, errors) == (0, "", "")


@pytest.mark.parametrize(("no_colour", "is_coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_and_lines_that_fit(
    folder: Path, no_colour: str, is_coloured: bool
) -> None:
    code = "from tests.test_cli_logs import cli; cli()"
    outer, inner = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": no_colour, "PYTHONUTF8": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code, "logs", "tail", "--data-dir", str(folder)],
        cwd=ROOT,
        stdout=inner,
        env=environment,
        timeout=60,
    )
    os.close(inner)
    lines = os.read(outer, 100_000).decode().splitlines()
    os.close(outer)

    assert process.returncode == 0
    assert ("\x1b[33m" in lines[2]) == is_coloured
    assert all(len(re.sub(r"\x1b\[\d+m", "", line)) <= 100 for line in lines)


def test_a_slow_question_is_announced_after_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = Waiting()
    for seconds in (0.5, 1.1, 1.2, 2.0, None, 0.3, None):
        waiting(seconds)

    assert capsys.readouterr() == ("", "reading the call log, 1 s …\n")


def test_unknown_is_not_zero_and_estimates_are_marked() -> None:
    unknown = make_record(
        status=None, input_tokens=None, output_tokens=None, cost_nanousd=None, first_byte_ms=None
    )
    line = call_line(unknown, zone=UTC)

    assert line.split()[:8] == ["01-15", "08:00:00", "-", "-", "-", "-", "120", "-"]
    assert " ~100 " in call_line(make_record(usage_estimated=True))
    assert call_line(make_record(client_left=True, complete=False)).endswith("  client left")
    assert call_line(make_record(complete=False)).endswith("  broken off")


@pytest.mark.parametrize(
    ("text", "clipped"),
    [
        ("short", "short"),
        ("exactly8", "exactly8"),
        ("123456789", "1234567…"),
        ("日本語日本", "日本語…"),
    ],
)
def test_text_is_clipped_by_columns_not_by_characters(text: str, clipped: str) -> None:
    assert clip(text, 8) == clipped
