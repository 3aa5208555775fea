"""Which of several workers asks the provider."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.cache_plan import BUMPS
from asgi_llmgate.errors import BackendError

if TYPE_CHECKING:  # It imports this module, by way of another.
    from asgi_llmgate.middleware.cache import CacheMiddleware

__all__ = ["Lease", "lease_name"]


def lease_name(key: CacheKey, generations: dict[str, int]) -> CacheKey:
    """Return what a lease is on: the question, as things stand now.

    Whoever asks after an invalidation must not wait for a call from before it.
    """
    told = [key, *(f"{name}={then}" for name, then in generations.items() if name != BUMPS)]
    return CacheKey(hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest())


class Lease:
    """Who asks the provider, among workers; prolonged as long as the call runs."""

    def __init__(self, cache: CacheMiddleware, key: CacheKey) -> None:
        self._cache = cache
        self._key = key
        self._holder = os.urandom(8).hex()
        self._is_held = False
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def acquire(self) -> bool:
        cache = self._cache
        self._is_held = await cache.store.acquire(self._key, self._holder, ttl_s=cache.lease_s)
        if self._is_held:
            self._renew_later()
        return self._is_held

    async def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
        if self._is_held:
            try:
                await self._cache.store.release(self._key, self._holder)
            except BackendError as error:
                self._cache.complain("A lease was not given back, it expires", error)

    def _renew_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._cache.lease_s / 3, self._renew_now)

    def _renew_now(self) -> None:
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        try:
            await self._cache.store.acquire(self._key, self._holder, ttl_s=self._cache.lease_s)
        except BackendError:
            return  # It expires, and somebody else asks, too.
        self._renew_later()
