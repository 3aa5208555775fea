"""Phrasings by meaning, for all workers of a machine: kept in SQLite, looked at in memory.

What this process adds is in its matrices at once and in the file some milliseconds later, written
by a thread. What it removes is gone from both when it is told so.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from asgi_llmgate.backends import alias_rows
from asgi_llmgate.backends.alias_matrices import (
    DEFAULT_MAX_ALIASES,
    DEFAULT_MAX_BYTES,
    MAX_PER_SCOPE,
    AliasMatrices,
    require_scope,
)
from asgi_llmgate.backends.alias_rows import Change
from asgi_llmgate.backends.flusher import Flusher
from asgi_llmgate.backends.followed_scopes import FollowedScopes
from asgi_llmgate.backends.sqlite_shared import SharedFile
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Neighbour
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import IndexSize

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["VECTORS_FILE", "SqliteVectorIndex"]

logger = logging.getLogger("asgi_llmgate")

VECTORS_FILE = "semantic_vectors.sqlite"

GATHER_S = 0.005
UPKEEP_EVERY_S = 60.0
# Beyond it the disk cannot follow: phrasings are then in memory only.
MAX_WAITING = 10_000


class SqliteVectorIndex:
    """Keep phrasings in `semantic_vectors.sqlite` of `folder`, for all processes of this machine.

    Args:
        folder: The data folder, on a disk of this machine.
        max_aliases: In the file, and in memory; scopes that were used least recently make room.
        max_bytes: In memory, roughly.
        max_per_scope: Of one scope; all of it is looked at in each lookup.
        clock_us: Microseconds since the epoch.

    Raises:
        ConfigurationError: SQLite is older than 3.51.3.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_aliases: int = DEFAULT_MAX_ALIASES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_per_scope: int = MAX_PER_SCOPE,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._file = SharedFile(Path(folder) / VECTORS_FILE, alias_rows.SCHEMA)
        self._clock_us = clock_us
        self._max_aliases = max_aliases
        matrices = AliasMatrices(
            max_aliases=max_aliases,
            max_bytes=max_bytes,
            max_per_scope=max_per_scope,
            drops_scopes=True,
        )
        self._scopes = FollowedScopes(
            self._file, matrices, self._waiting_of, clock_us=clock_us, max_per_scope=max_per_scope
        )
        self._matrices = matrices
        self._start_empty()
        self._flusher = Flusher(
            self._work,
            interval_s=GATHER_S,
            name="llmgate-vectors",
            at_exit=lambda timeout_s: None,
            after_fork=self._start_empty,
        )

    def _start_empty(self) -> None:
        self._name = secrets.token_hex(8)
        self._scopes.start_empty(self._name)
        self._lock = threading.Lock()  # of `_waiting`
        self._waiting: dict[tuple[str, str], Change] = {}
        self._upkeep_at_s = 0.0
        self._used: set[str] = set()

    async def nearest(self, scope: str, vector: Vector, *, limit: int) -> list[Neighbour]:
        require_scope(scope)
        await self._scopes.ready(scope)
        found = self._matrices.nearest(scope, vector, limit=limit, now_us=self._clock_us())
        if found:
            self._used.add(scope)
        return found

    async def add(self, scope: str, alias: Alias, vector: Vector) -> None:
        require_scope(scope)
        await self._scopes.ready(scope)
        now_us = self._clock_us()
        is_over = alias.expires_us <= now_us
        if is_over:
            self._matrices.remove(scope, [alias.id])
            evicted = []
        else:
            evicted = self._matrices.add(scope, alias, vector, now_us=now_us)
        with self._lock:
            if len(self._waiting) < MAX_WAITING:
                row = None if is_over else alias_rows.packed(vector)
                self._waiting[scope, alias.id] = scope, alias, row
                for one in evicted:
                    self._waiting[scope, one.id] = scope, one, None
        self._flusher.wake()

    async def remove(self, scope: str, ids: Sequence[str]) -> None:
        require_scope(scope)

        def remove(writer: apsw.Connection) -> None:
            self._write_waiting(writer)
            gone = [_without_content(one) for one in ids]
            alias_rows.write(writer, [(scope, one, None) for one in gone], by=self._name)

        self._matrices.remove(scope, list(ids))
        try:
            await self._file.write(remove)
        finally:
            await self._scopes.settled(scope)
            self._matrices.remove(scope, list(ids))

    async def remove_answer(self, scope: str, answer: CacheKey) -> int:
        require_scope(scope)

        def find(writer: apsw.Connection) -> list[str]:
            self._write_waiting(writer)
            rows = writer.execute(
                "SELECT id FROM aliases WHERE scope = ? AND answer = ? AND expires_us > ?",
                (scope, answer, self._clock_us()),
            )
            return [id_ for (id_,) in rows]

        ids = await self._file.write(find)
        if ids:
            await self.remove(scope, ids)
        return len(ids)

    async def purge(
        self, *, partition: str | None = None, created_before_us: int | None = None
    ) -> int:
        def purge(writer: apsw.Connection) -> int:
            self._write_waiting(writer)
            return alias_rows.purge(
                writer, partition=partition, created_before_us=created_before_us
            )

        try:
            return await self._file.write(purge)
        finally:
            self._scopes.forget()

    async def listed(
        self, *, partition: str | None = None, limit: int = 100
    ) -> list[tuple[str, Alias]]:
        def read(writer: apsw.Connection) -> list[tuple[str, Alias]]:
            self._write_waiting(writer)
            return alias_rows.listed(
                writer, partition=partition, limit=limit, now_us=self._clock_us()
            )

        return await self._file.write(read)

    async def size(self) -> IndexSize:
        def size(writer: apsw.Connection) -> IndexSize:
            self._write_waiting(writer)
            sql = (
                "SELECT count(*), count(DISTINCT scope), "
                "coalesce(sum(length(vector) + length(question) + 250), 0) "
                "FROM aliases WHERE expires_us > ?"
            )
            [found] = writer.execute(sql, (self._clock_us(),))
            return IndexSize(*found)

        return await self._file.write(size)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._flusher.stop, 5.0)
        self._flusher.reset()
        self._file.close()
        self._matrices.clear()

    def _waiting_of(self, scope: str) -> list[Change]:
        with self._lock:
            return [change for change in self._waiting.values() if change[0] == scope]

    def _work(self) -> float | None:
        try:
            self._file.write_blocking(self._write_waiting)
            if time.monotonic() >= self._upkeep_at_s:
                self._upkeep_at_s = time.monotonic() + UPKEEP_EVERY_S
                self._file.write_blocking(self._tidy)
        except BackendError as error:
            with self._lock:
                dropped = len(self._waiting)
                self._waiting.clear()
            if dropped:
                logger.warning(
                    "The semantic index cannot be written, %d phrasings are lost: %s",
                    dropped,
                    error,
                )
        return None

    def _write_waiting(self, writer: apsw.Connection) -> None:
        with self._lock:
            waiting = list(self._waiting.items())
        if not waiting:
            return
        alias_rows.write(writer, [change for _, change in waiting], by=self._name)
        with self._lock:
            for place, change in waiting:
                if self._waiting.get(place) is change:
                    del self._waiting[place]

    def _tidy(self, writer: apsw.Connection) -> None:
        used, self._used = self._used, set()
        alias_rows.trim(writer, used=used, now_us=self._clock_us(), max_aliases=self._max_aliases)


def _without_content(id_: str) -> Alias:
    return Alias(id_, CacheKey(""), "", "", "", 0, 0)
