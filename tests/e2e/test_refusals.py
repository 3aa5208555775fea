"""What cannot pass is refused clearly, in the caller's dialect, before any provider hears of it."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests import wire
from tests.provider import Provider
from tests.servers import Gateway

HELLO = [{"role": "user", "content": "hello"}]
ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "code"),
    [
        ("/v1/chat/completions", {}, b"{not json", 400, "invalid_json"),
        ("/v1/chat/completions", {}, b"[1]", 400, "invalid_json"),
        ("/v1/chat/completions", {}, b"", 400, "invalid_json"),
        ("/v1/chat/completions", {}, b'{"messages":[]}', 400, "missing_model"),
        ("/v1/chat/completions", {}, b'{"model":7}', 400, "missing_model"),
        (
            "/v1/images/generations",
            {"LLMGate-Provider": "anthropic"},
            None,
            400,
            "translation_unavailable",
        ),
        ("/v1/chat/completions", {"LLMGate-Provider": "nope"}, None, 400, "unknown_provider"),
        ("/providers/nope/models", {}, None, 400, "unknown_provider"),
        ("/v1/chat/completions", {"LLMGate-Chache-Enabled": "true"}, None, 400, "invalid_header"),
        ("/v1/chat/completions", {"LLMGate-Cache-Enabled": "maybe"}, None, 400, "invalid_header"),
        ("/v1/nowhere", {}, None, 404, "unknown_route"),
        ("/", {}, None, 404, "unknown_route"),
    ],
)
def test_what_cannot_be_done_is_said_and_reaches_no_provider(
    http: httpx.Client,
    provider: Provider,
    path: str,
    headers: dict[str, str],
    body: bytes | None,
    status: int,
    code: str,
) -> None:
    content = body if body is not None else wire.dumps({"model": "gpt-4o", "messages": HELLO})
    answer = http.post(path, content=content, headers=headers)
    error = answer.json()["error"]

    assert answer.status_code == status
    assert (error.get("code") or error["details"]["error_code"]) == code
    assert error["message"]
    assert answer.headers["llmgate-error"] == "gateway"
    assert answer.headers["llmgate-id"]
    assert provider.asked == []


@pytest.mark.parametrize(
    ("path", "headers", "shape"),
    [
        ("/v1/nowhere", {}, {"error"}),
        ("/v1/nowhere", ANTHROPIC, {"type", "error", "request_id"}),
        ("/v1/nowhere", {"x-goog-api-key": "AIza"}, {"error"}),
    ],
    ids=["openai", "anthropic", "gemini"],
)
def test_an_unknown_route_is_told_in_the_callers_dialect(
    http: httpx.Client, path: str, headers: dict[str, str], shape: set[str]
) -> None:
    answer = http.post(path, headers=headers)
    error = answer.json()["error"]

    assert answer.status_code == 404
    assert set(answer.json()) == shape
    if "x-goog-api-key" in headers:
        assert (error["code"], error["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "request_line_and_headers",
    [
        b"GET /v1/%2e%2e/models HTTP/1.1\r\nHost: x\r\n",
        b"GET /v1//models HTTP/1.1\r\nHost: x\r\n",
        b"GET /v1/models%00 HTTP/1.1\r\nHost: x\r\n",
        b"GET /v1/chat%2Fcompletions HTTP/1.1\r\nHost: x\r\n",
        b"GET /v1/models HTTP/1.1\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n",
        b"POST /v1/files HTTP/1.1\r\nHost:x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer b\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
        + b"".join(b"X-%d: y\r\n" % n for n in range(100)),
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: " + 33 * 1024 * b"x" + b"\r\n",
        b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n",
    ],
    ids=[
        "dot segment",
        "double slash",
        "nul",
        "encoded slash",
        "no host",
        "two hosts",
        "two lengths",
        "two credentials",
        "many headers",
        "long headers",
        "unknown method",
    ],
)
def test_what_two_servers_may_read_differently_is_refused(
    gateway: Gateway, provider: Provider, request_line_and_headers: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(
            request_line_and_headers + b"Authorization: Bearer sk-mine\r\nConnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert provider.asked == []
