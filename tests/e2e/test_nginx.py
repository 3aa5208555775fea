"""The configuration of docs/nginx.md, in a real nginx, in front of real gateways."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import wire
from tests.conftest import ROOT, requires
from tests.provider import Answer, Gate, Provider
from tests.servers import Gateway, all_at, running_gateway, start_gateway

pytestmark = requires("nginx")

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
OWN = {"authorization": "Bearer sk-own", "llmgate-user-id": "ada", "cookie": "a=b"}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Nginx:
    """The documented configuration with other addresses."""

    def __init__(self, folder: Path, first: int, second: int, provider: Provider) -> None:
        [block] = re.findall(r"^```nginx\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        self.port = free_port()
        block = block.replace("127.0.0.1:8790", f"127.0.0.1:{first}")
        block = block.replace("127.0.0.1:8791", f"127.0.0.1:{second}")
        block = block.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        block = block.replace("https://api.openai.com", provider.url)
        config = folder / "nginx.conf"
        paths = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{paths}{block}}}\n"
        )
        command = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 10
        while True:
            assert self.process.poll() is None, self.process.communicate()[1]
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            assert time.monotonic() < deadline, "nginx does not listen"
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20
        )

    def ask(self, **headers: str) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=CHAT, headers=OWN | headers)

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.communicate(timeout=10)


PAGE = (ROOT / "docs" / "nginx.md").read_text()


@pytest.fixture(scope="module")
def direct() -> Iterator[Provider]:
    """The provider as nginx sees it, apart from the one that the gateways see."""
    with Provider() as provider:
        yield provider


@pytest.fixture
def nginx(
    gateway: Gateway, provider: Provider, direct: Provider, tmp_path: Path
) -> Iterator[Nginx]:
    direct.reset()
    nginx = Nginx(tmp_path, gateway.port, free_port(), direct)
    yield nginx
    nginx.stop()


def test_calls_go_through_the_gateway(nginx: Nginx, provider: Provider, direct: Provider) -> None:
    answer = nginx.ask()

    assert answer.json()["choices"]
    assert "llmgate-id" in answer.headers
    assert provider.asked
    assert not direct.asked


def test_a_stream_passes_piece_by_piece(nginx: Nginx, provider: Provider) -> None:
    gate = Gate()
    events = wire.chat_events("gpt-4o")
    provider.script(
        Answer([*events[:3], gate, *events[3:]], headers={"Content-Type": "text/event-stream"})
    )
    seen = b""
    with nginx.http.stream(
        "POST", "/v1/chat/completions", json={**CHAT, "stream": True}, headers=OWN
    ) as answer:
        for chunk in answer.iter_raw():
            seen += chunk
            if len(seen) >= len(b"".join(events[:3])):
                gate.open()  # The rest is sent only now that the first part is here.

    assert seen == b"".join(events)


def test_a_providers_refusal_does_not_go_past_the_gateway(
    nginx: Nginx, provider: Provider, direct: Provider
) -> None:
    provider.script(Answer([b"{}"], status=503, headers={"Retry-After": "7"}))

    answer = nginx.ask()

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert not direct.asked


def test_a_denial_is_final(nginx: Nginx, direct: Provider) -> None:
    answer = nginx.ask(**{"llmgate-provider": "nobody"})

    assert answer.status_code == 400
    assert not direct.asked


def test_without_a_gateway_only_own_keys_go_to_the_provider(
    direct: Provider, tmp_path: Path
) -> None:
    direct.reset()
    nginx = Nginx(tmp_path, free_port(), free_port(), direct)
    try:
        answer = nginx.ask()
        ours = nginx.ask(authorization="Bearer lg_key")
    finally:
        nginx.stop()

    assert answer.status_code == 200
    assert answer.json()["choices"]
    assert ours.status_code == 503
    [asked] = direct.asked
    assert asked.header("authorization") == "Bearer sk-own"
    assert not any(name.startswith(("llmgate-", "helicone-")) for name in asked.names)
    assert "cookie" not in asked.names


def test_a_marked_502_goes_to_the_provider(direct: Provider, tmp_path: Path) -> None:
    direct.reset()
    dead = f"http://127.0.0.1:{free_port()}"
    data = tmp_path / "data"
    data.mkdir()
    with running_gateway(data, all_at(dead)) as lost:
        nginx = Nginx(tmp_path, lost.port, free_port(), direct)
        try:
            answer = nginx.ask()
        finally:
            nginx.stop()

    assert answer.status_code == 200
    assert len(direct.asked) == 1


def test_stopping_one_of_two_gateways_fails_no_call(
    gateway: Gateway, provider: Provider, direct: Provider, tmp_path: Path
) -> None:
    direct.reset()
    data = tmp_path / "data"
    data.mkdir()
    other = start_gateway(data, all_at(provider.url))
    nginx = Nginx(tmp_path, gateway.port, other.port, direct)
    try:
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(nginx.ask) for _ in range(100)]
            other.stop()
            calls += [pool.submit(nginx.ask) for _ in range(100)]
            statuses = [call.result().status_code for call in calls]
    finally:
        nginx.stop()
        other.kill()

    assert statuses == [200] * 200
