"""The control plane of one gateway: what its keys are, and who made them.

The admin API and the command line both work through it; the data plane reads it through `Keyring`
and `pooled`. With the store in the data folder nothing is made, or even loaded, before the first
key is: gateways that need none pay nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from asgi_llmgate.control.errors import ConflictError, ControlError, UnfitError, UnknownError
from asgi_llmgate.control.opening import Opening
from asgi_llmgate.control.provider_keys import ProviderKeys
from asgi_llmgate.control.virtual_keys import VirtualKeys
from asgi_llmgate.protocols import KeyChanges
from asgi_llmgate.types import KeySecret, StoredKey

__all__ = ["ConflictError", "Control", "ControlError", "UnfitError", "UnknownError"]


class Control:
    """The keys of a gateway; implements `KeyStore` for its data plane.

    Building one opens nothing.

    Args:
        url: Of a database; None keeps everything in the data folder.
        folder: The data folder.
        secrets: The secret key in force, then the others; asked for when first needed, for that
            may make one.
        tenants: Names that are taken: those of static keys.
        providers: Turns the name of a provider into its id, or None.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        url: str | None,
        folder: Path,
        secrets: Callable[[], Sequence[bytes]],
        tenants: Collection[str] = (),
        providers: Callable[[str], str | None] = str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._opening = Opening(url, folder)
        self.keys = VirtualKeys(self._opening, secrets=secrets, tenants=tenants, now=now)
        self.provider_keys = ProviderKeys(
            self._opening, secrets=secrets, providers=providers, now=now
        )

    @property
    def exists(self) -> bool:
        """Whether there is a store: a database was named, or a key was made."""
        return self._opening.exists

    async def start(self) -> None:
        """Bring the store up to date, if there is one."""
        if self.exists:
            await self._opening.store.open()

    async def aclose(self) -> None:
        await self._opening.aclose()

    async def find(self, handle: str) -> Sequence[StoredKey]:
        return await self._opening.store.find(handle) if self.exists else ()

    async def changes(self, since: int | None) -> KeyChanges | None:
        """See `KeyStore`. Provider keys are read anew with every change."""
        if not self.exists:
            return KeyChanges(0, None, False, frozenset()) if since != 0 else None
        changes = await self._opening.store.changes(since)
        if changes is not None:
            await self.provider_keys.load()
        return changes

    async def replace_digest(self, kid: str, old: KeySecret, new: KeySecret) -> None:
        await self._opening.store.replace_digest(kid, old, new)
