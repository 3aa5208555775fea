"""Inside FastAPI and Django the gateway does what it does alone, without lifespan events."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from tests import wire
from tests.e2e.conftest import Calls
from tests.lag import machine_lag
from tests.provider import SSE, Answer, Gate, Provider
from tests.servers import Gateway, all_at, running_gateway

POOLED_KEY = "sk-pooled-of-the-host"
HOSTS = ["fastapi_app", "wrapped_fastapi_app", "django_app"]
ADA = {"x-user": "ada"}


@pytest.fixture(scope="module", params=HOSTS)
def host(
    request: pytest.FixtureRequest,
    provider_server: Provider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    env = all_at(provider_server.url) | {"LLMGATE_PROVIDERS__OPENAI__API_KEY": POOLED_KEY}
    with running_gateway(
        tmp_path_factory.mktemp(request.param),
        env,
        app=f"tests.mounted.apps:{request.param}",
        arguments=["--factory", "--lifespan", "off"],
    ) as running:
        yield running


@pytest.fixture
def calls(host: Gateway, provider: Provider) -> Calls:
    return Calls(host)


def test_the_host_still_answers_its_own_paths(host: Gateway) -> None:
    answer = host.http.get("/hello")

    assert answer.json() == {"hello": "world"}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_user_of_the_host_calls_with_the_hosts_key(
    host: Gateway, calls: Calls, provider: Provider, stream: bool
) -> None:
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": stream,
    }
    answer = host.http.post("/llm/v1/chat/completions", headers=ADA, json=body)
    record = calls.one()

    assert answer.status_code == 200
    assert provider.last.header("authorization") == f"Bearer {POOLED_KEY}"
    assert (record["tenant"], record["principal_kind"], record["user_id"]) == (
        "shop",
        "host",
        "ada",
    )
    assert record["user_trust"] == "verified"
    assert (record["input_tokens"], record["output_tokens"]) == (
        wire.INPUT_TOKENS,
        wire.OUTPUT_TOKENS,
    )
    assert record["complete"] is True


def test_who_is_not_logged_in_is_refused(host: Gateway, calls: Calls, provider: Provider) -> None:
    answer = host.http.post("/llm/v1/chat/completions", json={"model": "gpt-4o", "messages": []})

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_key"
    assert provider.asked == []
    assert calls.one()["status"] == 401


def test_three_sdks_work_below_the_mount_point(host: Gateway, calls: Calls) -> None:
    base = f"{host.url}/llm"
    with openai.OpenAI(base_url=f"{base}/v1", api_key="sk-mine", default_headers=ADA) as client:
        with client.chat.completions.stream(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hello"}],
            stream_options={"include_usage": True},
        ) as stream:
            completion = stream.get_final_completion()
        models = [model.id for model in client.models.list()]
    with anthropic.Anthropic(base_url=base, api_key="sk-ant", default_headers=ADA) as claude:
        message = claude.messages.create(
            model="claude-sonnet-4-6",
            max_tokens=100,
            messages=[{"role": "user", "content": "hello"}],
        )
    gemini = genai.Client(
        api_key="AIza", http_options=types.HttpOptions(base_url=base, headers=ADA)
    )
    content = gemini.models.generate_content(model="gemini-2.5-flash", contents="hello")
    gemini.close()
    records = calls.new(4)

    assert completion.choices[0].message.content == wire.TEXT
    assert models == ["gpt-4o"]
    assert message.usage.output_tokens == wire.OUTPUT_TOKENS
    assert content.text == wire.TEXT
    assert [record["dialect"] for record in records] == ["openai", "openai", "anthropic", "gemini"]
    assert {record["tenant"] for record in records} == {"shop"}


def test_events_arrive_one_by_one(host: Gateway, calls: Calls, provider: Provider) -> None:
    events = wire.message_events("claude-sonnet-4-6")
    gates = [Gate() for _ in events]
    parts = [part for pair in zip(events, gates, strict=True) for part in pair]
    provider.script(Answer(parts, headers=SSE))
    body = {
        "model": "claude-sonnet-4-6",
        "max_tokens": 100,
        "stream": True,
        "messages": [{"role": "user", "content": "hello"}],
    }
    received = b""
    headers = ADA | {"x-api-key": "sk-ant", "accept-encoding": "gzip"}
    with host.http.stream("POST", "/llm/v1/messages", headers=headers, json=body) as answer:
        arriving = answer.iter_bytes()
        for number, gate in enumerate(gates, 1):
            while len(received) < len(b"".join(events[:number])):
                received += next(arriving)
            gate.open()
        received += b"".join(arriving)

    assert received == b"".join(events)
    assert "content-encoding" not in answer.headers
    assert calls.one()["complete"] is True


def test_the_provider_is_left_when_the_caller_leaves(
    host: Gateway, calls: Calls, provider: Provider
) -> None:
    first, *_ = wire.chat_events("gpt-4o")
    provider.script(Answer([first, Gate()], headers=SSE))
    body = wire.dumps({"model": "gpt-4o", "messages": [], "stream": True})
    connection = socket.create_connection(("127.0.0.1", host.port), timeout=10)
    connection.sendall(
        b"POST /llm/v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-User: ada\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    received = b""
    while b"data: " not in received:
        received += connection.recv(65536)
    with machine_lag() as lag:
        left_at = time.perf_counter()
        connection.close()
        took_s = provider.wait(lambda: provider.last.left_at) - left_at
    record = calls.one()

    assert took_s - lag.late_s < 0.25
    assert (record["client_left"], record["complete"]) == (True, False)


def test_records_are_written_when_the_host_stops(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nobody tells a mounted gateway that it is over; what is queued is written at exit."""
    with running_gateway(
        tmp_path_factory.mktemp("stopped"),
        all_at(provider.url),
        app="tests.mounted.apps:fastapi_app",
        arguments=["--factory"],
    ) as host:
        host.http.post(
            "/llm/v1/chat/completions",
            headers=ADA | {"authorization": "Bearer sk-mine"},
            json={"model": "gpt-4o", "messages": []},
        )
        host.stop()
        records = host.records()

    assert [record["status"] for record in records] == [200]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_model_server_loads_the_log_by_name(
    tmp_path_factory: pytest.TempPathFactory, stream: bool
) -> None:
    with (
        running_gateway(
            tmp_path_factory.mktemp("model-server"),
            {},
            app="tests.mounted.apps:model_server",
            arguments=["--factory"],
        ) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
    ):
        calls = Calls(server)
        if stream:
            with client.chat.completions.stream(
                model="gpt-4o",
                messages=[{"role": "user", "content": "hello"}],
                stream_options={"include_usage": True},
            ) as events:
                completion = events.get_final_completion()
        else:
            raw = client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hello"}]
            )
            assert raw.choices[0].message.content == wire.TEXT
        record = calls.one()

    if stream:
        assert completion.choices[0].message.content == wire.TEXT
    assert (record["model"], record["is_stream"], record["complete"]) == ("gpt-4o", stream, True)
    assert (record["input_tokens"], record["output_tokens"]) == (
        wire.INPUT_TOKENS,
        wire.OUTPUT_TOKENS,
    )
