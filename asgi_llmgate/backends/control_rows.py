"""Rows of the control store and the values they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asgi_llmgate.types import Grants, KeyScope, KeySecret, StoredKey

__all__ = ["SealedKey", "key_of", "key_row", "sealed_of", "sealed_row"]


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A provider key at rest. `tenant` is `*` if everybody the gateway knows may use it.

    `version` grows with every new envelope, and is part of what the envelope is bound to.
    """

    id: str
    provider: str
    tenant: str
    name: str
    envelope: bytes = field(repr=False)
    version: int = 1
    weight: float = 1.0
    hint: str = ""
    created_at_s: float = 0.0


def key_row(key: StoredKey, version: int) -> dict[str, Any]:
    """Return the columns of a new key, which has one secret."""
    (secret,) = key.secrets
    grants = key.grants
    return {
        "kid": key.kid,
        "tenant": key.tenant,
        "name": key.name,
        "user_id": key.user_id,
        "parent": key.parent,
        "scopes": sorted(grants.scopes),
        "models": _listed(grants.models),
        "providers": _listed(grants.providers),
        "routes": _listed(grants.routes),
        "tags": dict(grants.tags),
        "rates": key.rates,
        "hint": key.hint,
        "is_imported": key.is_imported,
        "created_at_s": key.created_at_s,
        "expires_at_s": key.expires_at_s,
        "revoked_at_s": key.revoked_at_s,
        "handle": secret.handle,
        "digest": secret.digest,
        "secret_id": secret.secret_id,
        "version": version,
    }


def key_of(row: Mapping[Any, Any]) -> StoredKey:
    secrets = [KeySecret(row["handle"], row["digest"], row["secret_id"])]
    if row["old_handle"] is not None:
        old = (row["old_handle"], row["old_digest"], row["old_secret_id"], row["old_expires_at_s"])
        secrets.append(KeySecret(*old))
    return StoredKey(
        kid=row["kid"],
        tenant=row["tenant"],
        name=row["name"],
        secrets=tuple(secrets),
        grants=Grants(
            scopes=frozenset(map(KeyScope, row["scopes"])),
            models=_tuple(row["models"]),
            providers=_tuple(row["providers"]),
            routes=_tuple(row["routes"]),
            tags=tuple(sorted(row["tags"].items())),
        ),
        rates=row["rates"],
        user_id=row["user_id"],
        parent=row["parent"],
        created_at_s=row["created_at_s"],
        expires_at_s=row["expires_at_s"],
        revoked_at_s=row["revoked_at_s"],
        hint=row["hint"],
        is_imported=bool(row["is_imported"]),
    )


def sealed_row(key: SealedKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "provider": key.provider,
        "tenant": key.tenant,
        "name": key.name,
        "weight": key.weight,
        "hint": key.hint,
        "envelope": key.envelope,
        "version": key.version,
        "created_at_s": key.created_at_s,
    }


def sealed_of(row: Mapping[Any, Any]) -> SealedKey:
    return SealedKey(**{name: row[name] for name in SealedKey.__dataclass_fields__})


def _listed(patterns: tuple[str, ...] | None) -> list[str] | None:
    return None if patterns is None else list(patterns)


def _tuple(patterns: list[str] | None) -> tuple[str, ...] | None:
    return None if patterns is None else tuple(patterns)
