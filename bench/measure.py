"""Measure subjects: calls, streams, callers who leave."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import Load, wrk
from bench.payloads import ANSWER, CHAT_PATH, chat_request
from bench.servers import LOAD_CORES, Server, free_port
from bench.streams import CUT_WAIT_S, Pace, StreamProvider, leave, read_streams
from bench.subjects import Subject, nginx

__all__ = ["FULL", "QUICK", "Effort", "Measurement", "say"]

CONNECTIONS = 32

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


class Measurement:
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
                for number in range(1, self.effort.rounds + 1):
                    await self._each(
                        f"calls, round {number}",
                        servers,
                        lambda subject, server: self._calls_of(subject, server, provider),
                    )
                for subject, server in servers:
                    self.note(subject, "rss_loaded_mb", server.rss_mb())

    async def _calls_of(self, subject: Subject, server: Server, provider: str) -> None:
        url = f"http://127.0.0.1:{server.port}{CHAT_PATH}"
        body, headers = chat_request(), subject.headers(provider)
        effort, folder = self.effort, self.folder

        async def load(connections: int, seconds: float) -> Load:
            return await wrk(
                url, body, headers, connections=connections, seconds=seconds, folder=folder
            )

        warm = await load(CONNECTIONS, 0.5)
        # What is under way at the end was worked for and is not counted, so let it be few.
        rate = max(warm.per_second, 1.0)
        seconds = min(max(effort.busy_s, 20 * CONNECTIONS / rate), 10.0)
        await server.settle()
        cpu_s, loop_s, began = server.cpu_s(), server.main_thread_cpu_s(), time.perf_counter()
        busy = await load(CONNECTIONS, seconds)
        cpu_s, wall_s = server.cpu_s() - cpu_s, time.perf_counter() - began
        loop_s = server.main_thread_cpu_s() - loop_s
        if not busy.requests:
            raise RuntimeError(f"no answer within {seconds} s")
        self.note(subject, "rps", busy.per_second)
        self.note(subject, "cpu_ms", cpu_s * 1e3 / busy.requests)
        self.note(subject, "loop_ms", loop_s * 1e3 / busy.requests)
        self.note(subject, "core_share", cpu_s / wall_s)
        await server.settle()
        single = await load(1, effort.single_s)
        self.note(subject, "p50_ms", single.p50_us / 1e3)
        self.note(subject, "p99_ms", single.p99_us / 1e3)

    async def measure_streams(self) -> None:
        """Paced streams: CPU per chunk, and what happens when the caller leaves."""
        relaying = [subject for subject in self.subjects if subject.relays]
        if not relaying:
            return
        async with StreamProvider() as provider:
            provider.pace = Pace(chunks=1, spacing_s=0.0)
            address = f"http://127.0.0.1:{provider.port}"
            async with self._started(relaying, address, is_stream=True) as servers:
                for number in range(1, self.effort.rounds + 1):
                    await self._each(
                        f"streams, round {number}",
                        servers,
                        lambda subject, server: self._chunks_of(subject, server, provider),
                    )
                await self._each(
                    "callers who leave",
                    servers,
                    lambda subject, server: self._cuts_of(subject, server, provider),
                )

    async def _each(
        self,
        what: str,
        servers: list[tuple[Subject, Server]],
        measure: Callable[[Subject, Server], Awaitable[None]],
    ) -> None:
        """Let one server after the other run and be measured; who fails is not asked again."""
        for subject, server in tuple(servers):
            say(f"{what}: {subject.name}")
            server.resume()
            try:
                await measure(subject, server)
            except (RuntimeError, OSError) as error:
                say(f"SKIPPED {subject.name}: {error}")
                self.skipped[subject.name] = f"{what}: {error}"
                servers.remove((subject, server))
            finally:
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


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
