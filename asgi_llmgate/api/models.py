"""What the admin API takes and gives. Built field by field: nothing is shown that is not named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from asgi_llmgate.backends.control_rows import SealedKey
from asgi_llmgate.core.limits import BadPolicyError, parse_policies
from asgi_llmgate.types import Grants, KeyScope, StoredKey

__all__ = [
    "ImportedKey",
    "IssuedKey",
    "KeyList",
    "KeyView",
    "NewKey",
    "NewProviderKey",
    "ProviderKeyList",
    "ProviderKeyView",
    "Removed",
    "ReplacedProviderKey",
    "Resealed",
    "Rotation",
    "Whoami",
    "key_view",
    "provider_key_view",
]


def _named(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable, without blanks around it")
    return text


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("needs a time zone, such as Z")
    return moment


def _rates(text: str) -> str:
    try:
        parse_policies(text, source="key")
    except BadPolicyError as error:
        raise ValueError(f"expected {error}") from None
    return text


Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_named)]
Moment = Annotated[datetime, AfterValidator(_in_utc)]
SecretText = Annotated[SecretStr, Field(min_length=8, max_length=4096)]


class Body(BaseModel):
    # Values may be secrets, so no message quotes them.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NewKey(Body):
    """A key to be made. What is left out restricts nothing."""

    name: Name
    tenant: Name | None = None
    """Defaults to the name; then no other key may be in that tenant."""
    user_id: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_named)] | None = (
        None
    )
    """The end user it is bound to."""
    parent: str | None = None
    """The id of the key that it may never exceed."""
    scopes: list[KeyScope] = [KeyScope.CALL]
    models: list[str] | None = None
    providers: list[str] | None = None
    routes: list[str] | None = None
    tags: dict[str, str] = {}
    rates: Annotated[str, Field(max_length=1024), AfterValidator(_rates)] | None = None
    """What it may use: `100;w=60, 50000;w=60;u=token`; keys below it count, too."""
    expires_at: Moment | None = None

    def grants(self) -> Grants:
        return Grants(
            scopes=frozenset(self.scopes),
            models=None if self.models is None else tuple(self.models),
            providers=None
            if self.providers is None
            else tuple(provider.lower() for provider in self.providers),
            routes=None if self.routes is None else tuple(self.routes),
            tags=tuple(sorted((name.lower(), value) for name, value in self.tags.items())),
        )


class ImportedKey(NewKey):
    """A key that was made elsewhere and goes on working here."""

    secret: SecretText


class Rotation(Body):
    """How long the old secret still works."""

    overlap_s: float = Field(86_400, ge=0, le=90 * 86_400)


class KeyView(BaseModel):
    """A key, without its secret."""

    kid: str
    name: str
    tenant: str
    user_id: str | None
    parent: str | None
    state: Literal["active", "expired", "revoked"]
    scopes: list[KeyScope]
    models: list[str] | None
    providers: list[str] | None
    routes: list[str] | None
    tags: dict[str, str]
    rates: str | None
    hint: str
    """The last characters of the secret."""
    imported: bool
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    old_secret_until: datetime | None
    """Until when the secret before the last rotation works."""


class KeyList(BaseModel):
    keys: list[KeyView]
    next: str | None
    """What to send as `after` for the next page; null on the last."""


class IssuedKey(BaseModel):
    """A key and its secret, which is shown this once."""

    key: KeyView
    token: str


class NewProviderKey(Body):
    """A key of a provider, for callers the gateway knows."""

    provider: Name
    name: Name = "default"
    tenant: Name = "*"
    """Whose calls it pays for; `*` is everybody's."""
    weight: float = Field(1.0, gt=0, le=1e6)
    key: SecretText


class ReplacedProviderKey(Body):
    key: SecretText
    weight: float | None = Field(None, gt=0, le=1e6)


class ProviderKeyView(BaseModel):
    """A provider key, without the key."""

    id: str
    provider: str
    name: str
    tenant: str
    weight: float
    hint: str
    created_at: datetime
    usable: bool
    """False if its envelope does not open: another secret key, or it was altered."""


class ProviderKeyList(BaseModel):
    provider_keys: list[ProviderKeyView]


class Removed(BaseModel):
    removed: str


class Resealed(BaseModel):
    resealed: int
    """How many were sealed anew with the secret key in force."""


class Whoami(BaseModel):
    kind: Literal["admin", "key"]
    permissions: list[str]
    kid: str | None = None
    tenant: str | None = None
    user_id: str | None = None
    scopes: list[KeyScope] | None = None


def key_view(key: StoredKey, now_s: float) -> KeyView:
    state: Literal["active", "expired", "revoked"] = "active"
    if key.revoked_at_s is not None:
        state = "revoked"
    elif key.expires_at_s is not None and key.expires_at_s <= now_s:
        state = "expired"
    old = key.secrets[1].expires_at_s if len(key.secrets) > 1 else None
    grants = key.grants
    return KeyView(
        kid=key.kid,
        name=key.name,
        tenant=key.tenant,
        user_id=key.user_id,
        parent=key.parent,
        state=state,
        scopes=sorted(grants.scopes),
        models=None if grants.models is None else list(grants.models),
        providers=None if grants.providers is None else list(grants.providers),
        routes=None if grants.routes is None else list(grants.routes),
        tags=dict(grants.tags),
        rates=key.rates,
        hint=key.hint,
        imported=key.is_imported,
        created_at=moment(key.created_at_s),
        expires_at=None if key.expires_at_s is None else moment(key.expires_at_s),
        revoked_at=None if key.revoked_at_s is None else moment(key.revoked_at_s),
        old_secret_until=moment(old) if old is not None and old > now_s else None,
    )


def provider_key_view(key: SealedKey, *, usable: bool) -> ProviderKeyView:
    return ProviderKeyView(
        id=key.id,
        provider=key.provider,
        name=key.name,
        tenant=key.tenant,
        weight=key.weight,
        hint=key.hint,
        created_at=moment(key.created_at_s),
        usable=usable,
    )


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
