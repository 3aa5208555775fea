"""Life of a server: health, figures, draining, several workers, sudden death."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from asgi_llmgate import LLMGate
from asgi_llmgate.settings import load_settings
from tests import wire
from tests.asgi import call
from tests.e2e.conftest import BEARER
from tests.provider import SSE, Answer, Gate, Provider
from tests.servers import Gateway, all_at, running_gateway, start_gateway

ADMIN = {"authorization": "Bearer admin-token-0123456789abcdef0123"}
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def settings(provider: Provider) -> dict[str, str]:
    token = ADMIN["authorization"].removeprefix("Bearer ")
    return all_at(provider.url) | {"LLMGATE_ADMIN_TOKEN": token}


@pytest.fixture(scope="module")
def workers(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Four workers on one folder."""
    token = ADMIN["authorization"].removeprefix("Bearer ")
    env = all_at(provider_server.url) | {"LLMGATE_ADMIN_TOKEN": token}
    with running_gateway(tmp_path_factory.mktemp("workers"), env, workers=4) as gateway:
        yield gateway


def one_call(gateway: Gateway) -> tuple[str, float]:
    """Make one call on a connection of its own; return its id and when it was over."""
    headers = BEARER | {"connection": "close"}
    answer = gateway.http.post("/v1/chat/completions", headers=headers, json=CHAT)
    assert answer.status_code == 200
    return answer.headers["llmgate-id"], time.monotonic()


def get(gateway: Gateway, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return gateway.http.get(path, headers=headers)


def test_health_is_public_and_without_detail(gateway: Gateway) -> None:
    answers = [get(gateway, path) for path in ("/healthz", "/readyz")]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json() for answer in answers] == [{"status": "ok"}, {"status": "ready"}]


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, BEARER],
    ids=["none", "wrong", "a caller's"],
)
def test_figures_need_the_admin_token(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = get(gateway, "/metrics", headers)

    assert answer.status_code == 401
    assert "llmgate_calls" not in answer.text


def total_calls(gateway: Gateway) -> int:
    lines = get(gateway, "/metrics", ADMIN).text.splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("llmgate_calls_total{"))


def test_workers_share_a_folder_and_their_figures_add_up(
    workers: Gateway, provider: Provider
) -> None:
    before = total_calls(workers)
    count = 200
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        ids = {name for name, _ in pool.map(lambda _: one_call(workers), range(count))}
    records = workers.wait_for_records(before + count)
    deadline = time.monotonic() + 10
    while (total := total_calls(workers)) < before + count:
        assert time.monotonic() < deadline, total

    assert total == before + count
    assert len(ids) == count
    assert ids <= {record["id"] for record in records}
    assert len(records) == len({record["id"] for record in records}) == before + count
    # Several processes ask for figures, and each gives the same.
    assert {total_calls(workers) for _ in range(8)} == {total}


def test_a_running_stream_is_finished_before_the_server_ends(
    provider: Provider, settings: dict[str, str], tmp_path: Path
) -> None:
    events = wire.chat_events("gpt-4o", usage=True)
    gate = Gate()
    provider.script(Answer([*events[:3], gate, *events[3:]], headers=SSE))
    gateway = start_gateway(tmp_path, settings)
    try:
        body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
        with gateway.http.stream(
            "POST", "/v1/chat/completions", headers=BEARER, json=body
        ) as answer:
            arriving = answer.iter_raw()
            received = next(arriving)
            gateway.process.send_signal(signal.SIGTERM)
            gateway.wait_for("Shutting down")
            gate.open()
            received += b"".join(arriving)
    finally:
        code = gateway.stop()
    [record] = gateway.records()

    assert received == b"".join(events)
    # uvicorn raises the signal again once it is done.
    assert code in (0, -signal.SIGTERM)
    assert (record["complete"], record["output_tokens"]) == (True, wire.OUTPUT_TOKENS)


async def test_a_draining_gateway_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: arrived.set())  # As a server has one.
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path))
    gate = LLMGate(load_settings())
    try:
        await gate.startup()
        ready = await call(gate, b"", path="/readyz", method="GET")
        os.kill(os.getpid(), signal.SIGTERM)
        draining = await call(gate, b"", path="/readyz", method="GET")
        alive = await call(gate, b"", path="/healthz", method="GET")
        await gate.aclose()
    finally:
        signal.signal(signal.SIGTERM, before)

    assert (ready.status, draining.status, alive.status) == (200, 503, 200)
    assert arrived.is_set()  # The server's own handler was called, too.


def test_sudden_death_loses_nothing_older_than_200_ms(
    provider: Provider, settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start_gateway(tmp_path, settings)
    finished: list[tuple[str, float]] = []
    enough = threading.Event()

    def load() -> None:
        with httpx.Client(trust_env=False, verify=False) as client:
            url = f"{gateway.url}/v1/chat/completions"
            try:
                while True:
                    answer = client.post(url, headers=BEARER, json=CHAT)
                    finished.append((answer.headers["llmgate-id"], time.monotonic()))
                    # Some are older than what may be lost, however fast the machine is.
                    if len(finished) > 400 and time.monotonic() - finished[100][1] > 0.3:
                        enough.set()
            except httpx.TransportError:
                return  # It was killed.

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(30)
    killed_at = time.monotonic()
    gateway.kill()
    for thread in threads:
        thread.join()
    kept = {record["id"] for record in gateway.records()}
    old = [name for name, at in finished if at < killed_at - 0.2]

    assert len(old) > 100
    assert [name for name in old if name not in kept] == []


def test_the_access_log_shows_no_query(gateway: Gateway, provider: Provider) -> None:
    path = "/v1beta/models/gemini-2.5-flash:generateContent"
    marker = f"/v1/models/marker-{time.monotonic_ns()}"
    gateway.http.post(f"{path}?key=AIza-secret-in-the-query&alt=json", json={"contents": []})
    get(gateway, marker, BEARER)
    gateway.wait_for(re.escape(marker))

    assert f'"POST {quote(path)} HTTP/1.1" 200' in gateway.output
    assert "secret-in-the-query" not in gateway.output


def test_a_websocket_is_closed_with_a_reason(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(
            b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        received = b""
        while b"realtime" not in received:
            data = connection.recv(65536)
            assert data, received
            received += data

    assert received.startswith(b"HTTP/1.1 101 ")
