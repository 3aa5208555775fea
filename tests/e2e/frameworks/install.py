"""Install the frameworks once per machine, in folders of their own under the user's cache.

They pin SDKs of other versions than the tests use, so they cannot share an environment with them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.servers import CACHE

PYTHON = (
    "langchain-openai==1.7.3",
    "langchain-anthropic==1.7.7",
    "langchain-google-genai==4.4.2",
    "instructor==1.17.0",
    "openai-agents==0.24.0",
)
NODE = (
    "ai@6.0.326",
    "@ai-sdk/openai@3.0.141",
    "@ai-sdk/anthropic@3.0.140",
    "@ai-sdk/google@3.0.141",
    "zod@4.6.7",
)


def install_python() -> Path:
    """Return the Python of an environment with the frameworks; about 20 s the first time.

    Raises:
        OSError: they could not be got.
    """

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "--no-input", *PYTHON])

    return _once("python", PYTHON, install) / "bin" / "python"


def install_node() -> Path:
    """Return the folder beside whose `node_modules` a script must lie; about 5 s the first time.

    Raises:
        OSError: npm is missing or could not get them.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")

    def install(folder: Path) -> None:
        command = [npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit"]
        _run([*command, "--no-fund", *NODE])

    return _once("node", NODE, install)


def _once(kind: str, wanted: tuple[str, ...], install: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256("\n".join((sys.version, *wanted)).encode()).hexdigest()[:12]
    folder = CACHE / kind / f"frameworks-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / ".done"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several test processes may come here at once.
        if not done.exists():
            install(folder)
            done.touch()
    return folder


def _run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise OSError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-300:]}")
