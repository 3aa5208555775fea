"""Many scopes in memory, each with its matrix; what was used least recently makes room."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from asgi_llmgate.backends.alias_matrix import AliasMatrix
from asgi_llmgate.core.semantic.alias import Alias, Neighbour

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["DEFAULT_MAX_ALIASES", "DEFAULT_MAX_BYTES", "AliasMatrices", "require_scope"]

# 100,000 questions of 50 letters are about 230 MB.
DEFAULT_MAX_ALIASES = 100_000
DEFAULT_MAX_BYTES = 256 * 1024 * 1024
# Beyond it looking at all of them takes longer than a lookup may.
MAX_PER_SCOPE = 20_000
# Empty arrays, dictionaries and lists.
SCOPE_BYTES = 1500
# Expired ones of scopes that nobody asks for are looked for so often, while there is no room.
SWEEP_EVERY_US = 10_000_000

_SCOPE = re.compile(r"[0-9a-f]{64}")


class AliasMatrices:
    """Scopes and their phrasings, within bounds.

    Args:
        max_aliases: Of all scopes together.
        max_bytes: Likewise.
        max_per_scope: Of one.
        drops_scopes: Make room by whole scopes: there is a copy elsewhere.
    """

    def __init__(
        self,
        *,
        max_aliases: int = DEFAULT_MAX_ALIASES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_per_scope: int = MAX_PER_SCOPE,
        drops_scopes: bool = False,
    ) -> None:
        self.scopes: OrderedDict[str, AliasMatrix] = OrderedDict()
        self.aliases = 0
        self.bytes = 0
        self._max_aliases = max_aliases
        self._max_bytes = max_bytes
        self._max_per_scope = max_per_scope
        self._drops_scopes = drops_scopes
        self._tick = 0
        self._swept_us = 0

    def nearest(self, scope: str, vector: Vector, *, limit: int, now_us: int) -> list[Neighbour]:
        matrix = self.scopes.get(scope)
        if matrix is None:
            return []
        self._tick += 1
        self.scopes.move_to_end(scope)
        before = self._before(matrix)
        found = matrix.nearest(vector, limit=limit, now_us=now_us, tick=self._tick)
        self._count(scope, matrix, before)
        return found

    def add(self, scope: str, alias: Alias, vector: Vector, *, now_us: int) -> list[Alias]:
        """Add a phrasing; return those that had to make room in its own scope."""
        matrix = self.scopes.get(scope)
        if matrix is None:
            matrix = self.scopes[scope] = AliasMatrix(len(vector))
            self.bytes += SCOPE_BYTES
        self._tick += 1
        self.scopes.move_to_end(scope)
        before = self._before(matrix)
        evicted = []
        matrix.add(alias, vector, tick=self._tick)
        if len(matrix) > self._max_per_scope and not matrix.expire(now_us):
            evicted.append(matrix.evict())
        self._count(scope, matrix, before)
        if self._is_full:
            self._make_room(scope, now_us)
        return evicted

    def install(self, scope: str, matrix: AliasMatrix, *, now_us: int) -> None:
        """Put in a scope that was made elsewhere, in place of what is there."""
        self.drop(scope)
        if len(matrix):
            self.scopes[scope] = matrix
            self.aliases += len(matrix)
            self.bytes += matrix.bytes + SCOPE_BYTES
            if self._is_full:
                self._make_room(scope, now_us)

    def remove(self, scope: str, ids: list[str]) -> int:
        matrix = self.scopes.get(scope)
        if matrix is None:
            return 0
        before = self._before(matrix)
        removed = matrix.remove(ids)
        self._count(scope, matrix, before)
        return removed

    def expire(self, scope: str, now_us: int) -> None:
        matrix = self.scopes[scope]
        before = self._before(matrix)
        while matrix.expire(now_us):
            pass
        self._count(scope, matrix, before)

    def drop(self, scope: str) -> None:
        matrix = self.scopes.pop(scope, None)
        if matrix is not None:
            self.aliases -= len(matrix)
            self.bytes -= matrix.bytes + SCOPE_BYTES

    def clear(self) -> None:
        self.scopes.clear()
        self.aliases = self.bytes = 0

    @property
    def _is_full(self) -> bool:
        return self.aliases > self._max_aliases or self.bytes > self._max_bytes

    def _make_room(self, newest: str, now_us: int) -> None:
        if now_us >= self._swept_us + SWEEP_EVERY_US:
            self._swept_us = now_us
            for scope in list(self.scopes):
                self.expire(scope, now_us)
        while self._is_full and self.scopes:
            scope, matrix = next(iter(self.scopes.items()))
            if self._drops_scopes and scope != newest:
                self.drop(scope)
                continue
            before = self._before(matrix)
            matrix.evict()
            self._count(scope, matrix, before)

    def _before(self, matrix: AliasMatrix) -> tuple[int, int]:
        return len(matrix), matrix.bytes

    def _count(self, scope: str, matrix: AliasMatrix, before: tuple[int, int]) -> None:
        self.aliases += len(matrix) - before[0]
        self.bytes += matrix.bytes - before[1]
        if not len(matrix):
            self.drop(scope)


def require_scope(scope: str) -> None:
    """Refuse what names no scope.

    Raises:
        ValueError: it is not 64 lower-case hex digits.
    """
    if not _SCOPE.fullmatch(scope):
        raise ValueError("a scope is 64 lower-case hex digits")
