"""Calls the gateway does not understand pass byte by byte."""

from __future__ import annotations

import hashlib
import io
import random
import socket
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests import wire
from tests.e2e.conftest import Calls
from tests.provider import Answer, Provider
from tests.servers import Gateway

MIB = 1024 * 1024


@pytest.fixture
def client(gateway: Gateway, provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-mine") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/providers/openai/models", "/v1/models"),
        ("/providers/openai/v1/models", "/v1/models"),
        ("/providers/openai/models/meta-llama%2FLlama-3", "/v1/models/meta-llama%2FLlama-3"),
        ("/providers/openai/x?a=1&b=%20c&a=2&d", "/v1/x?a=1&b=%20c&a=2&d"),
        ("/providers/openai/a%20b/%C3%A9/c+d", "/v1/a%20b/%C3%A9/c+d"),
        ("/providers/google/models", "/v1beta/models"),
        ("/v1/models/meta-llama%2FLlama-3", "/v1/models/meta-llama%2FLlama-3"),
    ],
)
def test_a_path_is_forwarded_as_it_was_written(
    gateway: Gateway, provider: Provider, path: str, target: str
) -> None:
    # Google's own API takes no Bearer key, but has a second one below it that does.
    google = "google" in path
    credential = "X-Goog-Api-Key: AIza-mine" if google else "Authorization: Bearer sk-mine"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\n{credential}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (provider.last.method, provider.last.target) == ("GET", target)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_call_never_reaches_what_an_earlier_one_named(
    http: httpx.Client, provider: Provider, method: str
) -> None:
    paths = ["/v1/files/one", "/v1/files/two", "/v1/responses/one", "/v1/responses/two"]
    for path in paths:
        http.request(method, path)

    assert [asked.target for asked in provider.asked] == paths


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_body_is_forwarded_byte_by_byte(
    http: httpx.Client, calls: Calls, provider: Provider, method: str
) -> None:
    body = b'\xef\xbb\xbf{ "model" :\t"x", "model": 1e400, "n": 12345678901234567890123, not json'
    reply = bytes(range(256)) * 5
    headers = {"Content-Type": "application/x-unknown", "X-Of-The-Provider": "yes"}
    provider.script(Answer([reply], 201, headers))
    answer = http.request(
        method,
        "/providers/openai/anything",
        content=body,
        headers={"content-type": "application/json; charset=utf-8"},
    )
    record = calls.one()

    assert bytes(provider.last.body) == body
    assert provider.last.method == method
    assert provider.last.header("content-type") == "application/json; charset=utf-8"
    assert (answer.status_code, answer.content) == (201, reply)
    assert answer.headers["x-of-the-provider"] == "yes"
    assert (record["provider"], record["status"]) == ("openai", 201)
    assert (record["request_bytes"], record["response_bytes"]) == (len(body), len(reply))


def test_a_call_that_is_passed_through_is_metered_where_it_can_be(
    http: httpx.Client, calls: Calls
) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    http.post("/providers/openai/chat/completions", json=body)
    record = calls.one()

    assert record["model"] == "gpt-4o"
    assert record["input_tokens"] == wire.INPUT_TOKENS
    assert record["output_tokens"] == wire.OUTPUT_TOKENS


def test_a_big_upload_arrives_whole(
    client: openai.OpenAI, calls: Calls, provider: Provider
) -> None:
    content = random.Random(7).randbytes(20 * MIB)
    reply = {"id": "file-1", "object": "file", "bytes": len(content), "created_at": 1}
    reply |= {"filename": "a.jsonl", "purpose": "batch", "status": "processed"}
    provider.script(Answer([wire.dumps(reply)]))
    file = client.files.create(file=("a.jsonl", io.BytesIO(content)), purpose="batch")
    record = calls.one()

    assert file.id == "file-1"
    assert content in provider.last.body
    assert str(provider.last.header("content-type")).startswith("multipart/form-data; boundary=")
    assert record["request_bytes"] == len(provider.last.body)
    assert record["request_body"] is None


def test_an_upload_is_passed_on_while_it_is_still_arriving(
    http: httpx.Client, provider: Provider
) -> None:
    piece = random.Random(8).randbytes(MIB)

    def body() -> Iterator[bytes]:
        yield piece
        # Deadlocks, if the gateway waits for the rest of the body.
        provider.wait(lambda: provider.asked and len(provider.last.body) >= MIB - 65536)
        for _ in range(3):
            yield piece

    answer = http.post(
        "/v1/files",
        content=body(),
        headers={
            "content-type": "multipart/form-data; boundary=x",
            "content-length": str(4 * MIB),
        },
    )

    assert answer.status_code == 200
    assert hashlib.sha256(provider.last.body).digest() == hashlib.sha256(4 * piece).digest()


def test_sound_comes_back_as_it_is(client: openai.OpenAI, calls: Calls, provider: Provider) -> None:
    sound = random.Random(9).randbytes(300_000)
    provider.script(Answer([sound], headers={"Content-Type": "audio/mpeg"}))
    answer = client.audio.speech.create(model="tts-1", voice="alloy", input="hello")
    record = calls.one()

    assert answer.content == sound
    assert provider.last.target == "/v1/audio/speech"
    assert (record["status"], record["complete"]) == (200, True)
    assert record["response_bytes"] == len(sound)


def test_sound_is_transcribed(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(Answer([b'{"text": "hello"}']))
    sound = random.Random(10).randbytes(10_000)
    answer = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound))

    assert answer.text == "hello"
    assert provider.last.target == "/v1/audio/transcriptions"
    assert sound in provider.last.body


def test_a_head_request_has_no_body(http: httpx.Client, provider: Provider) -> None:
    answer = http.head("/providers/openai/models")

    assert (answer.status_code, answer.content) == (200, b"")
    assert provider.last.method == "HEAD"


HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "model",
    ["openai/gpt-4o", "gpt-4o/openai"],
)
def test_a_model_may_name_its_provider(
    http: httpx.Client, calls: Calls, provider: Provider, model: str
) -> None:
    http.post("/v1/chat/completions", json={"model": model, "messages": HELLO})
    record = calls.one()

    assert provider.last.json()["model"] == "gpt-4o"
    assert (record["provider"], record["model"]) == ("openai", "gpt-4o")
    assert record["model_requested"] == model


def test_paths_work_without_the_version(http: httpx.Client, provider: Provider) -> None:
    answer = http.post("/chat/completions", json={"model": "gpt-4o", "messages": HELLO})

    assert answer.status_code == 200
    assert provider.last.target == "/v1/chat/completions"
