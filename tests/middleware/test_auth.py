from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate._asgi.respond import send_error, send_json
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.errors import (
    AuthenticationError,
    ClientDisconnectedError,
    ConfigurationError,
    GatewayError,
    LimitExceededError,
)
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware.auth import AuthMiddleware
from asgi_llmgate.protocols import Authenticate
from asgi_llmgate.types import Principal, PrincipalKind
from tests.asgi import call

PAGE = Path(__file__).parent.parent.parent / "docs" / "auth.md"

CANARY = "sk-canary-5up3r53cr37"
SECRET = b"s" * 32
PREFIXED, PLAIN = "lg_acme_0123456789", "house-key-0123456789"
KEYS = {"acme": PREFIXED}
ALICE = Principal(tenant="shop", kind=PrincipalKind.HOST, id="alice")

PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-3:generateContent",
    "azure": "/openai/deployments/x/chat/completions",
    "bedrock": "/model/x/converse",
}
HEADERS = {
    "openai": ("authorization", "x-api-key"),
    "anthropic": ("x-api-key", "authorization"),
    "gemini": ("x-goog-api-key", "authorization"),
    "azure": ("api-key", "authorization"),
    "bedrock": ("authorization", "x-api-key"),
}


class App:
    """Answers 200; remembers the context it was called in."""

    def __init__(self) -> None:
        self.contexts: list[GatewayContext | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.contexts.append(scope.get("llmgate"))
        await send_json(send, 200, {})

    @property
    def context(self) -> GatewayContext:
        assert self.contexts
        assert self.contexts[-1] is not None
        return self.contexts[-1]

    @property
    def key(self) -> str | None:
        """The caller's own provider key."""
        key = self.context.caller_key
        return None if key is None else key.key.reveal()


def login(request: HTTPConnection) -> Principal | None:
    """Log alice in by a header, by a cookie, or by a token in any header of a provider."""
    given = request.headers.get("x-login")
    if given == "broken":
        raise RuntimeError(f"cannot read {CANARY}")
    if given == "wrong":
        raise AuthenticationError("This login has expired.")
    if given == "alice":
        return ALICE
    if request.cookies.get("session") == "alice":
        return Principal(tenant="shop", kind=PrincipalKind.HOST, id="alice", from_cookie=True)
    tokens = {request.headers.get(name, "") for name in ("authorization", "x-api-key", "api-key")}
    tokens.add(request.headers.get("x-goog-api-key", ""))
    return ALICE if tokens & {"alice-token", "Bearer alice-token"} else None


# --- the table of docs/auth.md


@dataclass(frozen=True)
class Row:
    """One row: what is sent, and what must come of it. Empty is nothing."""

    mode: str
    llmgate: str
    helicone: str
    login: str
    sent: str
    caller: str
    paid_with: str
    answer: str

    def __str__(self) -> str:
        cells = (self.mode, self.llmgate, self.helicone, self.login, self.sent)
        return " | ".join(cell or "-" for cell in cells)


def rows() -> list[Row]:
    lines = PAGE.read_text().split("## Cell by cell")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    return [Row(*row) for row in cells[2:]]


LOGINS: dict[str, dict[str, str]] = {
    "": {},
    "alice": {"x-login": "alice"},
    "wrong": {"x-login": "wrong"},
    "broken": {"x-login": "broken"},
    "alice by cookie, same site": {"cookie": "session=alice", "sec-fetch-site": "same-origin"},
    "alice by cookie, other site": {"cookie": "session=alice", "sec-fetch-site": "cross-site"},
}
SENT: dict[str, tuple[str, ...]] = {
    "": (),
    "provider key": ("sk-own",),
    "two provider keys": ("sk-own", "sk-other"),
    "unknown lg_ key": ("lg_unknown",),
    "acme's key": ("ACME",),
    "acme's key, provider key": ("ACME", "sk-own"),
    "acme's key, unknown lg_ key": ("ACME", "lg_unknown"),
    "alice's token": ("alice-token",),
}


def request_of(row: Row, dialect: str, acme: str) -> dict[str, str]:
    explicit = {"acme's key": f"Bearer {acme}", "unknown": "Bearer sk-helicone-x", "empty": ""}
    headers = dict(LOGINS[row.login])
    if row.llmgate:
        headers["LLMGate-Auth"] = explicit[row.llmgate]
    if row.helicone:
        headers["Helicone-Auth"] = explicit[row.helicone]
    for name, key in zip(HEADERS[dialect], SENT[row.sent], strict=False):
        value = acme if key == "ACME" else key
        headers[name] = f"Bearer {value}" if name == "authorization" else value
    return headers


def test_the_table_is_read_whole() -> None:
    assert len(rows()) >= 50
    assert {row.mode for row in rows()} == {"required", "passthrough"}


CELLS = [
    (row, dialect)
    for row in rows()
    for dialect in PATHS
    # With one header there is nothing to confuse.
    if row.sent != "two provider keys" or dialect not in ("openai", "bedrock")
]


@pytest.mark.parametrize("acme", [PREFIXED, PLAIN], ids=["lg_ key", "other key"])
@pytest.mark.parametrize(("row", "dialect"), CELLS, ids=str)
async def test_the_credential_rule_holds_cell_by_cell(row: Row, dialect: str, acme: str) -> None:
    app = App()
    auth = AuthMiddleware(
        app,
        keys={"acme": acme},
        authenticate=login,
        mode="required" if row.mode == "required" else "passthrough",
        secret=SECRET,
    )
    exchange = await call(
        in_gateway(auth), path=PATHS[dialect], headers=request_of(row, dialect, acme)
    )

    if row.answer != "200":
        assert row.answer == f"{exchange.status} {exchange.scope['llmgate'].error_code}"
        assert app.contexts == []
        return
    assert exchange.status == 200
    assert row.caller == caller_of(app.context)
    assert row.paid_with == paid_with(app.context)
    assert app.key == ("sk-own" if row.paid_with == "caller's key" else None)
    is_noted = "Helicone-Auth is not a key" in str(app.context.warnings)
    assert is_noted == (row.mode == "passthrough" and row.helicone in ("unknown", "empty"))


def caller_of(context: GatewayContext) -> str:
    principal = context.principal
    if principal is None:
        return ""
    if principal.kind is PrincipalKind.BYOK:
        assert re.fullmatch(r"byok:[0-9a-f]{16}", principal.tenant)
        return "byok"
    return f"{principal.kind} {principal.id}"


def paid_with(context: GatewayContext) -> str:
    """Tell with what dispatch pays the provider, given what auth told it."""
    if context.caller_key is not None:
        return "caller's key"
    principal = context.principal
    is_known = principal is not None and principal.kind is not PrincipalKind.BYOK
    return "pooled key" if is_known else "nothing"


def in_gateway(auth: AuthMiddleware) -> ASGIApp:
    """Stand for the gateway: every path is ours, and errors are answered outside."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        route = match_route(scope["method"], scope["path"], scope["raw_path"], {})
        assert route is not None
        context = scope["llmgate"] = GatewayContext(scope, receive, route)
        try:
            await auth(scope, receive, send)
        except GatewayError as error:
            await send_error(error, context, send)

    return app


# --- modes


async def status_of(auth: AuthMiddleware, *, key: str | None = None) -> int:
    return (await call(auth, key=key)).status


async def test_auto_lets_everybody_in_where_there_is_neither_key_nor_login() -> None:
    auth = AuthMiddleware(App())

    assert not auth.is_required
    assert await status_of(auth) == 200


@pytest.mark.parametrize("by", ["key", "login"])
async def test_auto_requires_a_credential_once_there_is_a_key_or_a_login(by: str) -> None:
    given = (
        AuthMiddleware(App(), keys=KEYS)
        if by == "key"
        else AuthMiddleware(App(), authenticate=login)
    )

    assert given.is_required
    assert await status_of(given) == 401
    assert await status_of(given, key="sk-own") == 401


async def test_required_without_any_key_refuses_everybody() -> None:
    auth = AuthMiddleware(App(), mode="required")

    assert await status_of(auth) == 401
    assert await status_of(auth, key="lg_any") == 401


# --- what a refusal says


@pytest.mark.parametrize(
    ("dialect", "header"),
    [
        ("openai", "Authorization: Bearer"),
        ("anthropic", "x-api-key"),
        ("gemini", "x-goog-api-key"),
        ("azure", "api-key"),
    ],
)
async def test_a_refusal_names_the_header_to_send(dialect: str, header: str) -> None:
    auth = in_gateway(AuthMiddleware(App(), keys=KEYS))
    exchange = await call(auth, path=PATHS[dialect])

    assert exchange.status == 401
    assert header in exchange.body.decode()
    assert "LLMGate-Auth" in exchange.body.decode()
    assert exchange.headers["llmgate-error"] == "gateway"


async def test_a_refusal_speaks_of_a_login_only_where_there_is_one() -> None:
    without = await call(AuthMiddleware(App(), keys=KEYS))
    with_login = await call(AuthMiddleware(App(), keys=KEYS, authenticate=login))

    assert "log in" not in without.body.decode()
    assert "log in" in with_login.body.decode()


# --- logins


async def principal_by(*logins: Authenticate) -> Principal | None:
    app = App()
    await call(AuthMiddleware(app, authenticate=logins, mode="passthrough"))
    return app.context.principal


async def test_a_login_may_be_async() -> None:
    async def slow(request: HTTPConnection) -> Principal | None:
        await asyncio.sleep(0)
        return ALICE

    assert await principal_by(slow) == ALICE


async def test_the_first_login_that_knows_the_caller_counts() -> None:
    bob = Principal(tenant="other", kind=PrincipalKind.HOST, id="bob")

    assert await principal_by(lambda _: None, lambda _: ALICE, lambda _: bob) == ALICE


@pytest.mark.parametrize(
    "answer",
    [
        True,
        "alice",
        {"tenant": "shop"},
        Principal(tenant="byok:0123456789abcdef", kind=PrincipalKind.HOST, id="alice"),
    ],
    ids=["true", "a name", "a dict", "the tenant of a byok caller"],
)
async def test_a_login_that_returns_nonsense_lets_nobody_in(answer: object) -> None:
    app = App()
    broken = cast("Authenticate", lambda _: answer)
    exchange = await call(AuthMiddleware(app, authenticate=broken, mode="passthrough"))

    assert exchange.status == 503
    assert app.contexts == []


@pytest.mark.parametrize(
    "error", [ValueError(CANARY), ClientDisconnectedError(CANARY), KeyError(CANARY)]
)
async def test_a_login_that_fails_lets_nobody_in_and_shows_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: HTTPConnection) -> Principal | None:
        raise error

    app = App()
    exchange = await call(AuthMiddleware(app, authenticate=broken, mode="passthrough"))

    assert exchange.status == 503
    assert exchange.headers["retry-after"] == "1"
    assert app.contexts == []
    assert CANARY not in exchange.body.decode()
    # Where it failed is logged, what it said is not.
    assert type(error).__name__ in caplog.text
    assert "test_auth.py" in caplog.text
    assert CANARY not in caplog.text


async def test_a_login_may_answer_with_any_error_of_the_gateway() -> None:
    def limited(request: HTTPConnection) -> Principal | None:
        raise LimitExceededError("Too many logins.")

    assert await status_of(AuthMiddleware(App(), authenticate=limited)) == 429


async def test_a_cancelled_login_stays_cancelled() -> None:
    async def cancelled(request: HTTPConnection) -> Principal | None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await call(AuthMiddleware(App(), authenticate=cancelled))


async def test_a_login_never_sees_a_gateway_key() -> None:
    seen: list[str] = []

    def spying(request: HTTPConnection) -> Principal | None:
        seen.append(f"{request.headers} {request.url.query}")
        return None

    auth = AuthMiddleware(App(), keys=KEYS, authenticate=spying)
    exchange = await call(
        in_gateway(auth),
        path=PATHS["gemini"],
        query=f"key={PREFIXED}&alt=sse",
        headers={"x-api-key": "sk-own"},
    )

    assert exchange.status == 200
    assert seen
    assert PREFIXED not in "".join(seen)
    assert "alt=sse" in seen[0]


async def test_the_request_itself_keeps_what_a_login_did_not_see() -> None:
    app = App()
    auth = AuthMiddleware(app, keys=KEYS, authenticate=login)
    exchange = await call(auth, key=PREFIXED, headers={"x-login": "alice"})

    assert (b"authorization", f"Bearer {PREFIXED}".encode()) in exchange.scope["headers"]


async def test_the_token_of_a_login_that_ran_before_is_not_sent_to_a_provider() -> None:
    app = App()
    auth = AuthMiddleware(app, authenticate=lambda request: request.scope["user"])
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln"

    async def host(scope: Scope, receive: Receive, send: Send) -> None:
        await auth({**scope, "user": ALICE}, receive, send)

    await call(host, key=token)

    assert app.context.principal == ALICE
    assert app.key is None
    assert "Authorization held the token of a login" in str(app.context.warnings)


@pytest.mark.parametrize(
    ("login_headers", "key"),
    [((), "opaque-token"), (["Authorization"], None), (["X-Api-Key"], "opaque-token")],
)
async def test_a_header_of_the_login_holds_no_provider_key(
    login_headers: list[str], key: str | None
) -> None:
    app = App()
    auth = AuthMiddleware(app, authenticate=lambda _: ALICE, login_headers=login_headers)
    await call(auth, key="opaque-token")

    assert app.key == key


async def test_a_login_and_a_provider_key_may_be_in_two_headers_of_one_dialect() -> None:
    app = App()
    auth = AuthMiddleware(app, authenticate=login, login_headers=["x-api-key"])
    headers = {"x-api-key": "alice-token", "authorization": "Bearer sk-own"}
    await call(auth, path="/v1/messages", headers=headers)

    assert app.context.principal == ALICE
    assert app.key == "sk-own"


# --- pages of other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "https://app.example.com"}, 200),
        ({"origin": "https://APP.example.com", "sec-fetch-site": "cross-site"}, 200),
        ({"origin": "https://app.example.com.evil.test"}, 403),
        ({"origin": "http://app.example.com"}, 403),
        ({"origin": "https://testserver"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
    ],
    ids=str,
)
async def test_a_login_by_cookie_works_from_pages_of_the_same_site(
    headers: dict[str, str], status: int
) -> None:
    auth = AuthMiddleware(App(), authenticate=login, allowed_origins=["https://App.example.com/"])
    exchange = await call(auth, headers={"cookie": "session=alice", **headers})

    assert exchange.status == status


@pytest.mark.parametrize("origin", ["*", "null", "app.example.com", "https://a/b", "", "https:///"])
def test_an_origin_that_is_none_is_refused_at_start(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="HINT"):
        AuthMiddleware(App(), authenticate=login, allowed_origins=[origin])


# --- tenants


async def tenant_of(*, secret: bytes | None = SECRET, **headers: str) -> str:
    app = App()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    await call(AuthMiddleware(app, secret=secret), headers=named)
    assert app.context.principal is not None
    assert app.context.principal.tenant == app.context.principal.id
    return app.context.principal.tenant


async def test_a_byok_tenant_is_the_same_on_every_machine_with_the_same_secret() -> None:
    tenant = await tenant_of(authorization="Bearer sk-a")

    assert tenant == await tenant_of(authorization="Bearer sk-a")
    assert tenant == await tenant_of(authorization="Bearer sk-a", llmgate_provider="openai")
    assert tenant == await tenant_of(authorization="Bearer sk-a", helicone_auth="Bearer x")


async def test_other_keys_providers_and_secrets_are_other_tenants() -> None:
    tenants = {
        await tenant_of(authorization="Bearer sk-a"),
        await tenant_of(authorization="Bearer sk-b"),
        await tenant_of(authorization="Bearer sk-a", llmgate_provider="groq"),
        await tenant_of(authorization="Bearer sk-a", secret=b"t" * 32),
        await tenant_of(authorization="Bearer sk-a", secret=None),
    }

    assert len(tenants) == 5


# --- wiring


@pytest.mark.parametrize(
    "given",
    [{"keys": {"acme": f"{CANARY} "}}, {"keys": {"a": CANARY, "b": CANARY}}, {"secret": b"short"}],
    ids=["a blank", "twice", "a short secret"],
)
def test_unfit_settings_are_refused_without_being_shown(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="HINT") as caught:
        AuthMiddleware(App(), **given)

    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/app/v1/chat/completions",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/V1/Chat/Completions",
        "/v1/messages//",
        "/v1beta/models/x:generateContent",
        "/v1beta/models/x:generateContent/",
        "/api/chat",
        "/api/chat/",
        "/API/chat",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "post"])
async def test_alone_it_guards_every_spelling_of_an_llm_call(path: str, method: str) -> None:
    app = App()
    auth = AuthMiddleware(app, keys=KEYS, paths={"/api/chat": "openai-chat"})
    exchange = await call(auth, path=path, method=method)

    assert exchange.status == 401
    assert app.contexts == []


@pytest.mark.parametrize("path", ["/", "/orders", "/v1/orders", "/static/chat.js"])
async def test_alone_it_leaves_other_traffic_alone(path: str) -> None:
    app = App()
    exchange = await call(AuthMiddleware(app, keys=KEYS), path=path)

    assert exchange.status == 200
    assert app.contexts == [None]


@pytest.mark.parametrize("scope_type", ["websocket", "lifespan"])
async def test_other_scopes_pass(scope_type: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        raise AssertionError("not called")

    async def send(message: Message) -> None:
        raise AssertionError("not called")

    scope = {"type": scope_type, "path": "/v1/chat/completions", "headers": []}
    await AuthMiddleware(app, keys=KEYS)(scope, receive, send)

    assert seen == [scope]


async def test_logging_has_to_be_outside_so_that_refusals_are_recorded() -> None:
    class LoggingMiddleware(GatewayMiddleware):
        async def handle(
            self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
        ) -> None:
            await self.app(scope, receive, send)

    with pytest.raises(ConfigurationError, match="AuthMiddleware wraps LoggingMiddleware"):
        await call(AuthMiddleware(LoggingMiddleware(App()), keys=KEYS), key=PREFIXED)


async def test_no_key_shows_in_a_context_an_answer_or_a_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    app = App()
    auth = AuthMiddleware(app, keys={"acme": CANARY}, authenticate=login, mode="passthrough")
    shown = []
    for headers in (
        {"llmgate-auth": CANARY, "authorization": f"Bearer x-{CANARY}"},
        {"authorization": f"Bearer {CANARY}x"},
        {"authorization": f"Bearer lg_{CANARY}"},
        {"authorization": f"Bearer {CANARY} {CANARY}"},
        {"llmgate-auth": f"{CANARY}x"},
        {"helicone-auth": f"{CANARY}x"},
        {"authorization": f"Bearer {CANARY}", "x-api-key": f"lg_{CANARY}"},
        {"x-login": "broken", "authorization": f"Bearer {CANARY}"},
    ):
        exchange = await call(auth, headers=headers)
        context = exchange.scope["llmgate"]
        shown += [exchange.body.decode(), str(exchange.headers), repr(vars(auth))]
        shown += [repr(context.principal), repr(context.caller_key), str(context.warnings)]

    assert CANARY not in "".join(shown)
    assert CANARY not in caplog.text


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})

    assert len(blocks) == 2
