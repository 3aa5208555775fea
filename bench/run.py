"""Measure every subject in one run on one machine, in interleaved rounds."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench.machine import describe
from bench.measure import FULL, QUICK, Effort, Measurement, say
from bench.report import replace_figures, report
from bench.servers import LOAD_CORES
from bench.subjects import ROOT, SUBJECTS, Subject

__all__ = ["main"]

# LiteLLM would look for the provider there.
PROXY_VARIABLES = ("http_proxy", "all_proxy")


def import_time_s() -> float:
    """Return how long a fresh interpreter needs to import the middlewares."""
    code = (
        "import time; t = time.perf_counter(); import asgi_llmgate.middleware; "
        "print(time.perf_counter() - t)"
    )
    argv = [sys.executable, "-c", code]
    run = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT, timeout=60)
    return float(run.stdout)


async def measure(subjects: Sequence[Subject], effort: Effort, parts: Sequence[str]) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="llmgate-bench-") as folder:
        run = Measurement(subjects, effort, Path(folder))
        for subject in subjects:
            if subject.install is not None:
                try:
                    subject.install()
                except (OSError, subprocess.SubprocessError) as error:
                    say(f"SKIPPED {subject.name}: cannot be installed: {error}")
                    run.skipped[subject.name] = str(error)
        if "calls" in parts:
            await run.measure_calls()
        if "streams" in parts:
            await run.measure_streams()
        return run


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds (< 3 min)")
    parser.add_argument("--only", metavar="A,B", help=f"of: {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, help="how often each subject is measured")
    parser.add_argument("--parts", default="calls,streams,micro", help="default: %(default)s")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: bench/results/DATE.json"
    )
    parser.add_argument("--docs", action="store_true", help="put the tables into the docs")
    arguments = parser.parse_args(argv)
    missing = [program for program in ("nginx", "wrk") if shutil.which(program) is None]
    if missing:
        print(f"{' and '.join(missing)} not found: apt-get install nginx wrk", file=sys.stderr)
        return 2
    names = arguments.only.split(",") if arguments.only else list(SUBJECTS)
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        parser.error(f"unknown subject {unknown[0]!r}; there are {', '.join(SUBJECTS)}")
    effort = QUICK if arguments.quick else FULL
    if arguments.rounds:
        effort = replace(effort, rounds=arguments.rounds)
    parts = arguments.parts.split(",")
    for name in list(os.environ):
        if name.startswith("LLMGATE_") or name.lower() in PROXY_VARIABLES:
            del os.environ[name]
    os.sched_setaffinity(0, LOAD_CORES)  # this process is part of the load
    machine = describe()
    began = time.perf_counter()
    # What can fail at once comes first.
    imports: list[float] = []
    costs: dict[str, float] = {}
    if {"slice", "gateway"} & set(names):
        imports = [import_time_s() for _ in range(5)]
        if "micro" in parts:
            from bench import micro  # imports the gateway, which other subjects can do without

            costs = uvloop.run(micro.measure())
    run = uvloop.run(measure([SUBJECTS[name] for name in names], effort, parts))
    run.samples["package"]["import_s"] = imports
    if costs:
        run.samples["micro"]["logging_us"] = [costs["LoggingMiddleware"]]
    result = {
        "machine": {**machine, "took_s": round(time.perf_counter() - began)},
        "effort": asdict(effort),
        "samples": run.samples,
        "micro_us": costs,
        "skipped": run.skipped,
    }
    now = datetime.now(UTC)
    target: Path = arguments.json or ROOT / "bench" / "results" / f"{now:%Y-%m-%dT%H%M}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    tables = report(result)
    print(tables)
    if arguments.docs:
        page = ROOT / "docs" / "performance.md"
        page.write_text(replace_figures(page.read_text(), tables))
    say(f"written to {target}")
    return 0
