"""The command `llmgate`, run as a user runs it."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from asgi_llmgate import __version__
from tests import wire
from tests.e2e.conftest import Calls
from tests.processes import ServerProcess, clean_environment, llmgate
from tests.provider import Provider
from tests.servers import Gateway

SECRETS = {
    "LLMGATE_KEYS": "app:lg_test_canary_gateway_key",
    "LLMGATE_ADMIN_TOKEN": "canary-admin-token-0123456789abcdef",
    "LLMGATE_SECRET_KEY": "Y2FuYXJ5LW9mLTMyLWJ5dGVzLW9yLW1vcmUtaXMgZm9yIGtleXM=",
    "LLMGATE_REDIS_URL": "redis://:canary-redis-password@127.0.0.1:1/0",
    "LLMGATE_PROVIDERS__OPENAI__API_KEY": "sk-canary-pooled",
}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment() | {"LLMGATE_DATA_DIR": str(tmp_path / "data")}


def test_the_version_is_printed(env: dict[str, str], tmp_path: Path) -> None:
    assert llmgate("--version", env=env, cwd=tmp_path).stdout.strip().endswith(__version__)


@pytest.mark.parametrize("arguments", [("show",), ("show", "--json"), ("check",)])
def test_settings_are_shown_without_secrets(
    env: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = llmgate("config", *arguments, env=env | SECRETS, cwd=tmp_path)

    assert "canary" not in done.stdout + done.stderr
    assert SECRETS["LLMGATE_SECRET_KEY"] not in done.stdout + done.stderr
    if arguments == ("show", "--json"):
        assert json.loads(done.stdout)["data_dir"] == env["LLMGATE_DATA_DIR"]


def test_every_mistake_in_the_settings_is_named_and_no_value(
    env: dict[str, str], tmp_path: Path
) -> None:
    wrong = {
        "LLMGATE_AUTH__MODE": "canary-mode",
        "LLMGATE_KEYS": "canary-without-a-name",
        "LLMGATE_LOG__MAX_AGE_DAYS": "canary",
    }
    done = llmgate("config", "check", env=env | wrong, cwd=tmp_path, check=False)

    assert done.returncode == 2
    assert all(name in done.stderr for name in wrong)
    assert "canary" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_with_wrong_settings_does_not_start(env: dict[str, str], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "uvicorn", "asgi_llmgate:app", "--port", "0"]
    server = ServerProcess(argv, env=env | {"LLMGATE_AUTH__MODE": "canary"}, cwd=tmp_path)
    code = server.process.wait(20)
    server.stop()

    assert code != 0
    assert "LLMGATE_AUTH__MODE" in server.output
    assert "HINT" in server.output
    assert "Traceback" not in server.output


def test_the_doctor_is_content_with_a_fresh_machine(env: dict[str, str], tmp_path: Path) -> None:
    checks = json.loads(llmgate("doctor", "--json", env=env, cwd=tmp_path).stdout)

    assert checks
    assert {check["state"] for check in checks} <= {"ok", "warn"}


def test_the_doctor_fails_where_something_is_wrong(env: dict[str, str], tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    broken = env | {"LLMGATE_DATA_DIR": str(in_the_way / "data")}
    done = llmgate("doctor", env=broken, cwd=tmp_path, check=False)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_the_admin_token_is_made_once_and_for_its_owner_only(
    env: dict[str, str], tmp_path: Path
) -> None:
    first = llmgate("admin-token", env=env, cwd=tmp_path).stdout.strip()
    second = llmgate("admin-token", env=env, cwd=tmp_path).stdout.strip()
    file = tmp_path / "data" / "admin_token"

    assert len(first) >= 32
    assert first == second == file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_admin_token_of_the_folder_opens_the_figures(gateway: Gateway) -> None:
    token = gateway.cli("admin-token").stdout.strip()
    answer = gateway.http.get("/metrics", headers={"authorization": f"Bearer {token}"})

    assert answer.status_code == 200


def test_providers_are_listed(env: dict[str, str], tmp_path: Path) -> None:
    with_key = env | {"LLMGATE_PROVIDERS__OPENAI__API_KEY": "sk-canary-pooled"}
    done = llmgate("providers", "--json", env=with_key, cwd=tmp_path)
    rows = {row["id"]: row for row in json.loads(done.stdout)}

    assert {"openai", "anthropic", "google"} <= set(rows)
    assert len(rows) > 200
    assert rows["openai"]["keys"]
    assert not rows["anthropic"]["keys"]
    assert rows["groq"]["base_urls"]["openai-chat"] == "https://api.groq.com/openai/v1"
    assert "canary" not in done.stdout


def test_the_table_of_providers_says_what_one_that_is_off_needs(
    env: dict[str, str], tmp_path: Path
) -> None:
    title, *lines = llmgate("providers", "azure", env=env, cwd=tmp_path).stdout.splitlines()

    assert title.split() == ["PROVIDER", "KEY", "SPEAKS"]
    assert any("LLMGATE_PROVIDERS__AZURE_OPENAI__BASE_URL" in line for line in lines)


def test_calls_are_shown_one_by_one_and_summed_up(
    gateway: Gateway, calls: Calls, provider: Provider
) -> None:
    for user in ("command-ada", "command-ada", "command-bob"):
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-mine") as client:
            client.chat.completions.create(
                model="gpt-4o",
                messages=[{"role": "user", "content": f"hello from {user}"}],
                extra_headers={"LLMGate-User-Id": user, "LLMGate-Property-Suite": "command"},
            )
    record = calls.new(3)[0]
    shown = gateway.cli("logs", "show", record["id"]).stdout
    tail = gateway.cli("logs", "tail").stdout
    stats = gateway.cli("stats", "--by", "user", "--json").stdout.splitlines()
    rows = {row["key"]: row for row in map(json.loads, stats)}

    assert record["id"] in shown
    assert "hello from command-ada" in shown
    assert "gpt-4o" in tail
    assert rows["command-ada"]["calls"] == 2
    assert rows["command-ada"]["input_tokens"] == 2 * wire.INPUT_TOKENS
    assert rows["command-bob"]["calls"] == 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_until_it_listens(server: ServerProcess, port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert server.process.poll() is None, server.output
        assert time.monotonic() < deadline, server.output
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            os.sched_yield()  # Nothing tells when it listens: the server prints it before.
        else:
            return


def test_the_demo_needs_no_key_and_shows_the_call_to_make(
    env: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "asgi_llmgate.cli", "demo", "--port", str(port)]
    server = ServerProcess(argv, env=env, cwd=tmp_path)
    try:
        wait_until_it_listens(server, port)
        with (
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client,
            client.chat.completions.create(
                model="demo/echo",
                messages=[{"role": "user", "content": "Hello there"}],
                stream=True,
            ) as stream,
        ):
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    finally:
        server.stop()
    done = llmgate("logs", "tail", "--json", env=env, cwd=tmp_path)
    [record] = [json.loads(line) for line in done.stdout.splitlines()]

    assert "Hello there" in text
    assert f"curl -N http://localhost:{port}/v1/chat/completions" in server.output
    assert (record["provider"], record["status"], record["is_stream"]) == ("demo", 200, True)
    assert record["input_tokens"] == 2


def test_serve_prints_the_line_to_change_for_three_sdks(
    env: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "asgi_llmgate.cli", "serve", "--port", str(port)]
    server = ServerProcess(argv, env=env, cwd=tmp_path)
    try:
        wait_until_it_listens(server, port)
        ready = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, verify=False)
    finally:
        server.stop()

    assert ready.status_code == 200
    assert f'OpenAI(base_url="http://localhost:{port}/v1")' in server.output
    assert f'Anthropic(base_url="http://localhost:{port}")' in server.output
    assert "genai.Client(" in server.output
