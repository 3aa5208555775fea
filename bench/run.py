"""Measure every subject in one run on one machine, in interleaved rounds."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench.load import wrk
from bench.machine import describe
from bench.payloads import ANSWER, CHAT_PATH, chat_request
from bench.report import replace_figures, report
from bench.servers import LOAD_CORES, Server, free_port
from bench.streams import CUT_WAIT_S, Pace, StreamProvider, leave, read_streams
from bench.subjects import ROOT, SUBJECTS, Subject, nginx

__all__ = ["main"]

# LiteLLM would look for the provider there.
PROXY_VARIABLES = ("http_proxy", "all_proxy")

# Few enough that the slowest keeps up: chunks that wait are relayed in one piece, which is
# cheaper. Chunks that come alone are dearer for everybody than those that come in crowds.
STREAMS = 4
SPACING_S = 0.005

# Enough to say that it never happens; each costs CUT_WAIT_S.
CUT_GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure. Times are seconds."""

    rounds: int
    busy_s: float
    single_s: float
    chunks: int
    cuts: int


FULL = Effort(rounds=5, busy_s=3.0, single_s=2.0, chunks=400, cuts=200)
QUICK = Effort(rounds=2, busy_s=1.5, single_s=1.0, chunks=200, cuts=200)


class Run:
    """One run: what was measured so far, and how to measure more."""

    def __init__(self, subjects: Sequence[Subject], effort: Effort, folder: Path) -> None:
        self.subjects = subjects
        self.effort = effort
        self.folder = folder
        self.samples: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.skipped: dict[str, str] = {}

    def note(self, subject: Subject, metric: str, value: float) -> None:
        self.samples[subject.name][metric].append(value)

    async def measure_calls(self) -> None:
        """Fixed JSON answers: throughput, CPU, latency, memory."""
        folder = self._new_folder("provider")
        port = free_port()
        launch = nginx(port, "", folder)
        provider = f"http://127.0.0.1:{port}"
        with Server(launch.argv, port=port, log=folder / "log", cores=LOAD_CORES) as upstream:
            upstream.wait_until_answering(CHAT_PATH, b"{}", {})
            async with self._started(self.subjects, provider) as servers:
                for round_number in range(self.effort.rounds):
                    for subject, server in servers:
                        say(f"calls, round {round_number + 1}: {subject.name}")
                        server.resume()
                        await self._calls_of(subject, server, provider)
                        if round_number == self.effort.rounds - 1:
                            self.note(subject, "rss_loaded_mb", server.rss_mb())
                        server.pause()

    async def _calls_of(self, subject: Subject, server: Server, provider: str) -> None:
        url = f"http://127.0.0.1:{server.port}{CHAT_PATH}"
        body, headers = chat_request(), subject.headers(provider)
        effort, folder = self.effort, self.folder
        await wrk(url, body, headers, connections=32, seconds=0.5, folder=folder)  # warms up
        cpu_s, loop_s, began = server.cpu_s(), server.main_thread_cpu_s(), time.perf_counter()
        load = await wrk(url, body, headers, connections=32, seconds=effort.busy_s, folder=folder)
        cpu_s, wall_s = server.cpu_s() - cpu_s, time.perf_counter() - began
        loop_s = server.main_thread_cpu_s() - loop_s
        self.note(subject, "rps", load.per_second)
        self.note(subject, "cpu_ms", cpu_s * 1e3 / load.requests)
        self.note(subject, "loop_ms", loop_s * 1e3 / load.requests)
        self.note(subject, "core_share", cpu_s / wall_s)
        load = await wrk(url, body, headers, connections=1, seconds=effort.single_s, folder=folder)
        self.note(subject, "p50_ms", load.p50_us / 1e3)
        self.note(subject, "p99_ms", load.p99_us / 1e3)

    async def measure_streams(self) -> None:
        """Paced streams: CPU per chunk, and what happens when the caller leaves."""
        relaying = [subject for subject in self.subjects if subject.relays]
        if not relaying:
            return
        async with StreamProvider() as provider:
            provider.pace = Pace(chunks=1, spacing_s=0.0)
            address = f"http://127.0.0.1:{provider.port}"
            async with self._started(relaying, address, is_stream=True) as servers:
                for round_number in range(self.effort.rounds):
                    for subject, server in servers:
                        say(f"streams, round {round_number + 1}: {subject.name}")
                        server.resume()
                        await self._chunks_of(subject, server, provider)
                        server.pause()
                for subject, server in servers:
                    say(f"callers who leave: {subject.name}")
                    server.resume()
                    await self._cuts_of(subject, server, provider)
                    server.pause()

    async def _chunks_of(self, subject: Subject, server: Server, provider: StreamProvider) -> None:
        """Measure by difference: a long stream and a short one differ in their chunks only."""
        body = chat_request(is_stream=True)
        headers = subject.headers(f"http://127.0.0.1:{provider.port}")
        lengths = (4, self.effort.chunks)
        costs: list[float] = []
        for chunks in (4, *lengths):  # the first warms up
            provider.pace = Pace(chunks=chunks, spacing_s=SPACING_S)
            before = server.cpu_s()
            events, reads = await read_streams(server.port, body, headers, streams=STREAMS)
            costs.append(server.cpu_s() - before)
            expected = STREAMS * chunks
            if events < expected:
                raise RuntimeError(f"{subject.name} relayed {events} of {expected} chunks")
        per_chunk = (costs[2] - costs[1]) / (STREAMS * (lengths[1] - lengths[0]))
        self.note(subject, "chunk_us", per_chunk * 1e6)
        self.note(subject, "reads_per_chunk", reads / expected)

    async def _cuts_of(self, subject: Subject, server: Server, provider: StreamProvider) -> None:
        provider.pace = Pace(chunks=1_000_000, spacing_s=0.0, stalls=True)
        body = chat_request(is_stream=True)
        headers = subject.headers(f"http://127.0.0.1:{provider.port}")
        times: list[float] = []
        unnoticed = 0
        for _ in range(self.effort.cuts):
            took_ms = await leave(server.port, body, headers, provider)
            unnoticed += took_ms is None
            times.append(CUT_WAIT_S * 1e3 if took_ms is None else took_ms)
            if unnoticed == CUT_GIVE_UP_AFTER:
                break
        times.sort()
        self.note(subject, "cut_p50_ms", statistics.median(times))
        self.note(subject, "cut_p99_ms", times[min(len(times) - 1, int(len(times) * 0.99))])
        self.note(subject, "cut_trials", len(times))
        self.note(subject, "cut_unnoticed", unnoticed)

    @asynccontextmanager
    async def _started(
        self, subjects: Sequence[Subject], provider: str, *, is_stream: bool = False
    ) -> AsyncIterator[list[tuple[Subject, Server]]]:
        """Start all, one after another, each on an idle core; all are paused when it yields."""
        async with AsyncExitStack() as stack:
            servers: list[tuple[Subject, Server]] = []
            for subject in subjects:
                if subject.name in self.skipped:
                    continue
                say(f"starting {subject.name}")
                folder = self._new_folder(subject.name)
                port = free_port()
                launch = subject.launch(port, provider, folder)
                server = Server(
                    launch.argv, env=launch.env, port=port, log=folder / "log", cwd=folder
                )
                stack.enter_context(server)
                body = chat_request(is_stream=is_stream)
                ask = (CHAT_PATH, body, subject.headers(provider))
                try:
                    answer = await asyncio.to_thread(server.wait_until_answering, *ask)
                    check_answer(answer, is_stream=is_stream)
                except RuntimeError as error:
                    say(f"SKIPPED {subject.name}: {error}")
                    self.skipped[subject.name] = str(error)
                    continue
                assert server.cold_start_s is not None
                self.note(subject, "cold_start_s", server.cold_start_s)
                if not is_stream:
                    await asyncio.sleep(0.5)
                    self.note(subject, "rss_idle_mb", server.rss_mb())
                server.pause()
                servers.append((subject, server))
            yield servers

    def _new_folder(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


def check_answer(answer: bytes, *, is_stream: bool) -> None:
    """Make sure that a subject gives the provider's answer, not one of its own.

    Raises:
        RuntimeError: it does not.
    """
    if is_stream:
        if b"tok" not in answer and b'"assistant"' not in answer:
            raise RuntimeError(f"not the provider's stream: {answer[:300]!r}")
        return
    said = json.loads(answer)["choices"][0]["message"]["content"]
    if said != json.loads(ANSWER)["choices"][0]["message"]["content"]:
        raise RuntimeError(f"not the provider's answer: {answer[:300]!r}")


def import_time_s() -> float:
    """Return how long a fresh interpreter needs to import the middlewares."""
    code = (
        "import time; t = time.perf_counter(); import asgi_llmgate.middleware; "
        "print(time.perf_counter() - t)"
    )
    argv = [sys.executable, "-c", code]
    run = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT, timeout=60)
    return float(run.stdout)


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


async def measure(subjects: Sequence[Subject], effort: Effort, parts: Sequence[str]) -> Run:
    with tempfile.TemporaryDirectory(prefix="llmgate-bench-") as folder:
        run = Run(subjects, effort, Path(folder))
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
        effort = Effort(
            arguments.rounds, effort.busy_s, effort.single_s, effort.chunks, effort.cuts
        )
    parts = arguments.parts.split(",")
    for name in list(os.environ):
        if name.startswith("LLMGATE_") or name.lower() in PROXY_VARIABLES:
            del os.environ[name]
    os.sched_setaffinity(0, LOAD_CORES)  # this process is part of the load
    machine = describe()
    began = time.perf_counter()
    run = uvloop.run(measure([SUBJECTS[name] for name in names], effort, parts))
    costs: dict[str, float] = {}
    if {"slice", "gateway"} & set(names):
        run.samples["gateway"]["import_s"] = [import_time_s() for _ in range(5)]
        if "micro" in parts:
            from bench import micro  # imports the gateway, which other subjects can do without

            costs = uvloop.run(micro.measure())
            run.samples["micro"]["logging_us"] = [costs["LoggingMiddleware"]]
    result = {
        "machine": {**machine, "took_s": round(time.perf_counter() - began)},
        "effort": {name: getattr(effort, name) for name in Effort.__slots__},
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
