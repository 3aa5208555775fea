"""The benchmark measures what it says. Runs of it are marked `bench`; its parts are not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.budgets import Budget, Kind, Verdict, judge
from bench.differential.__main__ import environment
from bench.payloads import ANSWER, chat_request, stream_chunk
from bench.report import FIGURES_BEGIN, FIGURES_END, budget_table, replace_figures, subject_table
from bench.streams import Pace, StreamProvider, leave, read_streams
from bench.subjects import LITELLM, cache_folder

ROOT = Path(__file__).resolve().parent.parent

FASTER = Budget("", Kind.RATIO, "ours", "rps", 0.5, "theirs", at_least=True)
SLOWER = Budget("", Kind.DIFFERENCE, "ours", "p50_ms", 0.25, "theirs")


def test_a_ratio_is_taken_within_each_round() -> None:
    samples = {"ours": {"rps": [50, 30, 300]}, "theirs": {"rps": [100, 50, 1000]}}

    verdict = judge(FASTER, samples)

    assert verdict == Verdict(FASTER, 0.5, (0.5, 0.6, 0.3))
    assert verdict.held


def test_a_difference_over_its_limit_is_missed() -> None:
    samples = {"ours": {"p50_ms": [0.5, 0.7]}, "theirs": {"p50_ms": [0.2, 0.2]}}

    assert judge(SLOWER, samples).held is False


def test_what_was_not_measured_is_neither_held_nor_missed() -> None:
    assert judge(FASTER, {"ours": {"rps": [50]}}).held is None
    assert "not measured" in budget_table({})


def test_a_caller_whom_nobody_missed_is_not_given_a_time() -> None:
    table = subject_table({"relay": {"cut_p99_ms": [1000.0]}})

    assert "not at all" in table


def test_figures_replace_those_of_the_last_run() -> None:
    page = f"before\n{FIGURES_BEGIN}\nold\n{FIGURES_END}\nafter\n"

    replaced = replace_figures(page, "new")

    assert "old" not in replaced
    assert replaced.startswith("before\n")
    assert replaced.endswith("after\n")
    assert replace_figures(replaced, "new") == replaced


def test_the_page_has_a_place_for_figures() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()

    assert "new figures" in replace_figures(page, "new figures")


def test_the_answer_has_the_size_that_peers_were_measured_with() -> None:
    assert len(ANSWER) == 549
    assert json.loads(stream_chunk(3).removeprefix(b"data: "))["choices"][0]["delta"]


async def test_a_stream_is_read_chunk_by_chunk() -> None:
    async with StreamProvider() as provider:
        provider.pace = Pace(chunks=5, spacing_s=0.001)
        body = chat_request(is_stream=True)

        events, reads = await read_streams(provider.port, body, {}, streams=3)

    # Finish, usage and [DONE] follow the chunks, and come together.
    assert events == 3 * (5 + 3)
    assert reads > 3


async def test_a_caller_who_leaves_is_seen_by_the_provider() -> None:
    async with StreamProvider() as provider:
        provider.pace = Pace(chunks=5, spacing_s=0.0, stalls=True)
        body = chat_request(is_stream=True)

        took_ms = await leave(provider.port, body, {}, provider)

        assert took_ms is not None
        assert 0 < took_ms < 1000
        assert not provider.streaming


def test_the_comparison_with_litellm_does_not_spoil_the_proxys_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It installs the library alone, without which the benchmark's proxy does not start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)  # Installs nothing.
    proxy = cache_folder() / f"litellm-{LITELLM}"
    made = tmp_path / "llmgate-bench" / f"differential-litellm-{LITELLM}"
    made.mkdir(parents=True)

    assert environment() == made / "bin" / "python"
    assert not proxy.exists()


@pytest.mark.bench
def test_a_short_run_measures_every_column(tmp_path: Path) -> None:
    for program in ("nginx", "wrk"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    target = tmp_path / "result.json"
    argv = [sys.executable, "-m", "bench", "--quick", "--rounds", "1", "--json", str(target)]

    run = subprocess.run(
        [*argv, "--only", "relay,slice,gateway", "--parts", "calls,streams"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(target.read_text())
    assert result["skipped"] == {}
    for name in ("relay", "slice", "gateway"):
        measured = result["samples"][name]
        for metric in ("rps", "cpu_ms", "p50_ms", "chunk_us", "cut_p99_ms", "rss_idle_mb"):
            assert measured[metric], f"{name} has no {metric}"
    assert result["samples"]["gateway"]["cut_unnoticed"] == [0]
    assert "req/s" in run.stdout
