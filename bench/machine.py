"""What a run ran on; figures without it say nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.subjects import LITELLM, PORTKEY

__all__ = ["describe"]

PACKAGES = ("asgi-llmgate", "uvicorn", "httptools", "uvloop", "pyreqwest", "orjson", "starlette")


def describe() -> dict[str, str | int | float]:
    """Return machine, load and versions as they are now."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = {
        line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if "model name" in line
    }
    found: dict[str, str | int | float] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": ", ".join(sorted(models)),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "load_average_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "node": _first_line("node", "--version"),
        "nginx": _first_line("nginx", "-v"),
        "wrk": _first_line("wrk", "-v"),
        "litellm": LITELLM,
        "portkey": PORTKEY,
        "commit": _first_line("git", "rev-parse", "--short", "HEAD"),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _first_line(*argv: str) -> str:
    try:
        run = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20
        )
    except OSError:
        return "absent"
    return run.stdout.partition("\n")[0].strip()
