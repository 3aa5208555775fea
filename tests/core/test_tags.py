from __future__ import annotations

from typing import Any

import pytest

from asgi_llmgate.core.directives import DEFAULT, parse_directives
from asgi_llmgate.core.tags import derive_tags, find_user
from asgi_llmgate.core.trace import Trace
from asgi_llmgate.types import Grants, Principal, PrincipalKind

KEY = Principal("shop", PrincipalKind.KEY, "key-1")
LOGIN = Principal("shop", PrincipalKind.HOST, "7", user_id="ada")
HEADER = parse_directives({b"llmgate-user-id": b"grace"})
BODY: dict[str, Any] = {"user": "hedy"}


@pytest.mark.parametrize(
    ("principal", "header", "body", "expected"),
    [
        (LOGIN, True, BODY, ("ada", "host", "verified")),
        (KEY, True, BODY, ("grace", "header", "asserted")),
        (KEY, False, BODY, ("hedy", "body", "asserted")),
        (KEY, False, {"safety_identifier": "s"}, ("s", "body", "asserted")),
        (KEY, False, {"metadata": {"user_id": "m"}}, ("m", "body", "asserted")),
        (KEY, False, {"user": 7, "metadata": []}, ("svc:key-1", "synthetic", "synthetic")),
        (KEY, False, None, ("svc:key-1", "synthetic", "synthetic")),
        (None, False, None, (None, None, None)),
    ],
    ids=["login", "header", "user", "safety", "metadata", "nonsense", "nobody", "no principal"],
)
def test_the_best_evidence_names_the_user(
    principal: Principal | None,
    header: bool,
    body: dict[str, Any] | None,
    expected: tuple[str | None, str | None, str | None],
) -> None:
    tags = derive_tags(principal, HEADER if header else DEFAULT, body)

    assert (tags.user_id, tags.user_source, tags.user_trust) == expected


BOUND = Principal("shop", PrincipalKind.KEY, "key-2", user_id="ada")


@pytest.mark.parametrize(
    ("principal", "signed", "header", "body", "expected"),
    [
        (LOGIN, "grace", None, {}, ("ada", "host", "verified", "signed")),
        (LOGIN, None, "grace", {}, ("ada", "host", "verified", "header")),
        (LOGIN, None, None, {"user": "grace"}, ("ada", "host", "verified", "body")),
        (LOGIN, "ada", "ada", {"user": "ada"}, ("ada", "host", "verified", None)),
        (BOUND, None, "grace", {}, ("ada", "key", "verified", "header")),
        (KEY, "grace", None, {}, ("grace", "signed", "signed", None)),
        (KEY, "grace", "hedy", {}, ("grace", "signed", "signed", "header")),
        (KEY, None, "hedy", {"user": "ada"}, ("hedy", "header", "asserted", None)),
        (KEY, None, "svc:key-2", {}, ("svc:key-1", "synthetic", "synthetic", "header")),
        (KEY, None, None, {"user": "svc:key-2"}, ("svc:key-1", "synthetic", "synthetic", "body")),
        (None, None, "svc:key-2", {}, (None, None, None, "header")),
        (None, "ada", None, {}, ("ada", "signed", "signed", None)),
    ],
)
def test_of_two_users_the_proven_one_is_kept(
    principal: Principal | None,
    signed: str | None,
    header: str | None,
    body: dict[str, Any],
    expected: tuple[str | None, ...],
) -> None:
    sent = {} if header is None else {b"llmgate-user-id": header.encode()}

    assert find_user(principal, parse_directives(sent), body, signed=signed) == expected


def test_nobodys_word_counts_where_users_are_derived() -> None:
    assert find_user(KEY, HEADER, BODY, takes_word=False) == (
        "svc:key-1",
        "synthetic",
        "synthetic",
        "header",
    )


def test_properties_of_the_key_go_before_headers_and_those_before_the_baggage() -> None:
    key = Principal("shop", PrincipalKind.KEY, "k", grants=Grants(tags=(("team", "blue"),)))
    sent = parse_directives({b"llmgate-property-team": b"red", b"llmgate-property-app": b"web"})
    trace = Trace("t", "s", {"app": "api", "service.name": "shop"})
    tags = derive_tags(key, sent, None, trace=trace)

    assert tags.properties == {"team": "blue", "app": "web", "service.name": "shop"}
    assert (tags.trace_id, tags.session_id) == ("t", "s")
