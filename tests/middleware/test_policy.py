"""The middleware alone: in front of an app that knows nothing of us."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from asgi_llmgate.context import SCOPE_KEY, GatewayContext
from asgi_llmgate.core.policy import RoutePolicy
from asgi_llmgate.core.signed_user import sign_user
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.middleware import AuthMiddleware, PolicyMiddleware, TaggingMiddleware
from tests.asgi import CHAT, call

KEY = "lg_a_key_that_is_long_enough"
SIGNING_KEY = "0123456789abcdef0123456789abcdef"
CHAT_PATH = "/v1/chat/completions"


class App:
    """Answers 200 and remembers what it was given."""

    def __init__(self) -> None:
        self.context: GatewayContext | None = None
        self.body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.context = scope.get(SCOPE_KEY)
        self.body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


class Counts(list[tuple[str, dict[str, str]]]):
    def __call__(self, name: str, value: float = 1, /, **labels: str) -> None:
        self.append((name, labels))


@pytest.fixture
def app() -> App:
    return App()


async def test_settled_headers_are_what_the_app_inside_sees(app: App) -> None:
    policy = RoutePolicy(CHAT_PATH, default={"Session-Name": "x"}, force={"Omit-Request": True})
    await call(PolicyMiddleware(app, policies=[policy]), headers={"llmgate-omit-request": "false"})

    assert app.context is not None
    assert app.context.directives.session_name == "x"
    assert app.context.directives.omit_request is True


@pytest.mark.parametrize(
    "path",
    [
        CHAT_PATH,
        "/chat/completions",
        "/V1/Chat/Completions",
        "//v1//chat/completions/",
        "/any/prefix/v1/chat/completions",
    ],
)
async def test_no_spelling_of_a_path_goes_around_its_policy(app: App, path: str) -> None:
    guard = PolicyMiddleware(app, policies=[RoutePolicy(CHAT_PATH, require=["User-Id"])])
    exchange = await call(guard, path=path)

    assert exchange.status == 400
    assert exchange.json()["error"]["code"] == "policy_violation"


async def test_a_path_that_a_policy_names_is_guarded_whatever_it_is(app: App) -> None:
    guard = PolicyMiddleware(
        app, policies=[RoutePolicy("/support/*", ["POST"], require=["User-Id"])]
    )
    refused = await call(guard, path="/Support/ask")
    named = await call(guard, path="/support/ask", headers={"llmgate-user-id": "ada"})
    other = await call(guard, b"", path="/support/ask", method="GET")

    assert (refused.status, named.status, other.status) == (400, 200, 200)


async def test_a_policy_for_everything_leaves_the_hosts_other_pages_alone(app: App) -> None:
    guard = PolicyMiddleware(app, policies=[RoutePolicy("*", require=["User-Id"])])
    page = await call(guard, b"", path="/about", method="GET")
    model = await call(guard)

    assert (page.status, model.status) == (200, 400)


async def test_the_mount_point_is_not_part_of_the_path(app: App) -> None:
    guard = PolicyMiddleware(app, policies=[RoutePolicy("/support/*", require=["User-Id"])])
    exchange = await call(guard, path="/app/support/ask", root_path="/app")

    assert exchange.status == 400


async def test_the_body_may_name_the_required_user_and_is_handed_on(app: App) -> None:
    guard = PolicyMiddleware(app, policies=[RoutePolicy(CHAT_PATH, require=["User-Id"])])
    exchange = await call(guard, {**CHAT, "user": "ada"})

    assert exchange.status == 200
    assert b'"user": "ada"' in app.body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "gpt-4o-mini"}, 200),
        ({"model": "o3"}, 403),
        ({"model": "gpt-4o", "models": ["gpt-4o", "o3"]}, 403),
        ({}, 403),
        (b'{"model": "gpt-4o", "model": "o3"}', 403),
        (b'{"model": "o3", "model": "gpt-4o"}', 403),
    ],
    ids=["allowed", "other", "fallback in the body", "none", "twice", "twice, turned"],
)
async def test_only_allowed_models_pass(app: App, body: Any, status: int) -> None:
    guard = PolicyMiddleware(app, policies=[RoutePolicy(CHAT_PATH, models=["gpt-4o*"])])
    for _ in range(2):
        assert (await call(guard, body)).status == status


async def test_a_call_whose_model_cannot_be_told_is_refused_where_models_are_restricted(
    app: App,
) -> None:
    guard = PolicyMiddleware(app, policies=[RoutePolicy("/v1/audio/*", models=["whisper-1"])])
    exchange = await call(guard, b"--x", path="/v1/audio/transcriptions")

    assert exchange.status == 403
    assert "Allowed: whisper-1." in exchange.json()["error"]["message"]


async def test_observing_counts_and_lets_pass(app: App) -> None:
    counts = Counts()
    policies = [
        RoutePolicy("*", require=["User-Id"], models=["o3"], identity="default", observe=True)
    ]
    exchange = await call(PolicyMiddleware(app, policies=policies, count=counts))

    assert exchange.status == 200
    assert counts == [
        ("llmgate_policy_refusals_total", {"policy": "*", "reason": reason, "observed": "true"})
        for reason in ("require", "models")
    ]


async def test_refusals_are_counted_too(app: App) -> None:
    counts = Counts()
    guard = PolicyMiddleware(app, policies=[RoutePolicy("*", models=["o3"])], count=counts)
    await call(guard)

    assert counts[0][1] == {"policy": "*", "reason": "models", "observed": "false"}


def stack(app: App, identity: Any, counts: Counts, **keys: str) -> AuthMiddleware:
    signing = {"signing_key": SIGNING_KEY, "count": counts}
    tagging = TaggingMiddleware(app, **signing)  # type: ignore[arg-type]  # a test's shorthand
    policy = PolicyMiddleware(tagging, policies=[RoutePolicy("*", identity=identity)], **signing)  # type: ignore[arg-type]
    return AuthMiddleware(policy, keys={"shop": KEY, **keys})


def signed(user: str, nonce: str = "") -> dict[str, str]:
    import time

    return {"llmgate-user": sign_user(user, SIGNING_KEY, now_s=time.time(), nonce=nonce)}


@pytest.mark.parametrize(
    ("identity", "headers", "expected"),
    [
        ("default", {}, ("svc:shop", "synthetic")),
        ("default", {"llmgate-user-id": "ada"}, ("ada", "asserted")),
        ("default", signed("grace") | {"helicone-user-id": "ada"}, ("grace", "signed")),
        ("derive", {"llmgate-user-id": "ada"}, ("svc:shop", "synthetic")),
        ("derive", signed("grace"), ("grace", "signed")),
        ("require", signed("grace"), ("grace", "signed")),
        ("require", {"llmgate-user-id": "ada"}, None),
        ("require", {}, None),
    ],
)
async def test_the_identity_of_a_route(
    app: App, identity: str, headers: dict[str, str], expected: tuple[str, str] | None
) -> None:
    exchange = await call(stack(app, identity, Counts()), key=KEY, headers=headers)

    if expected is None:
        assert exchange.status == 403
        assert "log in" in exchange.json()["error"]["message"]
    else:
        assert app.context is not None
        assert app.context.tags is not None
        assert (app.context.tags.user_id, app.context.tags.user_trust) == expected


async def test_a_conflict_is_counted_and_told(app: App) -> None:
    counts = Counts()
    headers = signed("grace") | {"llmgate-user-id": "ada"}
    await call(stack(app, "default", counts), key=KEY, headers=headers)

    assert counts == [("llmgate_identity_conflicts_total", {"named": "header", "kept": "signed"})]
    assert app.context is not None
    assert app.context.warnings == [
        "LLMGate-User-Id was not used: it names another user than is proven"
    ]


async def test_a_nonce_is_taken_once_though_two_middlewares_ask(app: App) -> None:
    gate = stack(app, "require", Counts())
    headers = signed("grace", nonce="only-once")
    first = await call(gate, key=KEY, headers=headers)
    again = await call(gate, key=KEY, headers=headers)

    assert (first.status, again.status) == (200, 401)


async def test_a_signature_that_nobody_can_check_is_refused(app: App) -> None:
    exchange = await call(TaggingMiddleware(app), headers=signed("grace"))

    assert exchange.status == 400
    assert "LLMGATE_AUTH__SIGNING_KEY" in exchange.json()["error"]["message"]


async def test_names_of_properties_are_bounded_and_values_are_not(app: App) -> None:
    counts = Counts()
    tagging = TaggingMiddleware(app, max_property_names=3, count=counts)
    for number in range(5):
        headers = {"llmgate-property-same": str(number), f"llmgate-property-p{number}": "x"}
        await call(tagging, headers=headers)

    assert app.context is not None
    assert app.context.tags is not None
    assert app.context.tags.properties == {"same": "4"}
    assert [name for name, _ in counts] == ["llmgate_properties_dropped_total"] * 3


async def test_providers_cannot_be_told_alone(app: App) -> None:
    with pytest.raises(ConfigurationError, match="HINT: use `models=`"):
        PolicyMiddleware(app, policies=[RoutePolicy("*", providers=["openai"])])


async def test_a_policy_outside_of_auth_is_a_wiring_mistake(app: App) -> None:
    wrong = PolicyMiddleware(AuthMiddleware(app, keys={"shop": KEY}), policies=[RoutePolicy("*")])

    with pytest.raises(ConfigurationError, match="PolicyMiddleware wraps AuthMiddleware"):
        await call(wrong, key=KEY)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (CHAT, 200),
        ({**CHAT, "model": "o3"}, 403),
        ({"question": "?"}, 403),
        (b'{"model":"gpt-4o","model":"o3"}', 403),
        (b"no json", 403),
    ],
    ids=["allowed", "another", "none", "two", "no JSON"],
)
async def test_the_model_of_ones_own_endpoint_is_looked_for_in_its_body(
    app: App, body: Any, status: int
) -> None:
    guard = PolicyMiddleware(app, policies=[RoutePolicy("/support/*", models=["gpt-4o"])])
    exchange = await call(guard, body, path="/support/ask")

    assert exchange.status == status
    assert bool(app.body) is (status == 200)
