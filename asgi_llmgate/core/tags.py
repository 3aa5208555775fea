"""Decide whom and what a call is for, best evidence first.

    verified   the host's own login, or a key bound to a user
    asserted   a header or a body field that the caller wrote as he liked
    synthetic  nobody was named: `svc:<key>`, unique per key, so that no two callers share a user

A null identity would be a shared one (rule R17), so a known principal always gets a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.directives import Directives
from asgi_llmgate.types import Principal, Tags

__all__ = ["MAX_USER_LENGTH", "derive_tags", "user_in_body"]

MAX_USER_LENGTH = 256


def derive_tags(
    principal: Principal | None, directives: Directives, request: Mapping[str, Any] | None
) -> Tags:
    """Return the tags of a call. `request` is its JSON body, where it has one."""
    user_id, source, trust = _user(principal, directives, request)
    return Tags(
        user_id=user_id,
        user_source=source,
        user_trust=trust,
        session_id=directives.session_id,
        session_path=directives.session_path,
        session_name=directives.session_name,
        properties=dict(directives.properties) or None,
    )


def _user(
    principal: Principal | None, directives: Directives, request: Mapping[str, Any] | None
) -> tuple[str | None, str | None, str | None]:
    if principal is not None and principal.user_id is not None:
        return principal.user_id, principal.kind.value, "verified"
    if directives.user_id is not None:
        return directives.user_id, "header", "asserted"
    named = user_in_body(request) if request is not None else None
    if named is not None:
        return named, "body", "asserted"
    if principal is not None:
        return f"svc:{principal.id}", "synthetic", "synthetic"
    return None, None, None


def user_in_body(request: Mapping[str, Any]) -> str | None:
    """Return the end user a request body names: OpenAI's fields, then Anthropic's."""
    metadata = request.get("metadata")
    for value in (
        request.get("user"),
        request.get("safety_identifier"),
        metadata.get("user_id") if isinstance(metadata, dict) else None,
    ):
        if isinstance(value, str) and value and len(value) <= MAX_USER_LENGTH:
            return value
    return None
