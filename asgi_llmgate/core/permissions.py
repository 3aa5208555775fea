"""Who may do what on the admin plane.

Every route of it declares one permission. The admin token has all of them; a virtual key has those
of its scopes, and sees its own tenant only.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from asgi_llmgate.types import KeyScope

__all__ = ["Permission", "permissions_of"]


class Permission(StrEnum):
    BUDGETS_READ = "budgets:read"
    BUDGETS_WRITE = "budgets:write"
    CACHE_FEEDBACK = "cache:feedback"
    CACHE_READ = "cache:read"
    CACHE_WRITE = "cache:write"
    DOCS_READ = "docs:read"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    PROVIDER_KEYS_READ = "provider_keys:read"
    PROVIDER_KEYS_WRITE = "provider_keys:write"
    SELF_READ = "self:read"
    LOG_INGEST = "log:ingest"
    UPSTREAMS_READ = "upstreams:read"


# What is not named here needs the admin token.
_BY_SCOPE: dict[KeyScope, frozenset[Permission]] = {
    KeyScope.CALL: frozenset({Permission.SELF_READ, Permission.CACHE_FEEDBACK}),
    KeyScope.INGEST: frozenset({Permission.SELF_READ, Permission.LOG_INGEST}),
    KeyScope.READ: frozenset({Permission.SELF_READ, Permission.DOCS_READ}),
}


def permissions_of(scopes: Iterable[KeyScope]) -> frozenset[Permission]:
    """Return what a key with `scopes` may do on the admin plane."""
    return frozenset().union(*(_BY_SCOPE[scope] for scope in scopes))
