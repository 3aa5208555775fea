"""What people build with, against providers of other dialects: only a base URL is changed.

Each framework runs once, in a process of its own, and goes through all cases with each model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import wire
from tests.e2e.frameworks.install import install_node, install_python
from tests.e2e.matrix import model_of
from tests.e2e.speakers import CITY, PLACE, TOOL
from tests.processes import clean_environment
from tests.servers import Gateway

HERE = Path(__file__).parent

CASES = {
    "plain": wire.TEXT,
    "stream": list(wire.WORDS),
    "tools": [TOOL, CITY, wire.TEXT],
    "structured": PLACE,
    "partial": PLACE,
    "error": 429,
}
ALL = ("plain", "stream", "tools", "structured", "error")

# What each speaks, and providers of other formats: every format is met by several of them.
FRAMEWORKS = {
    "langchain-openai": ("anthropic-messages", "gemini", "cohere-v2"),
    "langchain-anthropic": ("openai-chat", "openai-responses"),
    "langchain-google-genai": ("anthropic-messages", "openai-chat"),
    "instructor": ("anthropic-messages", "bedrock-converse"),
    "openai-agents": ("anthropic-messages", "gemini", "bedrock-converse"),
}
VERCEL = {
    "openai": "anthropic-messages",
    "chat": "gemini",
    "anthropic": "openai-chat",
    "google": "bedrock-converse",
}


def run(command: list[str]) -> Any:
    """Run a program and return the JSON of its last line."""
    env = clean_environment() | {"NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def vercel(url: str) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("not installed: node")
    try:
        folder = install_node()
    except OSError as error:
        pytest.skip(str(error))
    # Node looks for modules beside the script.
    script = folder / f"run-{os.getpid()}.mjs"
    shutil.copyfile(HERE / "run_node.mjs", script)
    try:
        return run([node, str(script), url, *map(vercel_target, VERCEL)])
    finally:
        script.unlink()


def vercel_target(spoken: str) -> str:
    # Google's package takes a name with a slash for a whole path.
    prefix = "models/" if spoken == "google" else ""
    return f"{spoken}:{prefix}{model_of(VERCEL[spoken])}"


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
@pytest.mark.usefixtures("speaking")
def test_python(matrix: Gateway, framework: str) -> None:
    try:
        python = install_python()
    except OSError as error:
        pytest.skip(str(error))
    models = [model_of(target) for target in FRAMEWORKS[framework]]
    results = run([str(python), str(HERE / "run_python.py"), framework, matrix.url, *models])

    cases = ("structured", "partial", "error") if framework == "instructor" else ALL
    assert results == {model: {case: CASES[case] for case in cases} for model in models}


@pytest.mark.usefixtures("speaking")
def test_vercel_ai_sdk(matrix: Gateway) -> None:
    expected = {case: CASES[case] for case in ALL}

    assert vercel(matrix.url) == {vercel_target(spoken): expected for spoken in VERCEL}
