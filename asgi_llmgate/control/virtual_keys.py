"""Make, import, rotate and revoke virtual keys."""

from __future__ import annotations

import logging
import secrets as randomness
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from asgi_llmgate.control.errors import ConflictError, UnfitError, UnknownError
from asgi_llmgate.control.opening import Opening
from asgi_llmgate.core.grants import excess, unfit
from asgi_llmgate.core.key_check import TokenDigests
from asgi_llmgate.core.virtual_keys import (
    KID_BYTES,
    SECRET_BYTES,
    hint_of,
    mint,
    new_kid,
    weakness,
)
from asgi_llmgate.types import KeySecret, StoredKey

if TYPE_CHECKING:
    from asgi_llmgate.api.models import ImportedKey, NewKey

__all__ = ["VirtualKeys"]

logger = logging.getLogger("asgi_llmgate.control")

EVERYBODY = "*"
RESERVED = ("byok:", "svc:")


class VirtualKeys:
    """The virtual keys of a gateway.

    Args:
        secrets: The secret key in force, then the others; asked for when first needed, for that
            may make one.
        tenants: Names that are taken: those of static keys.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        secrets: Callable[[], Sequence[bytes]],
        tenants: Collection[str],
        now: Callable[[], float],
    ) -> None:
        self._opening = opening
        self._secrets = secrets
        self._tenants = frozenset(tenants)
        self._now = now

    async def create(self, wish: NewKey) -> tuple[StoredKey, str]:
        """Make a key; return it with its token, which is kept nowhere.

        Raises:
            ControlError: it cannot be as wished.
        """
        kid = new_kid(randomness.token_bytes(KID_BYTES))
        token = mint(kid, randomness.token_bytes(SECRET_BYTES))
        secret = KeySecret(kid, self._digests.current(token), self._digests.current_id)
        return await self._add(wish, kid, secret, hint_of(token), is_imported=False), token

    async def import_(self, wish: ImportedKey) -> StoredKey:
        """Keep a key that was made elsewhere, so that its holders need change nothing.

        Raises:
            ControlError: it is too weak, known already, or cannot be as wished.
        """
        token = wish.secret.get_secret_value()
        if (why := weakness(token)) is not None:
            raise UnfitError(f"This secret is not imported: {why}.")
        digest = self._digests.current(token)
        for each in self._digests.all(token).values():
            if await self._find(each.hex()):
                raise ConflictError("This secret is a key already.")
        kid = new_kid(randomness.token_bytes(KID_BYTES))
        secret = KeySecret(digest.hex(), digest, self._digests.current_id)
        return await self._add(wish, kid, secret, hint_of(token), is_imported=True)

    async def get(self, kid: str) -> StoredKey:
        found = await self._opening.store.key(kid) if self._opening.exists else None
        if found is None:
            raise UnknownError("There is no key with this id.")
        return found

    async def page(
        self, *, tenant: str | None = None, after: str = "", limit: int = 100
    ) -> list[StoredKey]:
        if not self._opening.exists:
            return []
        return await self._opening.store.keys(tenant=tenant, after=after, limit=limit)

    async def revoke(self, kid: str) -> StoredKey:
        """Revoke a key, and with it all below it. Every worker knows within a second."""
        await self.get(kid)
        await self._opening.store.revoke_key(kid, self._now())
        logger.info("The key %s was revoked", kid)
        return await self.get(kid)

    async def rotate(self, kid: str, overlap_s: float) -> tuple[StoredKey, str]:
        """Give a key a new secret. Its id, its rights and its past stay; so do keys below it."""
        if (await self.get(kid)).revoked_at_s is not None:
            raise ConflictError("This key was revoked. Create another.")
        token = mint(kid, randomness.token_bytes(SECRET_BYTES))
        secret = KeySecret(kid, self._digests.current(token), self._digests.current_id)
        await self._opening.store.rotate_key(kid, secret, hint_of(token), self._now() + overlap_s)
        logger.info("The key %s has a new secret", kid)
        return await self.get(kid), token

    async def _add(
        self, wish: NewKey, kid: str, secret: KeySecret, hint: str, *, is_imported: bool
    ) -> StoredKey:
        from asgi_llmgate.backends.control import MAX_DEPTH, ExistsError

        grants = wish.grants()
        if (wrong := unfit(grants)) is not None:
            raise UnfitError(f"{wrong[0].upper()}{wrong[1:]}.")
        tenant, user_id = wish.tenant, wish.user_id
        expires_at_s = None if wish.expires_at is None else wish.expires_at.timestamp()
        if expires_at_s is not None and expires_at_s <= self._now():
            raise UnfitError("`expires_at` is in the past.")
        if wish.parent is not None:
            parent = await self.get(wish.parent)
            tenant, user_id = tenant or parent.tenant, user_id or parent.user_id
            expires_at_s = parent.expires_at_s if expires_at_s is None else expires_at_s
            wrong = _beyond(parent, tenant, user_id, expires_at_s) or excess(grants, parent.grants)
            if len(await self._find(parent.secrets[0].handle)) >= MAX_DEPTH:
                wrong = f"keys are at most {MAX_DEPTH} deep"
            if wrong is not None:
                raise UnfitError(f"A key cannot have more than its parent: {wrong}.")
        await self._check_names(wish.name, tenant, user_id)
        key = StoredKey(
            kid=kid,
            tenant=tenant or wish.name,
            name=wish.name,
            secrets=(secret,),
            grants=grants,
            user_id=user_id,
            parent=wish.parent,
            created_at_s=self._now(),
            expires_at_s=expires_at_s,
            hint=hint,
            is_imported=is_imported,
            rates=wish.rates,
        )
        try:
            await self._opening.store.add_key(key)
        except ExistsError:
            raise ConflictError("This key exists already.") from None
        logger.info("The key %s was made in the tenant %r", kid, key.tenant)
        return key

    async def _check_names(self, name: str, tenant: str | None, user_id: str | None) -> None:
        for text in (tenant or name, user_id or ""):
            if text.startswith(RESERVED) or text == EVERYBODY:
                raise UnfitError(f"Names of tenants and users do not begin with {RESERVED}.")
        if tenant is None:
            # A shared tenant shares its cache and its limits; that must be meant.
            await self._opening.store.open()
            if name in self._tenants or await self._opening.store.keys(tenant=name, limit=1):
                raise ConflictError(
                    f"There is a tenant {name!r} already. Name the tenant to put the key in it."
                )

    async def on_other_secrets(self) -> int:
        """Return how many keys still depend on a secret key that is not in force."""
        return sum(
            key.revoked_at_s is None
            and any(secret.secret_id != self._digests.current_id for secret in key.secrets)
            for key in await self.page(limit=1_000_000)
        )

    async def _find(self, handle: str) -> Sequence[StoredKey]:
        return await self._opening.store.find(handle) if self._opening.exists else ()

    @cached_property
    def _digests(self) -> TokenDigests:
        return TokenDigests(self._secrets())


def _beyond(
    parent: StoredKey, tenant: str, user_id: str | None, expires_at_s: float | None
) -> str | None:
    """Say what a child would have beyond `parent`, apart from its grants."""
    if parent.revoked_at_s is not None:
        return "the parent was revoked"
    if tenant != parent.tenant:
        return f"the parent is in the tenant {parent.tenant!r}"
    if parent.user_id not in (None, user_id):
        return "the parent is bound to another user"
    if parent.expires_at_s is not None and (expires_at_s or 0) > parent.expires_at_s:
        return "the parent expires before it"
    return None
