"""A server under test as a child process: pinned, timed, weighed, paused, and surely ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["LOAD_CORES", "SERVER_CORE", "Server", "free_port", "pinned"]

_CORES = sorted(os.sched_getaffinity(0))
# Interrupts favour the first core, so the server gets the last one and the load the others.
SERVER_CORE = {_CORES[-1]}
LOAD_CORES = set(_CORES[:-1]) or SERVER_CORE

_PR_SET_PDEATHSIG = 1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Server:
    """A child process and its children. Use as a context manager: leaving it ends them all.

    Args:
        argv: What to run; its output goes to `log`.
        env: Added to the environment.
        port: Where it will listen on 127.0.0.1.
        cores: CPUs it may use.
        cwd: Its working directory.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        port: int,
        log: Path,
        env: Mapping[str, str] | None = None,
        cores: set[int] = SERVER_CORE,
        cwd: Path | None = None,
    ) -> None:
        self.argv = list(argv)
        self.port = port
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.cores = cores
        self.cwd = cwd
        self.cold_start_s: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._started = time.perf_counter()
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
                preexec_fn=pinned(self.cores),
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        if process is None:
            return
        for signum, wait_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            self._signal(signum)
            self._signal(signal.SIGCONT)  # A paused process ends only when it may run.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
                break
        self._signal(signal.SIGKILL)  # Grandchildren that outlived their parent.

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def wait_until_answering(
        self, path: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float = 120.0
    ) -> bytes:
        """Ask until the answer is a 200, set `cold_start_s`, and return the answer's body.

        Raises:
            RuntimeError: the process ended, or the time is over; says what it printed last.
        """
        seen = "no connection"
        give_up_at = self._started + timeout_s
        while time.perf_counter() < give_up_at:
            assert self._process is not None
            if self._process.poll() is not None:
                seen = f"exit status {self._process.returncode}"
                break
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("POST", path, body, dict(headers))
                response = connection.getresponse()
                answer = response.read()
                if response.status == 200:
                    self.cold_start_s = time.perf_counter() - self._started
                    return answer
                seen = f"status {response.status}: {answer[:300]!r}"
                # It listens but is not well; that seldom passes.
                give_up_at = min(give_up_at, time.perf_counter() + 10)
                time.sleep(0.1)
            except (OSError, http.client.HTTPException):
                time.sleep(0.005)
            finally:
                connection.close()
        tail = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.argv[0]} does not answer ({seen}). It printed:\n{tail}")

    def cpu_s(self) -> float:
        """Return the CPU seconds used so far by the process and its living children."""
        # The process clock of another process, as clock_getcpuclockid(3) makes it: in
        # nanoseconds and with ended threads, where /proc/PID/stat counts in 10 ms ticks.
        total = 0.0
        for pid in self._tree():
            with contextlib.suppress(OSError):
                total += time.clock_gettime((~pid << 3) | 2)
        return total

    def main_thread_cpu_s(self) -> float:
        """Return the CPU seconds of the first thread, where the event loop runs."""
        run_ns = Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]
        return int(run_ns) / 1e9

    async def settle(self, timeout_s: float = 5.0) -> None:
        """Wait until it has done with what callers left behind: until it is nearly idle."""
        give_up_at = time.perf_counter() + timeout_s
        before = self.cpu_s()
        while time.perf_counter() < give_up_at:
            await asyncio.sleep(0.1)
            now = self.cpu_s()
            if now - before < 0.01:
                return
            before = now

    def rss_mb(self) -> float:
        """Return the resident memory of the process and its children, in 10^6 bytes."""
        pages = 0
        for pid in self._tree():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * _PAGE_BYTES / 1e6

    def pause(self) -> None:
        """Stop it from running, so that what it does when idle costs nobody else."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _tree(self) -> Iterator[int]:
        pending = [self.pid]
        while pending:
            pid = pending.pop()
            yield pid
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    pending.extend(int(child) for child in task.read_text().split())

    def _signal(self, signum: signal.Signals) -> None:
        # Our own session leader: the group id is the process id, and holds only its children.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)


class pinned:  # noqa: N801  # used like a function
    """A `preexec_fn` that pins the child to `cores` and lets it die with us."""

    def __init__(self, cores: set[int]) -> None:
        self._cores = cores
        self._libc = ctypes.CDLL(None)

    def __call__(self) -> None:
        os.sched_setaffinity(0, self._cores)
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
