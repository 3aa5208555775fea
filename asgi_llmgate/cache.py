"""What an application says to the cache of its gateway: what depends on what, and what changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from asgi_llmgate._asgi.dependencies import depends_on
from asgi_llmgate.core.cache_key import CacheKey, partition, partitions_of
from asgi_llmgate.core.cache_plan import ALL, BUMPS, generation_name
from asgi_llmgate.core.semantic.alias import Alias
from asgi_llmgate.protocols import CacheStore, VectorIndex

__all__ = ["Cache"]

KEY_CHARS = 64

# Of phrasings, when one entry's or one user's are looked for: all that the embedded index holds.
MAX_LOOKED_AT = 100_000


class Cache:
    """Invalidate, purge, look at. Nothing is opened before the first use.

    An invalidation is acknowledged when the call returns: no request that begins afterwards, in
    any worker that shares the store, is answered with what depends on it. It is a counter that is
    raised, so it takes the same time for one entry and for a million.

    Args:
        store: Returns the store, made at the first use.
        secret: Returns the key from which names of namespaces derive.
        index: Returns where phrasings are kept; None where there is no semantic cache.
    """

    def __init__(
        self,
        store: Callable[[], CacheStore],
        secret: Callable[[], bytes],
        index: Callable[[], VectorIndex | None] = lambda: None,
    ) -> None:
        self._store = store
        self._secret = secret
        self._index = index

    depends_on = staticmethod(depends_on)

    async def invalidate(self, *tags: str) -> None:
        """Make everything that depends on one of `tags` a miss.

        Raises:
            BackendError: the store did not acknowledge it; nothing is sure.
        """
        if tags:
            await self._store().bump(_tag_names(tags))

    def invalidate_blocking(self, *tags: str) -> None:
        """As `invalidate`, for code without an event loop: signals, scripts, other threads."""
        if tags:
            self._store().bump_blocking(_tag_names(tags))

    async def purge(
        self,
        *,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        model: str | None = None,
        prompt: str | None = None,
        user: str | None = None,
        entry: str | None = None,
        older_than_s: float | None = None,
        everything: bool = False,
    ) -> int | None:
        """Purge by one criterion, or by age within a namespace.

        By namespace, user, entry or age, and with everything, phrasings go, too: what people
        asked. Tags, models and prompts outdate answers only; what a question means stays known.

        Args:
            namespace: A tenant, or what `namespace=` of a middleware returned.
            model: As callers name it.
            user: Whose calls made the entries.
            entry: The key in `Cache-Status`.
            older_than_s: Entries are removed one by one; all others are outdated at once.

        Returns:
            How many entries were removed; None where they were outdated instead, uncounted.

        Raises:
            ValueError: not exactly one criterion was given, or `entry` is no key.
            BackendError: the store did not acknowledge it.
        """
        tags = tuple(tags)
        given = [tags, model, prompt, user, entry, everything]
        chosen = sum(value not in ((), None, False) for value in given)
        is_by_age = older_than_s is not None
        if chosen + (is_by_age or namespace is not None) != 1:
            raise ValueError("name one thing to purge: namespace and age may go together")
        store = self._store()
        index = self._index()
        if older_than_s is not None:
            return await self._purge_older(older_than_s, namespace, index)
        if entry is not None:
            if len(entry) != KEY_CHARS or not entry.isalnum():
                raise ValueError("an entry is named by the 64 hex digits of its key")
            if index is not None:
                await self._forget(index, lambda alias: alias.answer == entry)
            return int(await store.delete(CacheKey(entry)))
        names = [generation_name("tag", tag) for tag in tags]
        if namespace is not None:
            parts = partitions_of(self._secret(), namespace)
            names += [generation_name("namespace", part) for part in parts]
        for kind, value in (("model", model), ("prompt", prompt), ("user", user)):
            if value is not None:
                names.append(generation_name(kind, value))
        if everything:
            names.append(ALL)
        await store.bump([*names, BUMPS])
        if index is None:
            return None
        if namespace is not None:
            for part in parts:
                await index.purge(partition=part)
        if everything:
            await index.purge()
        if user is not None:
            asker = partition(self._secret(), f"principal:user:{user}")
            await self._forget(index, lambda alias: alias.principal == asker)
        return None

    async def _purge_older(
        self, age_s: float, namespace: str | None, index: VectorIndex | None
    ) -> int:
        before_us = int((time.time() - age_s) * 1e6)
        parts: list[str | None] = [None]
        if namespace is not None:
            parts = [*partitions_of(self._secret(), namespace)]
        removed = 0
        for part in parts:
            removed += await self._store().delete_older(before_us, partition=part)
            if index is not None:
                await index.purge(partition=part, created_before_us=before_us)
        return removed

    @staticmethod
    async def _forget(index: VectorIndex, is_meant: Callable[[Alias], bool]) -> None:
        by_scope: dict[str, list[str]] = {}
        for scope, alias in await index.listed(limit=MAX_LOOKED_AT):
            if is_meant(alias):
                by_scope.setdefault(scope, []).append(alias.id)
        for scope, ids in by_scope.items():
            await index.remove(scope, ids)

    async def stats(self) -> dict[str, Any]:
        """Return the number of entries and their bytes.

        Raises:
            BackendError: the store does not answer.
        """
        entries, size = await self._store().size()
        return {"entries": entries, "bytes": size}


def _tag_names(tags: Iterable[str]) -> list[str]:
    return [*(generation_name("tag", tag) for tag in tags), BUMPS]
