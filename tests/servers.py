"""Real servers on free ports: the gateway under test, and the providers it is given.

Fixtures start them once per session (with pytest-xdist: once per worker) and stop them at its end;
a test that needs a gateway of its own calls `start_gateway`. Readiness is what the server itself
reports on its output, never a pause.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from llmock.testing import LLMockServer

from tests.processes import ROOT, ServerProcess, clean_environment, llmgate
from tests.provider import Provider

AIMOCK = "@copilotkit/aimock@1.43.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmgate-tests"


class Gateway(ServerProcess):
    """A running gateway. `url` has no trailing slash."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], data_dir: Path, workers: int = 1
    ) -> None:
        super().__init__(argv, env=env, cwd=data_dir)
        self.env = env
        self.data_dir = data_dir
        try:
            self.port = int(self.wait_for(r"Uvicorn running on https?://127\.0\.0\.1:(\d+)"))
            if workers > 1:  # The parent says that it runs before its workers do.
                self.wait_for(r"Application startup complete", times=workers)
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def http(self) -> httpx.Client:
        """A client of this server. Without certificates, whose loading takes 50 ms."""
        return httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=20)

    def stop(self, timeout_s: float = 15) -> int:
        if "http" in self.__dict__:
            self.http.close()  # Else uvicorn waits for its connections.
        return super().stop(timeout_s)

    def cli(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `llmgate` with the settings of this gateway."""
        return llmgate(*args, env=self.env, cwd=self.data_dir, check=check)

    def records(self) -> list[dict[str, Any]]:
        """Return all of its call records, oldest first, as `llmgate logs tail --json` has them.

        The command runs in this process, because tests ask often and a start takes half a second.
        """
        # This module is loaded by every test run; the command is not needed by most.
        from typer.testing import CliRunner

        from asgi_llmgate.cli import cli

        arguments = ["logs", "tail", "--json", "--number", "1000000"]
        done = CliRunner().invoke(cli, [*arguments, "--data-dir", str(self.data_dir)])
        if "There is no call log" in done.stderr or "may just be making it" in done.stderr:
            return []
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    def wait_for_records(self, count: int, *, timeout_s: float = 5) -> list[dict[str, Any]]:
        """Return all records once there are at least `count`; they are written every 200 ms."""
        deadline = time.monotonic() + timeout_s
        while len(records := self.records()) < count:
            assert time.monotonic() < deadline, f"{len(records)} records instead of {count}"
        return records


def base_urls(openai: str, anthropic: str, google: str) -> dict[str, str]:
    """Return the settings that point the three providers to servers on this machine."""
    return {
        "LLMGATE_PROVIDERS__OPENAI__BASE_URL": openai,
        "LLMGATE_PROVIDERS__ANTHROPIC__BASE_URL": anthropic,
        "LLMGATE_PROVIDERS__GOOGLE__BASE_URL": google,
    }


def all_at(url: str) -> dict[str, str]:
    """Return the settings for one server that plays all three."""
    return base_urls(f"{url}/v1", f"{url}/v1", f"{url}/v1beta")


def start_gateway(
    data_dir: Path,
    env: Mapping[str, str],
    *,
    workers: int = 1,
    app: str = "asgi_llmgate:app",
    arguments: Sequence[str] = (),
) -> Gateway:
    """Start `uvicorn asgi_llmgate:app` with `env`; whoever starts it stops it."""
    argv = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", "0", *arguments]
    if workers > 1:
        argv += ["--workers", str(workers)]
    whole = clean_environment() | {"LLMGATE_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)}
    whole |= dict(env)
    return Gateway(argv, env=whole, data_dir=data_dir, workers=workers)


@contextlib.contextmanager
def running_gateway(
    data_dir: Path,
    env: Mapping[str, str],
    *,
    workers: int = 1,
    app: str = "asgi_llmgate:app",
    arguments: Sequence[str] = (),
) -> Iterator[Gateway]:
    """Start a gateway, and stop it at the end."""
    gateway = start_gateway(data_dir, env, workers=workers, app=app, arguments=arguments)
    try:
        yield gateway
    finally:
        gateway.stop()


def install_aimock() -> Path:
    """Return the script of aimock, installed once per machine under the user's cache folder.

    Raises:
        OSError: npm is missing or could not get it.
    """
    folder = CACHE / "node" / AIMOCK.rpartition("/")[2]
    script = folder / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several test processes may come here at once.
        if not script.exists():
            npm = shutil.which("npm")
            if npm is None:
                raise OSError("npm is not installed")
            command = [npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit"]
            done = subprocess.run(
                [*command, "--no-fund", AIMOCK], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise OSError(f"npm could not install {AIMOCK}: {done.stderr.strip()[-300:]}")
    return script


@pytest.fixture(scope="session")
def provider_server() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(provider_server: Provider) -> Iterator[Provider]:
    """Our own provider, without memory of the test before."""
    provider_server.reset()
    yield provider_server
    provider_server.reset()


@pytest.fixture(scope="session")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of aimock, a mock provider written by others, with `aimock.json` as its answers."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("not installed: node")
    try:
        script = install_aimock()
    except OSError as error:
        pytest.skip(str(error))
    answers = Path(__file__).parent / "e2e" / "aimock.json"
    server = ServerProcess(
        [node, str(script), "--port", "0", "--fixtures", str(answers)],
        env=clean_environment(),
        cwd=tmp_path_factory.mktemp("aimock"),
    )
    yield server.wait_for(r"listening on (http://\S+)")
    server.stop()


@pytest.fixture(scope="session")
def gateway(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway without keys of its own, in front of our own provider."""
    with running_gateway(
        tmp_path_factory.mktemp("gateway"), all_at(provider_server.url)
    ) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def aimock_gateway(aimock: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in front of aimock."""
    with running_gateway(tmp_path_factory.mktemp("aimock-gateway"), all_at(aimock)) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def llmock_gateway(
    llmock_server: LLMockServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway in front of llmock."""
    env = base_urls(
        llmock_server.base_url("openai"),
        llmock_server.base_url("anthropic") + "/v1",
        llmock_server.base_url("gemini") + "/v1beta",
    )
    with running_gateway(tmp_path_factory.mktemp("llmock-gateway"), env) as gateway:
        yield gateway
