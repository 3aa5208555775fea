"""A provider that breaks off, redirects or keeps silent never looks like a good answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import errors, types

from tests import wire
from tests.e2e.conftest import BEARER, Calls
from tests.e2e.test_streaming import CHAT, GEMINI, GEMINI_PATH, MESSAGE, MESSAGES, STREAMS
from tests.provider import JSON, SSE, Answer, End, Gate, Provider
from tests.servers import Gateway, base_urls, running_gateway

PLAIN = {"model": "gpt-4o", "messages": MESSAGES}


def last_event(body: bytes) -> dict[str, object]:
    """Return the data of the last event of a stream."""
    lines = body.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n\n")[-1].splitlines()
    value: dict[str, object] = wire.loads(lines[-1].removeprefix(b"data: "))
    return value


@pytest.mark.parametrize("end", [End.RESET, End.CLOSE, None], ids=["reset", "close", "clean end"])
@pytest.mark.parametrize("name", ["openai-chat", "openai-responses", "anthropic", "gemini"])
def test_a_stream_that_breaks_off_ends_in_an_error_event(
    http: httpx.Client, calls: Calls, provider: Provider, name: str, end: End | None
) -> None:
    path, body, events = STREAMS[name]
    kept = events[: len(events) // 2]
    gate = Gate()
    provider.script(Answer([*kept, gate, *([end] if end else [])], headers=SSE))
    with http.stream("POST", path, json=body) as answer:
        received = b""
        arriving = answer.iter_raw()
        while len(received) < len(b"".join(kept)):
            received += next(arriving)
        gate.open()  # Not before: a reset throws away what was not read yet.
        received += b"".join(arriving)
    error = last_event(received)
    record = calls.one()

    assert received.startswith(b"".join(kept))
    assert error.get("type") == "error" or "error" in error
    assert (record["status"], record["complete"]) == (200, False)
    assert record["usage_estimated"] is True
    assert record["output_tokens"] > 0


def break_off(provider: Provider, events: list[bytes]) -> None:
    provider.script(Answer([*events, End.CLOSE], headers=SSE))


def test_the_openai_sdk_raises(gateway: Gateway, provider: Provider) -> None:
    break_off(provider, wire.chat_events("gpt-4o")[:2])
    base_url = f"{gateway.url}/v1"
    with (
        openai.OpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client,
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hello"}], stream=True
        ) as stream,
        pytest.raises(openai.APIError),
    ):
        list(stream)


def test_the_openai_sdk_raises_for_responses(gateway: Gateway, provider: Provider) -> None:
    break_off(provider, wire.response_events("gpt-4o")[:4])
    base_url = f"{gateway.url}/v1"
    with (
        openai.OpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client,
        client.responses.create(model="gpt-4o", input="hello", stream=True) as stream,
        pytest.raises(openai.APIError),
    ):
        list(stream)


def test_the_anthropic_sdk_raises(gateway: Gateway, provider: Provider) -> None:
    break_off(provider, wire.message_events("claude-sonnet-4-6")[:4])
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="sk-mine", max_retries=0) as client,
        client.messages.stream(
            model="claude-sonnet-4-6",
            max_tokens=100,
            messages=[{"role": "user", "content": "hello"}],
        ) as stream,
        pytest.raises(anthropic.APIError),
    ):
        stream.until_done()


def test_the_google_sdk_raises(gateway: Gateway, provider: Provider) -> None:
    break_off(provider, wire.gemini_events("gemini-2.5-flash")[:1])
    options = types.HttpOptions(base_url=gateway.url)
    client = genai.Client(api_key="AIza-mine", http_options=options)
    with pytest.raises(errors.APIError):
        list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="hello"))
    client.close()


def test_a_plain_answer_that_breaks_off_is_not_delivered_as_whole(
    http: httpx.Client, calls: Calls, provider: Provider
) -> None:
    body = wire.chat_body("gpt-4o")
    headers = JSON | {"Content-Length": str(len(body))}
    provider.script(Answer([body[:100], End.CLOSE], headers=headers))
    try:
        answer = http.post("/v1/chat/completions", json=PLAIN)
    except httpx.RemoteProtocolError:
        pass  # Cut off here, too: as good as an error.
    else:
        assert answer.status_code == 502
    record = calls.one()

    assert record["complete"] is False


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_neither_followed_nor_shown(
    http: httpx.Client, calls: Calls, provider: Provider, status: int
) -> None:
    headers = {"Location": f"{provider.url}/elsewhere", "Content-Type": "text/plain"}
    provider.script(Answer([b"over there"], status, headers))
    answer = http.post("/v1/chat/completions", json=PLAIN)

    assert answer.status_code == 502
    assert answer.headers["llmgate-error"] == "gateway"
    assert "location" not in answer.headers
    assert len(provider.asked) == 1
    assert calls.one()["status"] == 502


def test_a_provider_that_hangs_up_without_a_word_is_a_502(
    http: httpx.Client, calls: Calls, provider: Provider
) -> None:
    # Twice: a request on a connection that was kept alive may be sent again.
    provider.script(Answer([End.RESET], 0), Answer([End.RESET], 0))
    answer = http.post("/v1/chat/completions", json=PLAIN)

    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_connect"
    assert calls.one()["error_code"] == "upstream_connect"


@pytest.fixture(scope="module")
def hurried(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with short timers. Nobody listens where its Google is."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    url = provider_server.url
    env = base_urls(f"{url}/v1", f"{url}/v1", f"{nobody}/v1beta") | {
        "LLMGATE_UPSTREAM__TIMEOUTS__FIRST_BYTE": "0.4",
        "LLMGATE_UPSTREAM__TIMEOUTS__FIRST_BYTE_STREAM": "0.4",
        "LLMGATE_UPSTREAM__TIMEOUTS__IDLE": "0.4",
    }
    with running_gateway(tmp_path_factory.mktemp("hurried"), env) as gateway:
        yield gateway


@pytest.mark.parametrize("body", [PLAIN, CHAT], ids=["plain", "stream"])
def test_a_provider_that_does_not_begin_in_time_is_a_504(
    hurried: Gateway, provider: Provider, body: dict[str, object]
) -> None:
    calls = Calls(hurried)
    provider.script(Answer([Gate()], 0))
    answer = hurried.http.post("/v1/chat/completions", headers=BEARER, json=body)

    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"
    assert calls.one()["error_code"] == "upstream_timeout"


def test_a_stream_that_pauses_too_long_ends_in_an_error_event(
    hurried: Gateway, provider: Provider
) -> None:
    calls = Calls(hurried)
    events = wire.message_events("claude-sonnet-4-6")[:5]
    provider.script(Answer([*events, Gate()], headers=SSE))
    answer = hurried.http.post("/v1/messages", headers=BEARER, json=MESSAGE)

    assert last_event(answer.content)["type"] == "error"
    assert provider.wait(lambda: provider.last.left_at)
    assert calls.one()["complete"] is False


def test_a_provider_that_nobody_answers_for_is_a_502(hurried: Gateway) -> None:
    calls = Calls(hurried)
    answer = hurried.http.post(
        f"{GEMINI_PATH}", headers={"x-goog-api-key": "AIza-mine"}, json=GEMINI
    )

    assert answer.status_code == 502
    assert answer.json()["error"]["details"][0]["reason"] == "UPSTREAM_CONNECT"
    assert calls.one()["error_code"] == "upstream_connect"
