"""Phrasings by meaning, in Redis with its search module, by RedisVL.

One hash per phrasing, found by `VectorQuery`: the nearest neighbours among those of one scope.
That is a tag of 64 hex digits, so that no value can be split, escaped or left out. RedisVL renders
a filter for an empty value as `*`; a scope is therefore checked before anything is asked.

The schema is part of the index's name: another one makes another index, and never finds the rows of
this one. If the index is lost, as with a restart without persistence, it is made anew when it is
missed. Rows expire by themselves, at a time that nobody moves.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redisvl.exceptions import RedisVLError
from redisvl.index import AsyncSearchIndex
from redisvl.query import FilterQuery, VectorQuery
from redisvl.query.filter import Tag
from redisvl.schema import IndexSchema

from asgi_llmgate.backends.alias_hashes import AliasHashes, alias_of
from asgi_llmgate.backends.alias_matrices import require_scope
from asgi_llmgate.backends.redis_guard import BATCH_TIMEOUT_S, TIMEOUT_S, RedisGuard, redis_client
from asgi_llmgate.backends.redis_search import has_search, search_client
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.semantic.alias import Alias, Neighbour
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import IndexSize

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["RedisVectorIndex"]

T = TypeVar("T")

PREFIX = "llmgate:"
# Redis's own 10 misses one neighbour in twenty.
EF_RUNTIME = 64
# Asking whether the index is there, and making it.
MAKE_TIMEOUT_S = 0.2
AT_ONCE = 500


class RedisVectorIndex:
    """Keep phrasings in Redis 8, or in Redis 7 with the search module 2.10 or newer.

    Needs FT.SEARCH, FT.INFO, FT.CREATE and HSET, PEXPIREAT, MULTI, EXEC, DEL, UNLINK, SCAN, HMGET
    on keys that begin with `prefix`. Not for clusters.

    Args:
        client: Yours to close. RedisVL reads answers of protocol 2 only; where this client speaks
            another one, its settings are taken and a client of our own is made.
        prefix: Of all keys and of the index.
        timeout_s: How long a call waits.
        algorithm: `hnsw` looks at a part of a large scope and may miss a neighbour; `flat` looks
            at all, which is faster below some ten thousand phrasings.
        ef_runtime: Candidates that `hnsw` keeps; more finds more, more slowly.
        clock_us: Microseconds since the epoch.

    Raises:
        ConfigurationError: the client cannot be used.
    """

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = PREFIX,
        timeout_s: float = TIMEOUT_S,
        algorithm: Literal["hnsw", "flat"] = "hnsw",
        ef_runtime: int = EF_RUNTIME,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._client = search_client(client)
        self._is_ours = self._client is not client
        self._prefix = prefix
        self._guard = RedisGuard(timeout_s)
        self._hashes = AliasHashes(self._client, self._guard, f"{prefix}v:")
        self._algorithm = algorithm
        self._ef_runtime = ef_runtime
        self._clock_us = clock_us
        self._indexes: dict[int, AsyncSearchIndex] = {}
        """By the length of vectors; they are there, or were."""
        self._making = asyncio.Lock()

    @classmethod
    def from_url(
        cls, url: str, *, timeout_s: float = TIMEOUT_S, **options: Any
    ) -> RedisVectorIndex:
        """Return an index with a client of its own, which `aclose` closes."""
        index = cls(redis_client(url, timeout_s=timeout_s), timeout_s=timeout_s, **options)
        index._is_ours = True
        return index

    async def has_search(self) -> bool:
        """Say whether this Redis has the search module, and this user may use it.

        Raises:
            BackendError: it cannot be reached, or has just failed.
        """
        timeout_s = max(MAKE_TIMEOUT_S, self._guard.timeout_s)
        return await self._guard.ask(lambda: has_search(self._client, self._prefix), timeout_s)

    async def nearest(self, scope: str, vector: Vector, *, limit: int) -> list[Neighbour]:
        require_scope(scope)
        if limit <= 0:
            return []
        is_hnsw = self._algorithm == "hnsw"
        query = VectorQuery(
            vector=_packed(vector),
            vector_field_name="vector",
            filter_expression=Tag("scope") == scope,
            dtype="float16",
            num_results=limit,
            ef_runtime=max(self._ef_runtime, limit) if is_hnsw else None,
        )
        query.return_fields("alias", "vector", query.DISTANCE_ID, skip_decode="vector")
        rows = await self._search(len(vector), lambda index: index.query(query))
        return self._neighbours(scope, vector, rows)

    async def add(self, scope: str, alias: Alias, vector: Vector) -> None:
        require_scope(scope)
        index = await self._index(len(vector))
        key = f"{index.prefix}{scope}:{alias.id}"
        if alias.expires_us <= self._clock_us():
            await self._guard.ask(lambda: self._client.unlink(key))
        else:
            await self._hashes.write(key, scope, alias, _packed(vector))

    async def remove(self, scope: str, ids: Sequence[str]) -> None:
        require_scope(scope)
        if ids:
            prefixes = self._prefixes()
            keys = [f"{prefix}{scope}:{id_}" for prefix in prefixes for id_ in ids]
            if keys:
                await self._guard.once(lambda: self._client.unlink(*keys))
            else:
                await self._hashes.unlink_where(scope=scope, ids=set(ids))

    async def remove_answer(self, scope: str, answer: CacheKey) -> int:
        require_scope(scope)
        if not self._indexes:
            # Nobody has looked yet, so it is not known which indexes there are.
            return await self._hashes.unlink_where(scope=scope, answer=answer)
        return sum([await self._remove_answer(dims, scope, answer) for dims in [*self._indexes]])

    async def _remove_answer(self, dims: int, scope: str, answer: CacheKey) -> int:
        query = FilterQuery(
            filter_expression=(Tag("scope") == scope) & (Tag("answer") == answer),
            num_results=AT_ONCE,
        )
        query.no_content()
        removed = 0
        timeout_s = max(BATCH_TIMEOUT_S, self._guard.timeout_s)
        while rows := await self._search(dims, lambda index: index.query(query), timeout_s):
            keys = [row["id"] for row in rows if f":{scope}:" in row["id"]]
            gone = await self._hashes.unlink(keys)
            removed += gone
            if not gone:
                break  # They expire as they are found.
        return removed

    async def purge(
        self, *, partition: str | None = None, created_before_us: int | None = None
    ) -> int:
        return await self._hashes.unlink_where(
            partition=partition, created_before_us=created_before_us
        )

    async def listed(
        self, *, partition: str | None = None, limit: int = 100
    ) -> list[tuple[str, Alias]]:
        return await self._hashes.newest(partition=partition, limit=limit, now_us=self._clock_us())

    async def size(self) -> IndexSize:
        return await self._hashes.size()

    async def aclose(self) -> None:
        if self._is_ours:
            await self._client.aclose()

    def _neighbours(
        self, scope: str, vector: Vector, rows: list[dict[str, Any]]
    ) -> list[Neighbour]:
        now_us = self._clock_us()
        found = []
        for row in rows:
            # What expires while it is looked for comes without its fields.
            alias, packed = alias_of(row.get("alias")), row.get("vector")
            if alias is None or alias.expires_us <= now_us or f":{scope}:" not in row["id"]:
                continue
            if not isinstance(packed, bytes) or len(packed) != 2 * len(vector):
                continue
            # On some processors Redis adds up in float16; here it is as exact as elsewhere.
            own = np.frombuffer(packed, dtype=np.float16).astype(np.float32)
            score = float(own @ vector) / (float(np.linalg.norm(own)) or 1.0)
            if not math.isnan(score):
                found.append(Neighbour(alias, min(2.0, max(0.0, 1.0 - score))))
        return sorted(found, key=lambda one: one.distance)

    async def _search(
        self,
        dims: int,
        look: Callable[[AsyncSearchIndex], Awaitable[Any]],
        timeout_s: float | None = None,
    ) -> list[dict[str, Any]]:
        for is_last in (False, True):
            index = await self._index(dims)
            try:
                found = await self._guard.ask(lambda: _plain(look(index)), timeout_s)  # noqa: B023
            except _NoIndexError:
                # Redis has lost it, and what was in it as likely as not.
                self._indexes.pop(dims, None)
                if is_last:
                    raise BackendError("Redis: the index goes as it is made") from None
            else:
                return list(found)
        raise AssertionError  # for mypy

    async def _index(self, dims: int) -> AsyncSearchIndex:
        """Return the index for vectors of `dims` numbers, which is there, or was a moment ago."""
        index = self._indexes.get(dims)
        if index is None:
            async with self._making:
                index = self._indexes.get(dims)
                if index is None:
                    index = AsyncSearchIndex(self._schema(dims), redis_client=self._client)
                    timeout_s = max(MAKE_TIMEOUT_S, self._guard.timeout_s)
                    await self._guard.ask(lambda: _make(index), timeout_s)
                    self._indexes[dims] = index
        return index

    def _prefixes(self) -> list[str]:
        return [str(index.prefix) for index in self._indexes.values()]

    def _schema(self, dims: int) -> IndexSchema:
        tag = {"case_sensitive": True, "separator": "|"}
        vector: dict[str, Any] = {
            "algorithm": self._algorithm,
            "dims": dims,
            "distance_metric": "cosine",
            "datatype": "float16",
        }
        if self._algorithm == "hnsw":
            vector |= {"m": 16, "ef_construction": 200, "ef_runtime": self._ef_runtime}
        fields = [
            {"name": "scope", "type": "tag", "attrs": tag},
            {"name": "answer", "type": "tag", "attrs": tag},
            {"name": "vector", "type": "vector", "attrs": vector},
        ]
        digest = hashlib.sha256(dumps(fields)).hexdigest()[:12]
        return IndexSchema.from_dict(
            {
                "index": {
                    "name": f"{self._prefix}semantic:{digest}",
                    "prefix": f"{self._prefix}v:{digest}:",
                    "storage_type": "hash",
                },
                "fields": fields,
            }
        )


class _NoIndexError(Exception):
    """Redis has no such index."""


async def _make(index: AsyncSearchIndex) -> None:
    try:
        await _plain(index.create(overwrite=False))
    except RedisError as error:
        # Somebody was faster.
        if "already exists" not in str(error).lower():
            raise


async def _plain(asked: Awaitable[T]) -> T:
    """Raise what redis-py raised, instead of what RedisVL made of it."""
    try:
        return await asked
    except RedisVLError as error:
        cause = error.__cause__ or error
        # As search modules of several ages say it.
        text = str(cause).lower()
        if any(words in text for words in ("no such index", "unknown index", "index not found")):
            raise _NoIndexError from None
        if isinstance(cause, (RedisError, OSError)):
            raise cause from None
        raise RedisError(type(error).__name__) from error


def _packed(vector: Vector) -> bytes:
    return vector.astype(np.float16).tobytes()
