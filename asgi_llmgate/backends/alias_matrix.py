"""The phrasings of one scope as rows of numbers: exact nearest neighbours, no index.

20,000 rows of 384 numbers take less than 1 ms, so they are looked at where it is asked for. Rows
are kept in blocks: adding the next one never copies more than a block, 3 MB. A row that goes is
filled with the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Neighbour
from asgi_llmgate.errors import BackendError

if TYPE_CHECKING:
    import numpy.typing as npt

    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["AliasMatrix"]

BLOCK = 2048
# Tuple, strings, place in dict and list, as measured; without the text.
ALIAS_BYTES = 750

# So many phrasings of one answer say what more would say, unless they are new.
ENOUGH_OF_ONE = 64
SAME = 0.98

# What has expired goes in such portions, each less than 2 ms; the rest is passed over meanwhile.
EXPIRED_AT_ONCE = 500
NEVER = 2**63 - 1


class AliasMatrix:
    """One scope. All methods take microseconds, or 40 µs per 1,000 rows where all are looked at.

    Args:
        dims: Numbers in a vector.
    """

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.aliases: list[Alias] = []
        self.bytes = 0
        """Of rows and texts; blocks that are not full are up to as much again."""
        self._row_of: dict[str, int] = {}
        self._blocks: list[Vector] = []
        self._expires_us = np.empty(1, dtype=np.int64)
        self._used = np.empty(1, dtype=np.int64)
        self._answer_of = np.empty(1, dtype=np.int64)
        self._answers: dict[CacheKey, tuple[int, int]] = {}
        """The number of each answer in `_answer_of`, and how many lead to it."""
        self._next_answer = 0
        self._next_expiry_us = NEVER

    def __len__(self) -> int:
        return len(self.aliases)

    def nearest(self, vector: Vector, *, limit: int, now_us: int, tick: int) -> list[Neighbour]:
        """Return up to `limit` that have not expired, nearest first.

        Args:
            tick: Greater with each look; what was found is used as of now.
        """
        self.expire(now_us)
        number = len(self.aliases)
        if not number or limit <= 0:
            return []
        scores = self._scores(vector)
        if self._next_expiry_us <= now_us:
            scores[self._expires_us[:number] <= now_us] = -np.inf
        if number > limit:
            rows = np.argpartition(scores, number - limit)[number - limit :]
        else:
            rows = np.arange(number)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        rows = rows[scores[rows] > -np.inf]
        self._used[rows] = tick
        return [
            Neighbour(self.aliases[row], min(2.0, max(0.0, 1.0 - score)))
            for row, score in zip(rows.tolist(), scores[rows].tolist(), strict=True)
        ]

    def add(self, alias: Alias, vector: Vector, *, tick: int) -> None:
        """Add a phrasing, in place of what has its id.

        Of an answer that has many already, one that says nothing new takes the place of the one
        that it repeats.
        """
        self._check(vector)
        if alias.id in self._row_of:
            self._drop(self._row_of[alias.id])
        if (row := self._repeated(alias.answer, vector)) is not None:
            if self.aliases[row].expires_us > alias.expires_us:
                return
            self._drop(row)
        row = len(self.aliases)
        self._make_room(row + 1)
        self._blocks[row // BLOCK][row % BLOCK] = vector
        self._expires_us[row] = alias.expires_us
        self._used[row] = tick
        number, count = self._answers.get(alias.answer, (self._next_answer, 0))
        self._answers[alias.answer] = number, count + 1
        self._next_answer += not count
        self._answer_of[row] = number
        self.aliases.append(alias)
        self._row_of[alias.id] = row
        self.bytes += self._size(alias)
        self._next_expiry_us = min(self._next_expiry_us, alias.expires_us)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove those that are there; return how many that were."""
        before = len(self.aliases)
        for one in ids:
            if (row := self._row_of.get(one)) is not None:
                self._drop(row)
        return before - len(self.aliases)

    def remove_answer(self, answer: CacheKey) -> int:
        return self.remove(self.ids_of(answer))

    def ids_of(self, answer: CacheKey) -> list[str]:
        """Return the ids of all phrasings that lead to `answer`."""
        return [self.aliases[row].id for row in self._rows_of(answer).tolist()]

    def expire(self, now_us: int) -> int:
        """Remove what has expired, or some of it; return how many that were."""
        if now_us < self._next_expiry_us:
            return 0
        number = len(self.aliases)
        gone = np.flatnonzero(self._expires_us[:number] <= now_us)[:EXPIRED_AT_ONCE]
        removed = self.remove([self.aliases[row].id for row in gone.tolist()])
        left = self._expires_us[: len(self.aliases)]
        self._next_expiry_us = int(left.min()) if left.size else NEVER
        return removed

    def evict(self) -> Alias:
        """Remove what was used least recently, and return it. There must be something."""
        row = int(np.argmin(self._used[: len(self.aliases)]))
        alias = self.aliases[row]
        self._drop(row)
        return alias

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self.dims,):
            raise BackendError(f"a vector of {self.dims} numbers was expected")

    def _scores(self, vector: Vector) -> Vector:
        self._check(vector)
        number = len(self.aliases)
        scores = np.empty(number, dtype=np.float32)
        query = np.ascontiguousarray(vector, dtype=np.float32)
        for start in range(0, number, BLOCK):
            end = min(number, start + BLOCK)
            # As fast as a product of matrix and vector, which BLAS would share between threads and
            # wait for the last: on a busy machine for 200 ms, where this one takes 5.
            np.vecdot(self._blocks[start // BLOCK][: end - start], query, out=scores[start:end])
        return scores

    def _repeated(self, answer: CacheKey, vector: Vector) -> int | None:
        """Return the row of the phrasing of `answer` that `vector` repeats, if it has many."""
        if self._answers.get(answer, (0, 0))[1] < ENOUGH_OF_ONE:
            return None
        rows = self._rows_of(answer)
        kept = np.stack([self._blocks[row // BLOCK][row % BLOCK] for row in rows.tolist()])
        scores = np.vecdot(kept, vector)
        best = int(np.argmax(scores))
        return int(rows[best]) if scores[best] >= SAME else None

    def _rows_of(self, answer: CacheKey) -> npt.NDArray[np.int64]:
        number, _ = self._answers.get(answer, (-1, 0))
        return np.flatnonzero(self._answer_of[: len(self.aliases)] == number)

    def _drop(self, row: int) -> None:
        gone, last = self.aliases[row], len(self.aliases) - 1
        if row != last:
            moved = self.aliases[row] = self.aliases[last]
            self._row_of[moved.id] = row
            self._blocks[row // BLOCK][row % BLOCK] = self._blocks[last // BLOCK][last % BLOCK]
            for column in (self._expires_us, self._used, self._answer_of):
                column[row] = column[last]
        self.aliases.pop()
        del self._row_of[gone.id]
        self.bytes -= self._size(gone)
        number, count = self._answers[gone.answer]
        if count > 1:
            self._answers[gone.answer] = number, count - 1
        else:
            del self._answers[gone.answer]
        if len(self._blocks) > 1 and last <= (len(self._blocks) - 1) * BLOCK - BLOCK // 2:
            self._blocks.pop()

    def _make_room(self, rows: int) -> None:
        full = len(self._blocks) - 1
        if not self._blocks:
            self._blocks.append(np.empty((1, self.dims), dtype=np.float32))
        elif rows > full * BLOCK + len(self._blocks[-1]):
            block = self._blocks[-1]
            if len(block) < BLOCK:
                larger = np.empty((2 * len(block), self.dims), dtype=np.float32)
                larger[: len(block)] = block
                self._blocks[-1] = larger
            else:
                self._blocks.append(np.empty((BLOCK, self.dims), dtype=np.float32))
        if rows > self._used.size:
            size = 2 * self._used.size
            self._expires_us = np.resize(self._expires_us, size)
            self._used = np.resize(self._used, size)
            self._answer_of = np.resize(self._answer_of, size)

    def _size(self, alias: Alias) -> int:
        return 4 * self.dims + 24 + ALIAS_BYTES + len(alias.question)
