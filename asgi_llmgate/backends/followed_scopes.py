"""Scopes of an SQLite file in memory, which follow what other processes do to it.

A scope is read when somebody first asks for it, on the event loop if it is small, and kept as a
matrix as long as there is room. What others did is in the table `changes`; a lookup looks there at
most every 0.3 s, and only if anything was committed, which costs 2 µs to know.

What may never happen: a scope in memory that lacks what its file had when it was looked for, or
has what was removed. So whoever wants a scope that is being read waits for it, and what changes
meanwhile has it read once more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import apsw

from asgi_llmgate.backends import alias_rows
from asgi_llmgate.backends.alias_matrices import AliasMatrices
from asgi_llmgate.backends.alias_rows import Change
from asgi_llmgate.backends.sqlite_shared import SharedFile

__all__ = ["SMALL", "FollowedScopes"]

FOLLOW_EVERY_S = 0.3
# More changes than that are not read one by one, but with their scopes: for 2 ms are enough.
FOLLOW_AT_ONCE = 100
# A scope of no more rows is read on the event loop: less than 1 ms.
SMALL = 64


class FollowedScopes:
    """Fills `matrices` from `file`.

    Args:
        file: Whose rows they are.
        matrices: Also changed by whoever adds and removes.
        waiting_of: What this process has not yet written of a scope.
        clock_us: Microseconds since the epoch.
        max_per_scope: Rows that are read.
    """

    def __init__(
        self,
        file: SharedFile,
        matrices: AliasMatrices,
        waiting_of: Callable[[str], list[Change]],
        *,
        clock_us: Callable[[], int],
        max_per_scope: int,
    ) -> None:
        self._file = file
        self._matrices = matrices
        self._waiting_of = waiting_of
        self._clock_us = clock_us
        self._max_per_scope = max_per_scope
        self.start_empty("")

    def start_empty(self, name: str) -> None:
        """Forget everything. `name` is what this process writes its changes under."""
        self._name = name
        self._matrices.clear()
        self._opened = 0
        self._seen = 0
        self._data_version = 0
        self._follow_at_s = 0.0
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._outdated: set[str] = set()

    async def settled(self, scope: str) -> None:
        """Wait for a scope that is being read: what was read may be from before."""
        if (load := self._loads.get(scope)) is not None:
            await asyncio.wait([load])

    async def ready(self, scope: str) -> None:
        """See to it that the matrix of `scope` is as its rows were 0.3 s ago, and all of ours."""
        reader = await self._file.reader()
        try:
            self._follow(reader)
            if scope in self._matrices.scopes:
                return
            if scope not in self._loads:
                waiting = self._waiting_of(scope)
                now_us = self._clock_us()
                rows = alias_rows.read_scope(reader, scope, now_us=now_us, limit=SMALL + 1)
                if len(rows) <= SMALL:
                    matrix = alias_rows.matrix_of(rows, waiting)
                    self._matrices.install(scope, matrix, now_us=now_us)
                    return
                load = self._loads[scope] = asyncio.create_task(self._load(scope))
                load.add_done_callback(lambda _: self._loads.pop(scope, None))
        except apsw.Error as error:
            raise self._file.failed(error) from error
        # Who leaves does not take it from the others who wait for it.
        await asyncio.shield(self._loads[scope])

    async def _load(self, scope: str) -> None:
        """Read a large scope, on a thread."""
        while True:
            self._outdated.discard(scope)
            waiting = self._waiting_of(scope)
            now_us = self._clock_us()
            rows = await self._file.write(
                lambda writer, now_us=now_us: alias_rows.read_scope(  # type: ignore[misc]  # default
                    writer, scope, now_us=now_us, limit=self._max_per_scope
                )
            )
            matrix = await asyncio.to_thread(alias_rows.matrix_of, rows, waiting)
            if scope not in self._outdated:
                self._matrices.install(scope, matrix, now_us=now_us)
                return

    def _follow(self, reader: apsw.Connection) -> None:
        """Do in memory what others did in the file."""
        if self._opened != self._file.opened:
            self._opened = self._file.opened
            _, self._seen = alias_rows.last_change(reader)
            self._data_version = reader.pragma("data_version")
            self.forget()
            return
        now_s = time.monotonic()
        if now_s < self._follow_at_s:
            return
        self._follow_at_s = now_s + FOLLOW_EVERY_S
        version = reader.pragma("data_version")
        if version == self._data_version:
            return
        first, last = alias_rows.last_change(reader)
        after, self._seen, self._data_version = self._seen, last, version
        if first > after + 1:
            self.forget()
            return
        if last - after > FOLLOW_AT_ONCE:
            scopes = alias_rows.changed_scopes(reader, after, last, by=self._name)
            for scope in scopes:
                self._outdate(scope)
            return
        for scope, id_, alias, vector in alias_rows.changed(reader, after, last, by=self._name):
            if scope not in self._matrices.scopes or scope in self._loads:
                self._outdate(scope)
            elif alias is None or vector is None or alias.expires_us <= self._clock_us():
                self._matrices.remove(scope, [id_])
            else:
                self._matrices.add(scope, alias, vector, now_us=self._clock_us())

    def _outdate(self, scope: str) -> None:
        """Have a scope read again when it is next asked for."""
        if scope == alias_rows.EVERYTHING:
            self.forget()
        self._matrices.drop(scope)
        if scope in self._loads:
            self._outdated.add(scope)

    def forget(self) -> None:
        """Have everything read again when it is next asked for."""
        self._matrices.clear()
        self._outdated.update(self._loads)
