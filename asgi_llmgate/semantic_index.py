"""Which vector index is used where Redis is there: that depends on what it can do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Neighbour, Vector
from asgi_llmgate.protocols import IndexSize, VectorIndex

if TYPE_CHECKING:  # It needs an extra.
    from asgi_llmgate.backends.vectors_redis import RedisVectorIndex

__all__ = ["ChosenIndex"]

logger = logging.getLogger("asgi_llmgate")


class ChosenIndex:
    """RedisVL where Redis can search, else the embedded index; found out with the first use.

    Both are closed by `aclose`.

    Args:
        redis: The one.
        embedded: Makes the other.
    """

    def __init__(self, redis: RedisVectorIndex, embedded: Callable[[], VectorIndex]) -> None:
        self._redis = redis
        self._embedded = embedded
        self._chosen: VectorIndex | None = None

    async def chosen(self) -> VectorIndex:
        """Return the index in use.

        Raises:
            BackendError: Redis does not say what it can do.
        """
        if self._chosen is None:
            can_search = await self._redis.has_search()
            if self._chosen is None:  # Nobody else has chosen meanwhile.
                self._chosen = self._redis if can_search else self._embedded()
                if not can_search:
                    logger.warning(
                        "Redis has no search module, so questions are compared by the embedded "
                        "index, of this machine only. Redis 8 has one."
                    )
        return self._chosen

    async def nearest(self, scope: str, vector: Vector, *, limit: int) -> list[Neighbour]:
        return await (await self.chosen()).nearest(scope, vector, limit=limit)

    async def add(self, scope: str, alias: Alias, vector: Vector) -> None:
        await (await self.chosen()).add(scope, alias, vector)

    async def remove(self, scope: str, ids: Sequence[str]) -> None:
        await (await self.chosen()).remove(scope, ids)

    async def remove_answer(self, scope: str, answer: CacheKey) -> int:
        return await (await self.chosen()).remove_answer(scope, answer)

    async def purge(
        self, *, partition: str | None = None, created_before_us: int | None = None
    ) -> int:
        index = await self.chosen()
        return await index.purge(partition=partition, created_before_us=created_before_us)

    async def listed(
        self, *, partition: str | None = None, limit: int = 100
    ) -> list[tuple[str, Alias]]:
        return await (await self.chosen()).listed(partition=partition, limit=limit)

    async def size(self) -> IndexSize:
        return await (await self.chosen()).size()

    async def aclose(self) -> None:
        chosen, self._chosen = self._chosen, None
        if chosen is not None and chosen is not self._redis:
            await chosen.aclose()
        await self._redis.aclose()
