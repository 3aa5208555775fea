from __future__ import annotations

from typing import Any

import pytest

from asgi_llmgate.core.directives import DEFAULT, parse_directives
from asgi_llmgate.core.tags import derive_tags
from asgi_llmgate.types import Principal, PrincipalKind

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
