from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from asgi_llmgate._asgi.respond import send_json
from asgi_llmgate.middleware.hygiene import HygieneMiddleware
from tests.asgi import call, http_scope

CANARY = "sk-canary-5up3r53cr37"
HOST = (b"host", b"testserver")


class App:
    """Answers 200 with the size of the body; remembers what it was called with."""

    def __init__(self, *, catches: bool = False, starts_first: bool = False) -> None:
        self.catches = catches
        self.starts_first = starts_first
        self.calls: list[tuple[Scope, Receive, Send]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append((scope, receive, send))
        if scope["type"] != "http":
            return
        if self.starts_first:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        size, more = 0, True
        while more:
            try:
                message = await receive()
            except Exception:
                if not self.catches:
                    raise
                await send_json(send, 500, {"error": "something went wrong"})
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send_json(send, 200, {"size": size})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.calls[0][0]["headers"])


BAD: dict[str, dict[str, Any]] = {
    "path": {"path": "/v1/../admin"},
    "raw path": {"path": "/v1/a/b", "raw_path": b"/v1/a%2Fb"},
    "query": {"query": "a\x00b"},
    "method": {"method": "TRACE"},
    "no host": {"headers": [(b"content-length", b"2")]},
    "malformed host": {"headers": {"host": "a/?x="}},
    "repeated header": {"headers": [HOST, (b"authorization", b"a"), (b"authorization", b"b")]},
    "underscore": {"headers": {"x_api_key": "a"}},
    "both framings": {"headers": {"transfer-encoding": "chunked"}},
    "length": {"headers": {"content-length": "+2"}},
    "compressed body": {"headers": {"content-encoding": "gzip"}},
    "too large": {"headers": {"content-length": "1000000000000"}},
}


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
async def test_what_is_refused_never_reaches_the_app(request_: dict[str, Any]) -> None:
    app = App()
    hygiene = HygieneMiddleware(app)
    exchange = await call(hygiene, **request_)

    assert app.calls == []
    assert exchange.status in (400, 413)
    assert exchange.headers["llmgate-error"] == "gateway"
    assert exchange.headers["llmgate-id"]
    assert exchange.headers["connection"] == "close"
    assert hygiene.refused.total() == 1


async def test_a_plain_request_is_passed_on_untouched() -> None:
    app = App()
    hygiene = HygieneMiddleware(app)
    seen: list[Message] = []
    exchange = await call(hygiene, on_message=seen.append)
    scope, receive, send = app.calls[0]

    assert exchange.status == 200
    assert scope is exchange.scope
    assert receive.__qualname__ == "call.<locals>.receive"
    assert send.__qualname__ == "call.<locals>.send"
    assert not hygiene.refused


@pytest.mark.parametrize(
    ("path", "headers", "shape"),
    [
        ("/v1/chat/completions", {}, {"error"}),
        ("/v1/messages", {}, {"type", "error", "request_id"}),
        ("/v1beta/models/x:generateContent", {}, {"error"}),
        ("/model/x/converse", {}, {"message"}),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, {"type", "error", "request_id"}),
    ],
)
async def test_a_refusal_is_in_the_callers_dialect(
    path: str, headers: dict[str, str], shape: set[str]
) -> None:
    exchange = await call(
        HygieneMiddleware(App()), path=path, headers={**headers, "content-encoding": "br"}
    )

    assert exchange.json().keys() == shape
    assert "without Content-Encoding" in exchange.body.decode()


async def test_http_2_has_no_connection_header() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("a refused request is not read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {**http_scope("/v1//models", [HOST], method="GET"), "http_version": "2"}
    await HygieneMiddleware(App())(scope, receive, send)

    assert sent[0]["status"] == 400
    assert b"connection" not in dict(sent[0]["headers"])


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("a refused request is not read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = http_scope("/v1/chat/completions", [HOST, (b"content-length", b"11")])
    await HygieneMiddleware(App(), max_body_bytes=10)(scope, receive, send)

    assert sent[0]["status"] == 413


CHUNKED = [HOST, (b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")]


@pytest.mark.parametrize("catches", [False, True], ids=["lets it pass", "answers 500 for it"])
async def test_a_body_of_unknown_length_is_cut_off_when_it_is_too_large(catches: bool) -> None:
    app = App(catches=catches)
    hygiene = HygieneMiddleware(app, max_body_bytes=10)
    exchange = await call(hygiene, [b"12345"] * 3, headers=CHUNKED)

    assert exchange.status == 413
    assert exchange.json()["error"]["code"] == "body_too_large"
    assert hygiene.refused == {"body_too_large": 1}


async def test_a_body_of_unknown_length_may_be_as_large_as_the_limit() -> None:
    exchange = await call(
        HygieneMiddleware(App(), max_body_bytes=10), [b"12345"] * 2, headers=CHUNKED
    )

    assert exchange.status == 200
    assert exchange.json() == {"size": 10}


async def test_an_upload_of_unknown_length_has_the_large_limit() -> None:
    headers = [*CHUNKED[:2], (b"content-type", b"multipart/form-data; boundary=x")]
    app = HygieneMiddleware(App(), max_body_bytes=10, max_upload_bytes=15)

    assert (await call(app, [b"12345"] * 3, headers=headers)).status == 200
    assert (await call(app, [b"12345"] * 4, headers=headers)).status == 413


async def test_an_answer_that_has_begun_is_not_replaced() -> None:
    app = HygieneMiddleware(App(starts_first=True), max_body_bytes=10)
    statuses: list[int] = []

    def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    with pytest.raises(Exception, match="larger than 10 bytes"):
        await call(app, [b"12345"] * 3, headers=CHUNKED, on_message=note)

    assert statuses == [200]


async def test_an_app_that_fails_by_itself_is_not_called_too_large() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await call(HygieneMiddleware(broken), [b"1"], headers=CHUNKED)


async def test_starlette_answers_413_and_not_500() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/upload", endpoint, methods=["POST"])])
    exchange = await call(
        HygieneMiddleware(app, max_body_bytes=10),
        [b"12345"] * 3,
        path="/upload",
        headers=CHUNKED,
    )

    assert exchange.status == 413


async def test_headers_with_underscores_are_left_out_and_counted() -> None:
    app = App()
    hygiene = HygieneMiddleware(app)
    await call(hygiene, headers={"session_id": "1", "conversation_id": "2", "x-title": "3"})

    assert {name for name, _ in app.headers} == {
        b"host",
        b"content-type",
        b"content-length",
        b"x-title",
    }
    assert hygiene.dropped_headers == 2


async def test_names_reach_the_app_in_lower_case() -> None:
    app = App()
    await call(HygieneMiddleware(app), b"", headers=[(b"Host", b"a"), (b"X-Api-Key", b"k")])

    assert app.headers == [(b"host", b"a"), (b"x-api-key", b"k")]


@pytest.mark.parametrize("scope_type", ["websocket", "lifespan"])
async def test_other_traffic_passes(scope_type: str) -> None:
    app = App()
    scope = {"type": scope_type, "path": "//", "headers": []}

    async def never() -> Message:
        raise AssertionError("not called")

    async def send(message: Message) -> None:
        raise AssertionError("not called")

    await HygieneMiddleware(app)(scope, never, send)

    assert app.calls[0][0] is scope


async def test_a_server_without_raw_paths_will_do() -> None:
    app = App()
    hygiene = HygieneMiddleware(app)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    for path in ("/v1/models", "/v1/../admin"):
        scope = http_scope(path, [HOST], method="GET")
        del scope["raw_path"]
        await hygiene(scope, receive, send)

    assert [message["status"] for message in sent if "status" in message] == [200, 400]


@pytest.mark.parametrize(
    ("path", "raw_path", "status"),
    [
        ("/llm/v1/models/a/b", b"/llm/v1/models/a%2Fb", 200),
        ("/llm/v1/files/a/b", b"/llm/v1/files/a%2Fb", 400),
        ("/llm/v1/../x", b"/llm/v1/%2e%2e/x", 400),
    ],
)
async def test_below_a_mount_the_same_paths_are_plain(
    path: str, raw_path: bytes, status: int
) -> None:
    app = Starlette(routes=[Mount("/llm", HygieneMiddleware(App()))])

    assert (await call(app, path=path, raw_path=raw_path)).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [("gate.test", 200), ("gate.test:8000", 200), ("a.corp.test", 200), ("evil.test", 400)],
)
async def test_hosts_can_be_limited(host: str, status: int) -> None:
    app = HygieneMiddleware(App(), allowed_hosts=["Gate.test", "*.corp.test"])

    assert (await call(app, headers={"host": host})).status == status


async def test_nothing_of_a_request_is_shown_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    exchanges = [
        await call(
            HygieneMiddleware(App()),
            path=f"/v1/../{CANARY}",
            query=f"key={CANARY}",
            headers={"authorization": f"Bearer {CANARY}"},
        ),
        await call(HygieneMiddleware(App()), headers={"host": f"{CANARY}@a"}),
        await call(HygieneMiddleware(App()), headers={"content-length": CANARY}),
        await call(HygieneMiddleware(App()), headers={"transfer-encoding": CANARY}),
        await call(HygieneMiddleware(App()), headers={"x-a": f"{CANARY}\x00"}),
        await call(HygieneMiddleware(App()), method=CANARY),
    ]

    assert {exchange.status for exchange in exchanges} == {400}
    assert len(caplog.records) == len(exchanges)
    assert CANARY not in caplog.text
    assert CANARY.encode() not in b"".join(
        exchange.body + repr(exchange.messages[0]).encode() for exchange in exchanges
    )
