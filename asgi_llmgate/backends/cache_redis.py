"""A cache that several machines share: plain keys in Redis, no scripts, no modules.

What is in Redis is not trusted: entries are signed, and what is no entry is no answer. Nor is it
trusted to stay. A generation that was evicted or lost with a restart comes back with a value it
never had, because it starts at the time of its making; so entries that depend on it are misses,
and never become true again.

A call waits 50 ms for Redis at most. Then a breaker keeps everybody off it for a second, and lets
one try at a time. While it is down there is no cache, and an invalidation is not acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool

from asgi_llmgate.backends.packing import pack, unpack
from asgi_llmgate.backends.redis_guard import (
    BATCH_TIMEOUT_S,
    TIMEOUT_S,
    RedisGuard,
    failure,
    redis_client,
)
from asgi_llmgate.core.cache_entry import created_us_of
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import CacheRead, CacheSize

__all__ = ["RedisCacheStore"]

PREFIX = "llmgate:"
MAX_SLOTS = 20

# A generation that goes costs misses, no truth. Without an end, names that callers make up would
# stay for good.
GENERATION_LIFE_S = 30 * 86_400

# In front of each value: when it was made, and whose it is, so that both can be read without it.
HEAD_BYTES = 8 + 16


class RedisCacheStore:
    """Keep answers in Redis 6.2 or newer.

    Needs GET, MGET, SET, INCR, DEL, EXPIRE, MULTI, EXEC, SCAN, STRLEN, GETRANGE on keys that begin
    with `prefix`: an ACL user with `-@scripting -@dangerous ~llmgate:*` will do. Not for clusters.
    How durable an invalidation is, is how durable Redis is: one that restarts from a snapshot has
    forgotten what came after it. Run it with `appendonly yes`, or without persistence.

    Args:
        client: Yours to close. Its own timeouts should be below 50 ms, and it should not retry.
        prefix: Of all keys.
        timeout_s: How long a call waits.
    """

    is_shared = True

    def __init__(
        self, client: Redis, *, prefix: str = PREFIX, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._client = client
        self._is_ours = False
        self._prefix = prefix
        self._guard = RedisGuard(timeout_s)

    @classmethod
    def from_url(
        cls, url: str, *, prefix: str = PREFIX, timeout_s: float = TIMEOUT_S
    ) -> RedisCacheStore:
        """Return a store with a client of its own, which `aclose` closes."""
        client = redis_client(url, timeout_s=timeout_s)
        store = cls(client, prefix=prefix, timeout_s=timeout_s)
        store._is_ours = True
        return store

    async def read(self, key: CacheKey, *, slots: int, names: Sequence[str]) -> CacheRead:
        async def read() -> CacheRead:
            pipe = self._client.pipeline(transaction=False)
            # In this order, so that generations are never older than values.
            if slots:
                pipe.mget([self._entry(key, slot) for slot in range(slots)])
            if names:
                pipe.mget([self._generation(name) for name in names])
            answers = await pipe.execute() if slots or names else []
            values = [_unpacked(value) for value in answers[0]] if slots else []
            found = answers[-1] if names else []
            generations = await self._complete(names, found)
            return CacheRead(values, generations)

        return await self._guard.ask(read)

    async def generations(self, names: Sequence[str]) -> dict[str, int]:
        async def read() -> dict[str, int]:
            if not names:
                return {}
            return await self._complete(
                names, await self._client.mget([self._generation(name) for name in names])
            )

        return await self._guard.ask(read)

    async def _complete(self, names: Sequence[str], found: Sequence[Any]) -> dict[str, int]:
        """Return the generations, making those that are not there."""
        missing = [name for name, value in zip(names, found, strict=True) if value is None]
        if missing:
            pipe = self._client.pipeline(transaction=False)
            for name in missing:
                pipe.set(self._generation(name), _start(), nx=True, ex=GENERATION_LIFE_S)
            pipe.mget([self._generation(name) for name in names])
            found = (await pipe.execute())[-1]
        try:
            return {name: int(value) for name, value in zip(names, found, strict=True)}
        except (TypeError, ValueError):
            raise BackendError("a generation in Redis is no number") from None

    async def write(
        self, key: CacheKey, slot: int, value: bytes, *, partition: str, ttl_s: float
    ) -> None:
        life_ms = int(ttl_s * 1000)
        if life_ms <= 0:
            await self._guard.ask(lambda: self._client.delete(self._entry(key, slot)))
            return
        created = (created_us_of(value) or 0).to_bytes(8, "big")
        head = created + partition.encode().ljust(16, b"\0")[:16]
        # Large values take longer than a timeout that is meant for round trips.
        timeout_s = self._guard.timeout_s + len(value) / 50e6
        await self._guard.ask(
            lambda: self._client.set(self._entry(key, slot), head + pack(value), px=life_ms),
            timeout_s,
        )

    async def bump(self, names: Sequence[str]) -> None:
        # Not held off by the breaker: an invalidation is worth the wait.
        await self._guard.once(lambda: _bump(self._client, self._keys(names)))

    def bump_blocking(self, names: Sequence[str]) -> None:
        pool = self._client.connection_pool
        failures: list[BaseException] = []

        async def bump() -> None:
            # Connections belong to the loop that made them, and here is another one.
            own: ConnectionPool = ConnectionPool(
                connection_class=pool.connection_class, **pool.connection_kwargs
            )
            client: Redis = Redis(connection_pool=own)
            try:
                async with asyncio.timeout(BATCH_TIMEOUT_S):
                    await _bump(client, self._keys(names))
            finally:
                await client.aclose()
                await own.disconnect()

        def run() -> None:
            try:
                asyncio.run(bump())
            except Exception as error:  # noqa: BLE001 -- raised by the thread that waits
                failures.append(error)

        thread = threading.Thread(target=run, name="llmgate-bump")
        thread.start()
        thread.join()
        if failures:
            raise failure(failures[0]) from failures[0]

    async def acquire(self, key: CacheKey, holder: str, *, ttl_s: float) -> bool:
        name, life_ms = f"{self._prefix}l:{key}", max(1, int(ttl_s * 1000))

        async def acquire() -> bool:
            if await self._client.set(name, holder, nx=True, px=life_ms):
                return True
            if await self._client.get(name) != holder.encode():
                return False
            return bool(await self._client.pexpire(name, life_ms))

        return await self._guard.ask(acquire)

    async def release(self, key: CacheKey, holder: str) -> None:
        name = f"{self._prefix}l:{key}"

        async def release() -> None:
            # Between the two it may expire and become somebody else's; then two ask, no more.
            if await self._client.get(name) == holder.encode():
                await self._client.delete(name)

        await self._guard.ask(release)

    async def delete(self, key: CacheKey) -> bool:
        names = [self._entry(key, slot) for slot in range(MAX_SLOTS)]
        return bool(await self._guard.once(lambda: self._client.delete(*names)))

    async def delete_older(self, created_before_us: int, *, partition: str | None = None) -> int:
        removed = 0
        async for names in self._batches():
            heads = await self._each(names, lambda pipe, name: pipe.getrange(name, 0, 23))
            old = [
                name
                for name, head in zip(names, heads, strict=True)
                if len(head) == HEAD_BYTES
                and int.from_bytes(head[:8], "big") < created_before_us
                and (partition is None or head[8:] == partition.encode())
            ]
            if old:
                removed += await self._guard.once(
                    lambda old=old: self._client.delete(*old),  # type: ignore[misc]  # a default
                    BATCH_TIMEOUT_S,
                )
        return removed

    async def size(self) -> CacheSize:
        entries = size = 0
        async for names in self._batches():
            lengths = await self._each(names, lambda pipe, name: pipe.strlen(name))
            entries += len(names)
            size += sum(lengths)
        return CacheSize(entries, size)

    async def _batches(self) -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            cursor, names = await self._guard.once(
                lambda at=cursor: self._client.scan(  # type: ignore[misc]  # a default
                    at, match=f"{self._prefix}e:*", count=500
                ),
                BATCH_TIMEOUT_S,
            )
            if names:
                yield [name if isinstance(name, bytes) else name.encode() for name in names]
            if not cursor:
                return

    async def _each(self, names: Sequence[bytes], ask: Callable[[Any, bytes], Any]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            ask(pipe, name)
        answers: list[Any] = await self._guard.once(pipe.execute)
        return answers

    async def aclose(self) -> None:
        if self._is_ours:
            await self._client.aclose()

    def _entry(self, key: CacheKey, slot: int) -> str:
        return f"{self._prefix}e:{key}:{slot}"

    def _generation(self, name: str) -> str:
        return f"{self._prefix}g:{name}"

    def _keys(self, names: Sequence[str]) -> list[str]:
        return [self._generation(name) for name in names]


async def _bump(client: Redis, keys: Sequence[str]) -> None:
    pipe = client.pipeline(transaction=True)
    for name in keys:
        pipe.set(name, _start(), nx=True, ex=GENERATION_LIFE_S)
        pipe.incr(name)
    await pipe.execute()


def _start() -> int:
    """Return what a generation starts with: later ones are always greater, by far."""
    return time.time_ns() // 1000 * 1000 + random.randrange(1000)  # noqa: S311 -- no secret


def _unpacked(value: bytes | None) -> bytes | None:
    return None if value is None or len(value) < HEAD_BYTES else unpack(value[HEAD_BYTES:])
