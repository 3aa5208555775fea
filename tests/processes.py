"""Child processes: servers whose output is watched, and the command `llmgate`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent
START_S = 30
"""Generous: on a busy two-core machine a cold start has taken several seconds."""


class ServerProcess:
    """A child process whose output is kept line by line.

    Args:
        env: All of its environment.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._open_outputs = 2
        self.process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that workers can be signalled with it
        )
        assert self.process.stdout
        assert self.process.stderr
        for output in (self.process.stdout, self.process.stderr):
            threading.Thread(target=self._collect, args=(output,), daemon=True).start()

    def _collect(self, output: IO[str]) -> None:
        with output:
            for line in output:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._open_outputs -= 1
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """Everything it printed so far, stdout and stderr."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, *, times: int = 1, timeout_s: float = START_S) -> str:
        """Block until `pattern` was found in `times` lines; return its first group in the last.

        Raises:
            AssertionError: it ended, or `timeout_s` passed; with its output.
        """

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        with self._changed:
            self._changed.wait_for(
                lambda: len(found()) >= times or not self._open_outputs, timeout_s
            )
            matches = found()
        assert len(matches) >= times, f"never printed {pattern!r}, but:\n{self.output}"
        return matches[-1][1] if matches[-1].re.groups else matches[-1][0]

    def stop(self, timeout_s: float = 15) -> int:
        """Ask it to end, wait until it did, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {timeout_s} s:\n{self.output}") from None
        with self._changed:
            self._changed.wait_for(lambda: not self._open_outputs, timeout_s)
        return code

    def kill(self) -> None:
        """End it and its workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)


def clean_environment() -> dict[str, str]:
    """Return the environment without what configures a gateway or an SDK.

    A proxy that refuses everything is put in: no part of the gateway may use it.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LLMGATE_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_"))
        and "_proxy" not in name.lower()
        and not name.endswith("_API_KEY")
    }
    dead = "http://127.0.0.1:9"
    return kept | {
        "HTTP_PROXY": dead,
        "HTTPS_PROXY": dead,
        "ALL_PROXY": dead,
        "PYTHONUNBUFFERED": "1",
    }


def llmgate(
    *args: str, env: Mapping[str, str], cwd: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does. With `check`, a failure shows what it printed."""
    command = [sys.executable, "-m", "asgi_llmgate.cli", *args]
    done = subprocess.run(
        command, env=dict(env), cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert not check or done.returncode == 0, (
        f"{args} → {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done
