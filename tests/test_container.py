"""The image and the compose file. Nobody has a Docker daemon here, so its steps are run by hand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # has no types of its own

from asgi_llmgate.settings import Settings
from tests.conftest import ROOT
from tests.processes import ServerProcess, clean_environment

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def only(stage: list[tuple[str, str]], name: str) -> str:
    [value] = [rest for each, rest in stage if each == name]
    return value


def test_the_image_is_debian_and_runs_as_nobody_in_particular() -> None:
    build, run = stages()

    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+ AS build", only(build, "FROM"))
    assert only(run, "FROM") == only(build, "FROM").removesuffix(" AS build")
    assert only(run, "USER") == "llmgate"
    names = [name for name, _ in run]
    assert names.index("USER") < names.index("CMD")
    assert only(run, "VOLUME") == "/data"
    assert "LLMGATE_DATA_DIR=/data" in only(run, "ENV").split()


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    build, _ = stages()
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {word for name, rest in build if name == "COPY" for word in rest.split()[:-1]}

    assert copied == kept
    assert [word for word in copied if not (ROOT / word).exists()] == []


def test_the_command_and_the_health_check_are_of_one_port() -> None:
    _, run = stages()
    command = json.loads(only(run, "CMD"))
    check = json.loads(only(run, "HEALTHCHECK").partition("CMD ")[2])

    assert command[command.index("--port") + 1] == only(run, "EXPOSE") == "8790"
    assert "http://127.0.0.1:8790/healthz" in check[-1]


def test_compose_hands_on_settings_that_exist() -> None:
    names = COMPOSE["services"]["gateway"]["environment"]
    ours = [name for name in names if name.startswith("LLMGATE_")]

    assert [
        n for n in ours if n.removeprefix("LLMGATE_").lower() not in Settings.model_fields
    ] == []
    # A variable that is set to nothing would be one that is set.
    assert all("=" not in name for name in names)


def test_compose_starts_one_gateway_and_stores_on_request() -> None:
    services = COMPOSE["services"]

    assert {name: service.get("profiles") for name, service in services.items()} == {
        "gateway": None,
        "redis": ["redis"],
        "postgres": ["postgres"],
    }
    assert services["redis"]["image"].startswith("redis:8")
    assert services["gateway"]["ports"] == ["127.0.0.1:8790:8790"]
    mounted = {mount.split(":")[0] for each in services.values() for mount in each["volumes"]}
    assert mounted == set(COMPOSE["volumes"])
    for name, condition in services["gateway"]["depends_on"].items():
        assert condition == {"condition": "service_healthy", "required": False}
        assert "healthcheck" in services[name]


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """What the image's steps make, below a folder in the place of `/`."""
    source, root = tmp_path / "src", tmp_path / "root"
    source.mkdir()
    (root / "data").mkdir(parents=True, mode=0o700)
    for name, rest in stages()[0]:
        if name == "COPY":
            *sources, _ = rest.split()
            for each in sources:
                copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
                copy(ROOT / each, source / each)
        elif name == "RUN":
            command = rest.replace("/opt/", f"{root}/opt/")
            words = [sys.executable if word == "python" else word for word in shlex.split(command)]
            subprocess.run(words, cwd=source, env=clean_pip(), check=True, capture_output=True)
    yield root
    shutil.rmtree(root)


def clean_pip() -> dict[str, str]:
    """Return the environment for pip: with the index of this machine, whatever it is."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LLMGATE_")}


@pytest.mark.soak
def test_the_steps_of_the_image_make_a_gateway_that_is_healthy(image: Path) -> None:
    _, run = stages()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [word.replace("8790", port) for word in json.loads(only(run, "CMD"))]
    check = json.loads(only(run, "HEALTHCHECK").partition("CMD ")[2])
    check = [word.replace("8790", port) for word in check]
    env = clean_environment() | {
        "PATH": f"{image}/opt/llmgate/bin:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "LLMGATE_DATA_DIR": f"{image}/data",
    }
    program = f"{image}/opt/llmgate/bin/{command[0]}"
    server = ServerProcess([program, *command[1:]], env=env, cwd=image)
    try:
        server.wait_for("OpenAI\\(base_url")
        for _ in range(100):  # It takes a moment longer until it listens.
            done = subprocess.run(
                check, env={"PATH": env["PATH"]}, capture_output=True, check=False
            )
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr
    finally:
        server.stop()

    assert (image / "data").stat().st_mode & 0o777 == 0o700
