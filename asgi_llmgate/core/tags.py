"""Decide whom and what a call is for, best evidence first.

    verified   the host's own login, or a key bound to a user
    signed     a user id that was signed with the gateway's signing key
    asserted   a header or a body field that the caller wrote as he liked
    synthetic  nobody was named: `svc:<key>`, unique per key, so that no two callers share a user

A null identity would be a shared one (rule R17), so a known principal always gets a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from asgi_llmgate.core.directives import Directives
from asgi_llmgate.core.trace import Trace
from asgi_llmgate.types import Principal, Tags

__all__ = ["MAX_USER_LENGTH", "SYNTHETIC", "User", "derive_tags", "find_user", "user_in_body"]

MAX_USER_LENGTH = 256
SYNTHETIC = "svc:"
MAX_PROPERTIES = 32


class User(NamedTuple):
    """Whom a call is for. `conflict` is where another was named, who was not believed."""

    id: str | None
    source: str | None
    trust: str | None
    conflict: str | None = None


NOBODY = User(None, None, None)


def derive_tags(
    principal: Principal | None,
    directives: Directives,
    request: Mapping[str, Any] | None,
    *,
    user: User | None = None,
    takes_word: bool = True,
    trace: Trace | None = None,
) -> Tags:
    """Return the tags of a call.

    Args:
        request: Its JSON body, where it has one.
        user: From `find_user`, if that was asked already.
        takes_word: As for `find_user`.
        trace: What `traceparent` and `baggage` say. A header of ours goes before it.
    """
    found = user or find_user(principal, directives, request, takes_word=takes_word)
    properties = _properties(principal, directives, trace)
    return Tags(
        user_id=found.id,
        user_source=found.source,
        user_trust=found.trust,
        session_id=directives.session_id or (trace.session_id if trace is not None else None),
        session_path=directives.session_path,
        session_name=directives.session_name,
        properties=properties,
        trace_id=trace.id if trace is not None else None,
    )


def find_user(
    principal: Principal | None,
    directives: Directives,
    request: Mapping[str, Any] | None,
    *,
    signed: str | None = None,
    takes_word: bool = True,
) -> User:
    """Return whom a call is for.

    Args:
        request: Its JSON body, where it has one.
        signed: The user that a signature proves.
        takes_word: Whether a header or the body may name one.
    """
    if principal is not None and principal.user_id is not None:
        proven = User(principal.user_id, principal.kind.value, "verified")
        others = (signed, directives.user_id, request)
    elif signed is not None:
        proven = User(signed, "signed", "signed")
        others = (None, directives.user_id, request)
    else:
        word = _word(directives, request)
        # A name such as ours would let the holder of one key pass for that of another.
        if takes_word and word.id is not None and not word.id.startswith(SYNTHETIC):
            return word
        conflict = word.source
        if principal is None:
            return NOBODY._replace(conflict=conflict)
        return User(f"{SYNTHETIC}{principal.id}", "synthetic", "synthetic", conflict)
    conflict = _conflict(proven.id, *others)
    return proven if conflict is None else proven._replace(conflict=conflict)


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


def _word(directives: Directives, request: Mapping[str, Any] | None) -> User:
    if directives.user_id is not None:
        return User(directives.user_id, "header", "asserted")
    named = user_in_body(request) if request is not None else None
    return NOBODY if named is None else User(named, "body", "asserted")


def _conflict(
    proven: str | None, signed: str | None, header: str | None, request: Mapping[str, Any] | None
) -> str | None:
    """Return where somebody else is named than who is proven."""
    if signed is not None and signed != proven:
        return "signed"
    if header is not None and header != proven:
        return "header"
    named = user_in_body(request) if request is not None else None
    return "body" if named is not None and named != proven else None


def _properties(
    principal: Principal | None, directives: Directives, trace: Trace | None
) -> dict[str, str] | None:
    """Join what the trace, the headers and the key say; the latter win."""
    ours = directives.properties
    fixed = principal.grants.tags if principal is not None and principal.grants else ()
    if trace is None and not fixed:
        return dict(ours) or None
    joined = {**dict(fixed), **ours, **dict(fixed)}
    for name, value in trace.properties.items() if trace is not None else ():
        if len(joined) >= MAX_PROPERTIES:
            break
        joined.setdefault(name, value)
    return joined or None
