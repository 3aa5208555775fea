from __future__ import annotations

from typing import Any

import pytest

from asgi_llmgate.core.directives import DEFAULT, parse_directives
from asgi_llmgate.core.policy import Refusal, RoutePolicy, Rule
from asgi_llmgate.core.policy_table import PolicyTable
from asgi_llmgate.errors import ConfigurationError


def rule(**what: Any) -> Rule:
    return Rule(RoutePolicy("/v1/chat/completions", **what))


def text(refusal: Refusal | None) -> str:
    assert refusal is not None
    assert refusal.error.code == "policy_violation"
    return f"{refusal.error.status} {refusal.error}"


@pytest.mark.parametrize("spelling", [b"llmgate-", b"helicone-"], ids=["ours", "Helicone's"])
def test_a_default_fills_in_what_was_not_sent_in_either_spelling(spelling: bytes) -> None:
    policy = rule(default={"Session-Name": "support", "Property-Feature": "chat"})
    sent = {spelling + b"session-name": b"mine", spelling + b"property-feature": b"search"}
    kept = policy.settle(parse_directives(sent))
    filled = policy.settle(parse_directives({spelling + b"user-id": b"ada"}))

    assert (kept.session_name, kept.properties) == ("mine", {"feature": "search"})
    assert (filled.session_name, filled.properties) == ("support", {"feature": "chat"})
    assert filled.user_id == "ada"


def test_an_empty_header_was_not_sent() -> None:
    policy = rule(default={"Session-Name": "support"}, require=["User-Id"])
    sent = parse_directives({b"llmgate-session-name": b"", b"llmgate-user-id": b""})

    assert policy.settle(sent).session_name == "support"
    assert policy.missing(sent, has_user=False) is not None


def test_a_helicone_header_that_means_nothing_was_not_sent() -> None:
    sent = parse_directives({b"helicone-user-id": b"x" * 1000})

    assert rule(require=["User-Id"]).missing(sent, has_user=False) is not None


@pytest.mark.parametrize("spelling", [b"llmgate-", b"helicone-"], ids=["ours", "Helicone's"])
def test_a_forced_value_replaces_what_was_sent(spelling: bytes) -> None:
    policy = rule(force={"Omit-Request": True, "Property-Feature": "chat"})
    sent = {spelling + b"omit-request": b"false", spelling + b"property-feature": b"x"}
    settled = policy.settle(parse_directives(sent))

    assert settled.omit_request is True
    assert settled.properties == {"feature": "chat"}


def test_what_is_settled_for_one_caller_is_not_seen_by_another() -> None:
    policy = rule(default={"Property-Feature": "chat"})
    sent = parse_directives({b"llmgate-property-team": b"blue"})
    policy.settle(sent)

    assert policy.settle(DEFAULT).properties == {"feature": "chat"}
    assert sent.properties == {"team": "blue"}
    assert DEFAULT.properties == {}


@pytest.mark.parametrize(
    "name", ["llmgate-target-url", "helicone-target-url", "helicone-openai-api-base"]
)
def test_a_forbidden_header_is_refused_under_every_name(name: str) -> None:
    sent = parse_directives({name.encode(): b"https://api.openai.com"})

    assert text(rule(forbid=["Target-URL"]).forbidden(sent)) == (
        "403 LLMGate-Target-URL may not be sent on this route. Remove the header."
    )


def test_all_properties_can_be_forbidden_at_once() -> None:
    sent = parse_directives({b"helicone-property-x": b"1"})

    assert rule(forbid=["Property-*"]).forbidden(sent) is not None
    assert rule(forbid=["Property-*"]).forbidden(DEFAULT) is None
    assert rule(forbid=["Property-Y"]).forbidden(sent) is None


def test_what_is_missing_is_refused_with_the_remedy() -> None:
    policy = rule(require=["User-Id", "Property-Feature"])

    assert text(policy.missing(DEFAULT, has_user=False)) == (
        "400 This route needs LLMGate-User-Id; send the id of your end user in it, such as "
        '"LLMGate-User-Id: user-42", or log in.'
    )
    assert text(policy.missing(DEFAULT, has_user=True)) == (
        "400 This route needs LLMGate-Property-Feature; send what it is for, such as "
        '"LLMGate-Property-Feature: checkout".'
    )


@pytest.mark.parametrize(
    ("provider", "model", "allowed"),
    [
        ("openai", "gpt-4o-mini", True),
        ("azure", "gpt-4o", True),
        ("anthropic", "claude-sonnet-4-6", True),
        ("bedrock", "claude-sonnet-4-6", False),
        ("openai", "o3", False),
        ("openai", "xgpt-4o", False),
        ("openai", None, False),
        (None, "gpt-4o", True),
    ],
)
def test_models_are_matched_by_name_and_by_provider_and_name(
    provider: str | None, model: str | None, allowed: bool
) -> None:
    policy = rule(models=["gpt-4o*", "anthropic/claude-*"])
    refusal = policy.not_allowed(provider, model, "openai-chat")

    assert (refusal is None) is allowed
    assert allowed or "Allowed: gpt-4o*, anthropic/claude-*." in text(refusal)


def test_an_empty_list_closes_a_route() -> None:
    closed = rule(providers=[])

    assert "nothing is allowed here" in text(closed.not_allowed("openai", "o3", "openai-chat"))


def test_a_list_of_models_may_be_asked_for_where_models_are_restricted() -> None:
    assert rule(models=["gpt-*"]).not_allowed("openai", None, "openai-models") is None


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"default": {"User-Idd": "x"}}, "Did you mean LLMGate-User-Id?"),
        ({"default": {"Omit-Request": "maybe"}}, "expected true or false"),
        ({"force": {"Auth": "x"}}, "LLMGate-Auth cannot be used"),
        ({"force": {"Request-Id": "x"}}, "different on each call"),
        ({"default": {"Session-Name": ""}}, "has no value"),
        ({"require": ["Property-*"]}, "LLMGate-Property-* cannot"),
        ({"forbid": ["Nonsense-Header"]}, "is not a header of this gateway"),
        ({"force": {"User-Id": "x"}, "forbid": ["User-Id"]}, "both set and forbidden"),
        ({"identity": "derive", "require": ["User-Id"]}, "required, but not believed"),
        ({"identity": "maybe"}, "identity='maybe' is none"),
        ({"methods": ["FETCH"]}, "'FETCH' is not a method"),
        ({"models": ["gpt-*-mini"]}, "may only be at the end"),
        ({"models": "gpt-4o"}, "`models` is a text"),
        ({"providers": ["OpenAI"]}, "ids are lower case: openai"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_told_with_a_hint(what: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        RoutePolicy("/v1/chat/completions", **what)

    assert message in str(raised.value).replace("Property-?", "Property-*")
    assert "\nHINT: " in str(raised.value)


@pytest.mark.parametrize(
    "path", ["v1/chat", "/support*", "/a/*/b", "", "/v1/chat?x=1", "https://x/"]
)
def test_a_path_that_could_never_match_is_a_mistake(path: str) -> None:
    with pytest.raises(ConfigurationError, match="HINT: "):
        RoutePolicy(path)


def test_two_policies_for_the_same_calls_are_a_mistake() -> None:
    same = [RoutePolicy("/support/*", ["POST"]), RoutePolicy("/Support//*", ["post", "GET"])]
    with pytest.raises(ConfigurationError):
        PolicyTable(same)
    with pytest.raises(ConfigurationError, match="are for the same calls"):
        PolicyTable([RoutePolicy("/support/*", ["POST"]), RoutePolicy("/Support/*", ["post"])])
    PolicyTable([RoutePolicy("/support/*", ["POST"]), RoutePolicy("/support/*", ["GET"])])
    PolicyTable([RoutePolicy("/support/*"), RoutePolicy("/support/*", ["GET"])])


TABLE = PolicyTable(
    [
        RoutePolicy("*"),
        RoutePolicy("/v1/*"),
        RoutePolicy("/v1/chat/completions"),
        RoutePolicy("/v1/chat/completions", methods=["POST"]),
        RoutePolicy("/support/*"),
        RoutePolicy("/support/vip/*", methods=["POST"]),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "route", "expected"),
    [
        ("POST", "/v1/chat/completions", "/v1/chat/completions", "POST /v1/chat/completions"),
        ("GET", "/v1/chat/completions", "", "/v1/chat/completions"),
        ("POST", "/chat/completions", "/v1/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/V1//Chat/completions/", "", "POST /v1/chat/completions"),
        ("POST", "/v1/embeddings", "/v1/embeddings", "/v1/*"),
        ("POST", "/v1", "", "/v1/*"),
        ("POST", "/v10/embeddings", "", "*"),
        ("POST", "/supportive", "", "*"),
        ("POST", "/support", "", "/support/*"),
        ("POST", "/support/vip/ask", "", "POST /support/vip/*"),
        ("post", "/support/vip", "", "POST /support/vip/*"),
        ("GET", "/support/vip/ask", "", "/support/*"),
        (
            "POST",
            "/support/v1/chat/completions",
            "/v1/chat/completions",
            "POST /v1/chat/completions",
        ),
    ],
)
def test_the_most_specific_policy_applies(
    method: str, path: str, route: str, expected: str
) -> None:
    for _ in range(2):  # found, then remembered
        found = TABLE.find(method, path, route)

        assert found is not None
        assert found.name == expected


def test_no_policy_applies_where_none_matches() -> None:
    assert PolicyTable([RoutePolicy("/support/*")]).find("POST", "/v1/x", "/v1/x") is None


def test_what_is_remembered_is_bounded() -> None:
    table = PolicyTable([RoutePolicy("/v1/files/*", default={"Session-Name": "x"})])
    found = {table.find("GET", f"/v1/files/{number}", "/v1/files/{id}") for number in range(5000)}

    assert [rule.name for rule in found if rule] == ["/v1/files/*"]
    assert len(table._remembered) <= 1024
