"""A cache in the memory of one process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from asgi_llmgate.backends.packing import pack, unpack
from asgi_llmgate.core.cache_entry import created_us_of
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.protocols import CacheRead, CacheSize

__all__ = ["MemoryCacheStore"]

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
# Key, time and place in the tables of Python, roughly: without it a million empty values would
# count as nothing.
OVERHEAD_BYTES = 400


class _Kept(NamedTuple):
    value: bytes
    expires_s: float
    created_us: int
    partition: str


class MemoryCacheStore:
    """Keep answers in this process; what was used least recently makes room.

    Per process: each worker has its own answers, and a purge or an invalidation reaches only the
    worker in which it was asked for. With more than one worker use a store that they share.

    Args:
        max_bytes: Of all values together.
        clock: Seconds; monotonic.
    """

    is_shared = False

    def __init__(
        self, max_bytes: int = DEFAULT_MAX_BYTES, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[tuple[CacheKey, int], _Kept] = OrderedDict()
        self._bytes = 0
        self._generations: dict[str, int] = {}
        self._leases: dict[CacheKey, tuple[str, float]] = {}
        # Signals of a host may come from any thread.
        self._bumping = threading.Lock()

    async def read(self, key: CacheKey, *, slots: int, names: Sequence[str]) -> CacheRead:
        now = self._clock()
        values: list[bytes | None] = []
        for slot in range(slots):
            place = key, slot
            kept = self._kept.get(place)
            if kept is not None and kept.expires_s <= now:
                self._forget(place)
                kept = None
            if kept is None:
                values.append(None)
            else:
                self._kept.move_to_end(place)
                values.append(unpack(kept.value))
        return CacheRead(values, self._values_of(names))

    async def generations(self, names: Sequence[str]) -> dict[str, int]:
        return self._values_of(names)

    def _values_of(self, names: Sequence[str]) -> dict[str, int]:
        generations = self._generations
        return {name: generations.get(name, 0) for name in names}

    async def write(
        self, key: CacheKey, slot: int, value: bytes, *, partition: str, ttl_s: float
    ) -> None:
        place = key, slot
        self._forget(place)
        packed = pack(value)
        size = len(packed) + OVERHEAD_BYTES
        if size > self.max_bytes:
            return
        created_us = created_us_of(value) or 0
        self._kept[place] = _Kept(packed, self._clock() + ttl_s, created_us, partition)
        self._bytes += size
        while self._bytes > self.max_bytes:
            self._forget(next(iter(self._kept)))

    async def bump(self, names: Sequence[str]) -> None:
        self.bump_blocking(names)

    def bump_blocking(self, names: Sequence[str]) -> None:
        with self._bumping:
            for name in names:
                self._generations[name] = self._generations.get(name, 0) + 1

    async def acquire(self, key: CacheKey, holder: str, *, ttl_s: float) -> bool:
        now = self._clock()
        other, until = self._leases.get(key, ("", 0.0))
        if other not in ("", holder) and until > now:
            return False
        self._leases[key] = holder, now + ttl_s
        return True

    async def release(self, key: CacheKey, holder: str) -> None:
        if self._leases.get(key, ("", 0.0))[0] == holder:
            del self._leases[key]

    async def delete(self, key: CacheKey) -> bool:
        places = [place for place in self._kept if place[0] == key]
        for place in places:
            self._forget(place)
        return bool(places)

    async def delete_older(self, created_before_us: int, *, partition: str | None = None) -> int:
        places = [
            place
            for place, kept in self._kept.items()
            if kept.created_us < created_before_us and partition in (None, kept.partition)
        ]
        for place in places:
            self._forget(place)
        return len(places)

    async def size(self) -> CacheSize:
        return CacheSize(len(self._kept), self._bytes)

    async def aclose(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def _forget(self, place: tuple[CacheKey, int]) -> None:
        kept = self._kept.pop(place, None)
        if kept is not None:
            self._bytes -= len(kept.value) + OVERHEAD_BYTES
