"""Phrasings as hashes in Redis, looked at key by key: what an operator asks for.

    <prefix><schema>:<scope>:<id>  scope answer partition created alias vector

All of it works without an index, and over what earlier schemas left.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis

from asgi_llmgate.backends.redis_guard import RedisGuard
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias
from asgi_llmgate.protocols import IndexSize

__all__ = ["AliasHashes", "alias_of"]

AT_ONCE = 500


class AliasHashes:
    """The hashes of one prefix.

    Args:
        client: Of protocol 2.
        guard: Shared with the index.
        prefix: Of their keys.
    """

    def __init__(self, client: Redis, guard: RedisGuard, prefix: str) -> None:
        self._client = client
        self._guard = guard
        self._prefix = prefix

    async def write(self, key: str, scope: str, alias: Alias, vector: bytes) -> None:
        fields: Any = {
            "scope": scope,
            "answer": alias.answer,
            "partition": alias.partition,
            "created": alias.created_us,
            # ASCII, whatever the question holds.
            "alias": json.dumps(alias),
            "vector": vector,
        }
        pipe = self._client.pipeline(transaction=True)
        # What it replaces may have had other fields.
        pipe.delete(key)
        pipe.hset(key, mapping=fields)
        pipe.pexpireat(key, alias.expires_us // 1000)
        await self._guard.ask(pipe.execute)

    async def unlink(self, keys: Sequence[str]) -> int:
        """Remove keys; return how many there were."""
        return int(await self._guard.once(lambda: self._client.unlink(*keys))) if keys else 0

    async def unlink_where(
        self,
        *,
        scope: str | None = None,
        ids: set[str] | None = None,
        answer: CacheKey | None = None,
        partition: str | None = None,
        created_before_us: int | None = None,
    ) -> int:
        """Remove what all given criteria hold for; return how many that were."""
        removed = 0
        async for keys in self._batches(scope or "*"):
            if ids is not None:
                keys = [key for key in keys if _place(key)[1] in ids]
            if answer is None and partition is None and created_before_us is None:
                removed += await self.unlink(keys)
                continue
            rows = await self._each(keys, "answer", "partition", "created")
            gone = [
                key
                for key, (its_answer, its_partition, created) in zip(keys, rows, strict=True)
                if (answer is None or its_answer == answer.encode())
                and (partition is None or its_partition == partition.encode())
                and (created_before_us is None or _number(created) < created_before_us)
            ]
            removed += await self.unlink(gone)
        return removed

    async def newest(
        self, *, partition: str | None, limit: int, now_us: int
    ) -> list[tuple[str, Alias]]:
        found: list[tuple[int, str]] = []
        async for keys in self._batches("*"):
            for key, (its_partition, created) in zip(
                keys, await self._each(keys, "partition", "created"), strict=True
            ):
                if created and (partition is None or its_partition == partition.encode()):
                    found.append((_number(created), key))
            found = heapq.nlargest(limit, found)
        keys = [key for _, key in found]
        rows = await self._each(keys, "alias")
        aliases = [alias_of(row[0]) for row in rows]
        return [
            (_place(key)[0], alias)
            for key, alias in zip(keys, aliases, strict=True)
            if alias is not None and alias.expires_us > now_us
        ]

    async def size(self) -> IndexSize:
        seen: set[str] = set()
        async for keys in self._batches("*"):
            seen.update(keys)
        return IndexSize(len(seen), len({_place(key)[0] for key in seen}), None)

    async def _batches(self, scope: str) -> AsyncIterator[list[str]]:
        cursor = 0
        while True:
            cursor, keys = await self._guard.once(
                lambda at=cursor: self._client.scan(  # type: ignore[misc]  # a default
                    at, match=f"{self._prefix}*:{scope}:*", count=AT_ONCE
                )
            )
            if keys:
                yield [key.decode() if isinstance(key, bytes) else key for key in keys]
            if not cursor:
                return

    async def _each(self, keys: Sequence[str], *fields: str) -> list[list[bytes | None]]:
        if not keys:
            return []
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.hmget(key, list(fields))
        answers: list[list[bytes | None]] = await self._guard.once(pipe.execute)
        return answers


def alias_of(text: str | bytes | None) -> Alias | None:
    """Return what `write` wrote; None if it is nothing of ours."""
    try:
        found = Alias(*json.loads(text or ""))
    except (TypeError, ValueError):
        return None
    *strings, created_us, expires_us = found
    if not all(isinstance(one, str) for one in strings):
        return None
    return found if isinstance(created_us, int) and isinstance(expires_us, int) else None


def _place(key: str) -> tuple[str, str]:
    """Return scope and id."""
    _, scope, id_ = key.rsplit(":", 2)
    return scope, id_


def _number(text: bytes | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
