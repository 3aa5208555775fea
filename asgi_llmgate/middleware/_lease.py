"""Who does something, among workers that share a store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.cache_plan import BUMPS
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import CacheStore

__all__ = ["Lease", "lease_name"]


def lease_name(key: CacheKey, generations: dict[str, int]) -> CacheKey:
    """Return what a lease is on: the question, as things stand now.

    Whoever asks after an invalidation must not wait for a call from before it.
    """
    told = [key, *(f"{name}={then}" for name, then in generations.items() if name != BUMPS)]
    return CacheKey(hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest())


class Lease:
    """Held by one of all who ask for it, and prolonged until it is released.

    Args:
        ttl_s: After this long without a word from its holder it is another one's.
        complain: Told of a store that fails, in words.
    """

    def __init__(
        self,
        store: CacheStore,
        key: CacheKey,
        *,
        ttl_s: float,
        complain: Callable[[str, BackendError], None],
    ) -> None:
        self._store = store
        self._key = key
        self._ttl_s = ttl_s
        self._complain = complain
        self._holder = os.urandom(8).hex()
        self._is_held = False
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def acquire(self) -> bool:
        """Tell whether it is held now.

        Raises:
            BackendError: nobody knows.
        """
        self._is_held = await self._store.acquire(self._key, self._holder, ttl_s=self._ttl_s)
        if self._is_held:
            self._renew_later()
        return self._is_held

    async def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
        if self._is_held:
            self._is_held = False
            try:
                await self._store.release(self._key, self._holder)
            except BackendError as error:
                self._complain("A lease was not given back, it expires", error)

    def _renew_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._ttl_s / 3, self._renew_now)

    def _renew_now(self) -> None:
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        with contextlib.suppress(BackendError):  # Once more before it expires.
            await self._store.acquire(self._key, self._holder, ttl_s=self._ttl_s)
        self._renew_later()
