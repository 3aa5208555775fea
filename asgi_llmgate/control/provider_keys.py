"""Keep the operator's provider keys sealed, and hand them to the data plane."""

from __future__ import annotations

import logging
import secrets as randomness
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from asgi_llmgate.control.errors import ConflictError, UnfitError, UnknownError
from asgi_llmgate.control.opening import Opening
from asgi_llmgate.core.envelope import NONCE_BYTES, EnvelopeError, Envelopes, Place
from asgi_llmgate.core.registry import ProviderKey
from asgi_llmgate.core.virtual_keys import KID_BYTES, new_kid
from asgi_llmgate.types import Secret

if TYPE_CHECKING:
    from asgi_llmgate.api.models import NewProviderKey
    from asgi_llmgate.backends.control_rows import SealedKey

__all__ = ["ProviderKeys"]

logger = logging.getLogger("asgi_llmgate.control")

EVERYBODY = "*"
PURPOSE = "provider-key"


class ProviderKeys:
    """The provider keys that are kept in the control store.

    Args:
        secrets: The secret key in force, then the others; asked for when first needed.
        providers: Turns the name of a provider into its id, or None.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        secrets: Callable[[], Sequence[bytes]],
        providers: Callable[[str], str | None],
        now: Callable[[], float],
    ) -> None:
        self._opening = opening
        self._secrets = secrets
        self._provider_id = providers
        self._now = now
        self._pooled: Mapping[str, tuple[ProviderKey, ...]] = {}

    def pooled(self, provider: str) -> Sequence[ProviderKey]:
        """Return the stored keys of a provider, as of the last `changes`."""
        return self._pooled.get(provider, ())

    async def load(self) -> None:
        pooled: dict[str, tuple[ProviderKey, ...]] = {}
        for row in await self._opening.store.provider_keys():
            try:
                key = self._opened(row)
            except EnvelopeError as error:
                logger.error("The provider key %s is not used: %s", row.id, error)
                continue
            tenant = None if row.tenant == EVERYBODY else row.tenant
            usable = ProviderKey(row.id, Secret(key), row.weight, tenant)
            pooled[row.provider] = (*pooled.get(row.provider, ()), usable)
        self._pooled = pooled

    async def add(self, wish: NewProviderKey) -> SealedKey:
        """Seal a provider key and keep it.

        Raises:
            ControlError: there is no such provider, or one of that name.
        """
        from asgi_llmgate.backends.control import ExistsError, SealedKey

        provider = self._provider_id(wish.provider)
        if provider is None:
            raise UnfitError("There is no such provider; `llmgate providers` lists them.")
        text = self._provider_key(wish.key.get_secret_value())
        row, version = "pk_" + new_kid(randomness.token_bytes(KID_BYTES)), 1
        key = SealedKey(
            id=row,
            provider=provider,
            tenant=wish.tenant,
            name=wish.name,
            envelope=self._sealed(text, wish.tenant, row, provider, version),
            version=version,
            weight=wish.weight,
            hint=text[-4:] if len(text) >= 20 else "",
            created_at_s=self._now(),
        )
        try:
            await self._opening.store.add_provider_key(key)
        except ExistsError:
            raise ConflictError(
                f"{provider} has a key named {wish.name!r} for {wish.tenant!r} already. Replace "
                "it, or name this one differently."
            ) from None
        logger.info("The provider key %s was added for %s", row, provider)
        return key

    async def all(self) -> list[tuple[SealedKey, bool]]:
        """Return all, and whether each can be used."""
        rows = await self._opening.store.provider_keys() if self._opening.exists else []
        return [(row, self._opens(row)) for row in rows]

    async def replace(self, row_id: str, text: str, weight: float | None = None) -> SealedKey:
        """Put another key in the place of one."""
        row, _ = await self._row(row_id)
        text = self._provider_key(text)
        envelope = self._sealed(text, row.tenant, row.id, row.provider, row.version + 1)
        hint = text[-4:] if len(text) >= 20 else ""
        weight = row.weight if weight is None else weight
        replaced = await self._opening.store.replace_envelope(
            row.id, was=row.version, envelope=envelope, hint=hint, weight=weight
        )
        if not replaced:
            raise ConflictError("Somebody else changed this provider key just now. Try again.")
        logger.info("The provider key %s was replaced", row.id)
        return (await self._row(row_id))[0]

    async def remove(self, row_id: str) -> None:
        await self._row(row_id)
        await self._opening.store.remove_provider_key(row_id)
        logger.info("The provider key %s was removed", row_id)

    async def reseal(self) -> int:
        """Seal everything anew that another secret key than the one in force sealed."""
        count = 0
        for row, opens in await self.all():
            if opens and not self._envelopes.is_current(row.envelope):
                envelope = self._sealed(
                    self._opened(row), row.tenant, row.id, row.provider, row.version + 1
                )
                count += await self._opening.store.replace_envelope(
                    row.id, was=row.version, envelope=envelope, hint=row.hint, weight=row.weight
                )
        return count

    @cached_property
    def _envelopes(self) -> Envelopes:
        return Envelopes(self._secrets())

    def _sealed(self, text: str, tenant: str, row: str, provider: str, version: int) -> bytes:
        place = Place(f"{PURPOSE}/{provider}", tenant, row, version)
        return self._envelopes.seal(text, place, randomness.token_bytes(NONCE_BYTES))

    def _opened(self, row: SealedKey) -> str:
        place = Place(f"{PURPOSE}/{row.provider}", row.tenant, row.id, row.version)
        return self._envelopes.open(row.envelope, place)

    def _opens(self, row: SealedKey) -> bool:
        try:
            self._opened(row)
        except EnvelopeError:
            return False
        return True

    async def _row(self, row_id: str) -> tuple[SealedKey, bool]:
        for row, opens in await self.all():
            if row.id == row_id:
                return row, opens
        raise UnknownError("There is no provider key with this id.")

    @staticmethod
    def _provider_key(text: str) -> str:
        text = text.strip()
        if not text.isascii() or not text.isprintable() or " " in text:
            raise UnfitError("A provider key is visible ASCII without blanks.")
        return text

    async def on_other_secrets(self) -> int:
        """Return how many were sealed with a secret key that is not in force."""
        return sum(not self._envelopes.is_current(row.envelope) for row, _ in await self.all())
