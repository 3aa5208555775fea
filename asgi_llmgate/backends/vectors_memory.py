"""Phrasings by meaning, in the memory of one process."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from asgi_llmgate.backends.alias_matrices import (
    DEFAULT_MAX_ALIASES,
    DEFAULT_MAX_BYTES,
    MAX_PER_SCOPE,
    AliasMatrices,
    require_scope,
)
from asgi_llmgate.backends.alias_matrix import AliasMatrix
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Neighbour
from asgi_llmgate.protocols import IndexSize

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["MemoryVectorIndex"]

# Looked at between two breaths of the event loop: less than 2 ms.
AT_ONCE = 2000


class MemoryVectorIndex:
    """Keep phrasings in this process; what was used least recently makes room.

    Per process: each worker has its own, and what one removes the others keep. With more than one
    worker use an index that they share.

    Args:
        max_aliases: Of all scopes together.
        max_bytes: Of vectors and texts together, roughly.
        max_per_scope: Of one scope; all of it is looked at in each lookup.
        clock_us: Microseconds since the epoch.
    """

    def __init__(
        self,
        *,
        max_aliases: int = DEFAULT_MAX_ALIASES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_per_scope: int = MAX_PER_SCOPE,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._clock_us = clock_us
        self._matrices = AliasMatrices(
            max_aliases=max_aliases, max_bytes=max_bytes, max_per_scope=max_per_scope
        )

    async def nearest(self, scope: str, vector: Vector, *, limit: int) -> list[Neighbour]:
        require_scope(scope)
        return self._matrices.nearest(scope, vector, limit=limit, now_us=self._clock_us())

    async def add(self, scope: str, alias: Alias, vector: Vector) -> None:
        require_scope(scope)
        now_us = self._clock_us()
        if alias.expires_us > now_us:
            self._matrices.add(scope, alias, vector, now_us=now_us)
        else:
            self._matrices.remove(scope, [alias.id])

    async def remove(self, scope: str, ids: Sequence[str]) -> None:
        require_scope(scope)
        self._matrices.remove(scope, list(ids))

    async def remove_answer(self, scope: str, answer: CacheKey) -> int:
        require_scope(scope)
        matrix = self._matrices.scopes.get(scope)
        return 0 if matrix is None else self._matrices.remove(scope, matrix.ids_of(answer))

    async def purge(
        self, *, partition: str | None = None, created_before_us: int | None = None
    ) -> int:
        removed = 0
        async for scope, matrix in self._each():
            gone = [
                alias.id
                for alias in matrix.aliases
                if partition in (None, alias.partition)
                and (created_before_us is None or alias.created_us < created_before_us)
            ]
            for start in range(0, len(gone), AT_ONCE):
                removed += self._matrices.remove(scope, gone[start : start + AT_ONCE])
                if start:
                    await asyncio.sleep(0)
        return removed

    async def listed(
        self, *, partition: str | None = None, limit: int = 100
    ) -> list[tuple[str, Alias]]:
        now_us = self._clock_us()
        found: list[tuple[str, Alias]] = []
        async for scope, matrix in self._each():
            found += [
                (scope, alias)
                for alias in matrix.aliases
                if partition in (None, alias.partition) and alias.expires_us > now_us
            ]
            if len(found) > limit + AT_ONCE:
                found = _newest(found, limit)
        return _newest(found, limit)

    async def size(self) -> IndexSize:
        now_us = self._clock_us()
        async for scope, _ in self._each():
            self._matrices.expire(scope, now_us)
        matrices = self._matrices
        return IndexSize(matrices.aliases, len(matrices.scopes), matrices.bytes)

    async def aclose(self) -> None:
        self._matrices.clear()

    async def _each(self) -> AsyncIterator[tuple[str, AliasMatrix]]:
        """Return all scopes, letting others work in between."""
        looked_at = 0
        for scope in list(self._matrices.scopes):
            matrix = self._matrices.scopes.get(scope)
            if matrix is None:
                continue
            looked_at += len(matrix) + 1
            if looked_at > AT_ONCE:
                looked_at = 0
                await asyncio.sleep(0)
                if scope not in self._matrices.scopes:
                    continue
            yield scope, matrix


def _newest(found: list[tuple[str, Alias]], limit: int) -> list[tuple[str, Alias]]:
    return heapq.nlargest(limit, found, key=lambda one: one[1].created_us)
