"""Questions to the journal. Reading never makes a writer wait, and never changes the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from asgi_llmgate.backends.journal_schema import (
    BODY_COLUMNS,
    COLUMNS,
    JOURNAL_FILE,
    check_schema,
    record_of,
)
from asgi_llmgate.backends.sqlite_file import connect, failure
from asgi_llmgate.core.stats import CallFilter, StatsRow, parse_grouping, parse_status
from asgi_llmgate.errors import BackendError
from asgi_llmgate.types import CallRecord

__all__ = ["AmbiguousIdError", "CacheSums", "JournalReader", "Progress"]

Progress = Callable[[float | None], None]
"""Told about ten times a second how many seconds a question has taken; None at its end."""

ALL = CallFilter()

GROUP_SQL = {
    "user": "c.user_id",
    "model": "coalesce(c.model, c.model_requested)",
    "provider": "c.provider",
    "session": "c.session_id",
    "status": "CAST(c.status AS TEXT)",
    "day": "strftime('%Y-%m-%d', c.started_at_us / 1000000, 'unixepoch')",
    "key": "c.principal_id",
    "tenant": "c.tenant",
    "route": "c.route",
    "property": "c.properties ->> :property",
}

IS_ERROR = (
    "(c.status IS NULL OR c.status >= 400 OR c.error_code IS NOT NULL"
    " OR (NOT c.complete AND NOT c.client_left))"
)

# SQLite's own percentile(): exact, linear between neighbours. A million calls take a second.
PERCENTILES = "percentile({0}, 50), percentile({0}, 95), percentile({0}, 99)"

CALLS = ", ".join(f"c.{name}" for name in ("seq", *COLUMNS))
BODIES = ", ".join(f"b.{name}" for name in BODY_COLUMNS[1:])

# SQLite steps between two looks at the clock: about 10 ms.
PROGRESS_STEPS = 200_000
PROGRESS_EVERY_S = 0.1


class AmbiguousIdError(LookupError):
    """Several calls match: their ids are in `ids`."""

    def __init__(self, ids: list[str]) -> None:
        super().__init__(f"{len(ids)} calls match: {', '.join(ids)}")
        self.ids = ids


class CacheSums(NamedTuple):
    """Calls with one status of the cache, of one tier."""

    status: str
    is_semantic: bool
    calls: int
    saved_nanousd: int


class JournalReader:
    """Read `journal.sqlite` of `folder`, while others write it.

    Opens the file at the first question and keeps it open; `close` it. One thread at a time.
    Every method raises `BackendError` where there is no journal (see `exists`) or it cannot
    be read.

    Args:
        folder: The data folder.
        progress: Told how long a slow question has taken.
    """

    def __init__(self, folder: Path, *, progress: Progress | None = None) -> None:
        self.path = Path(folder) / JOURNAL_FILE
        self._progress = progress
        self._connection: apsw.Connection | None = None
        self._asked_at = self._told_at = 0.0

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def tail(
        self, limit: int, filters: CallFilter = ALL, *, bodies: bool = False
    ) -> tuple[list[CallRecord], int]:
        """Return the last calls, oldest first, and the place from which `since` goes on."""
        # Asked first: what comes between the two questions is then shown, not skipped.
        rows = self._rows("SELECT coalesce(max(seq), 0) FROM calls", {})
        place: int = rows[0][0]
        found = self._select(filters, f"AND c.seq <= {place} ORDER BY c.seq DESC", limit, bodies)
        return [record for _, record in reversed(found)], place

    def since(
        self, place: int, filters: CallFilter = ALL, *, limit: int = 1000, bodies: bool = False
    ) -> tuple[list[CallRecord], int]:
        """Return calls that became readable after `place`, in that order, and the next place."""
        rows = self._rows("SELECT coalesce(max(seq), 0) FROM calls", {})
        end = max(place, rows[0][0])
        order = f"AND c.seq > {place} AND c.seq <= {end} ORDER BY c.seq"
        found = self._select(filters, order, limit, bodies)
        if len(found) == limit:
            end = found[-1][0]
        return [record for _, record in found], end

    def query(
        self,
        filters: CallFilter = ALL,
        *,
        limit: int = 100,
        before: int | None = None,
        bodies: bool = False,
    ) -> tuple[list[CallRecord], int | None]:
        """Return a page of calls, newest first, and what to pass as `before` for the next."""
        order = "" if before is None else f"AND c.seq < {before}"
        found = self._select(filters, f"{order} ORDER BY c.seq DESC", limit, bodies)
        more = found[-1][0] if len(found) == limit else None
        return [record for _, record in found], more

    def get(self, id_or_prefix: str, *, tenant: str | None = None) -> CallRecord | None:
        """Return the call of this id, with bodies, or of the only id that starts so.

        Raises:
            AmbiguousIdError: several do; a caller-chosen id is unique within its tenant only.
        """
        filters = CallFilter(tenant=tenant)
        found = self._select(filters, "AND c.id = :id ORDER BY c.seq", 10, True, id=id_or_prefix)
        if not found:
            # A range, unlike LIKE, uses the index and has no wildcards.
            condition = "AND c.id >= :id AND c.id < :id || char(1114111) ORDER BY c.id"
            found = self._select(filters, condition, 10, True, id=id_or_prefix)
        if len(found) > 1:
            raise AmbiguousIdError([record.id for _, record in found])
        return found[0][1] if found else None

    def stats(self, by: str, filters: CallFilter = ALL) -> list[StatsRow]:
        """Return figures per `user`, `model`, `provider`, `session`, `status`, `day` (UTC),
        `key` or `property:NAME`; those with the most calls first, days in order.

        Raises:
            ValueError: there is no such grouping.
        """
        name, property_name = parse_grouping(by)
        where, values = _conditions(filters)
        if property_name is not None:
            values["property"] = _json_path(property_name)
        order = "1" if name == "day" else "2 DESC, 1"
        rows = self._rows(
            f"SELECT {GROUP_SQL[name]}, count(*), sum({IS_ERROR}),"  # noqa: S608 -- our own parts
            " coalesce(sum(c.input_tokens), 0), coalesce(sum(c.output_tokens), 0),"
            " coalesce(sum(c.cost_nanousd), 0),"
            " sum(c.cost_nanousd IS NULL AND c.input_tokens IS NOT NULL),"
            f" {PERCENTILES.format('c.duration_ms')}, {PERCENTILES.format('c.first_byte_ms')}"
            f" FROM calls c WHERE {where} GROUP BY 1 ORDER BY {order}",
            values,
        )
        return [_stats_row(*row) for row in rows]

    def cache_sums(self, filters: CallFilter = ALL) -> list[CacheSums]:
        """Return what became of the calls that could be cached."""
        where, values = _conditions(filters)
        rows = self._rows(
            "SELECT c.cache, coalesce(c.cache_reason LIKE 'semantic;%', 0), count(*),"  # noqa: S608
            " coalesce(sum(c.saved_nanousd), 0)"
            f" FROM calls c WHERE {where} AND c.cache IS NOT NULL GROUP BY 1, 2",
            values,
        )
        return [CacheSums(status, bool(semantic), *sums) for status, semantic, *sums in rows]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _select(
        self, filters: CallFilter, condition: str, limit: int, bodies: bool, **values: Any
    ) -> list[tuple[int, CallRecord]]:
        where, bound = _conditions(filters)
        columns, join = CALLS, ""
        if bodies:
            columns, join = f"{CALLS}, {BODIES}", "LEFT JOIN bodies b ON b.seq = c.seq"
        rows = self._rows(
            f"SELECT {columns} FROM calls c {join}"  # noqa: S608 -- our own parts
            f" WHERE {where} {condition} LIMIT {limit:d}",
            {**bound, **values},
        )
        end = 1 + len(COLUMNS)
        return [(row[0], record_of(row[1:end], row[end:] if bodies else None)) for row in rows]

    def _rows(self, sql: str, values: dict[str, Any]) -> list[Any]:
        self._asked_at = self._told_at = time.monotonic()
        try:
            return self._opened().execute(sql, values).fetchall()
        except apsw.Error as error:
            raise failure(error) from error
        finally:
            if self._progress is not None and self._told_at > self._asked_at:
                self._progress(None)

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            if not self.exists:
                raise BackendError(f"there is no call log at {self.path}")
            connection = connect(self.path, readonly=True)
            try:
                check_schema(connection)
            except BaseException:
                connection.close()
                raise
            if self._progress is not None:
                connection.set_progress_handler(self._tell, PROGRESS_STEPS)
            self._connection = connection
        return self._connection

    def _tell(self) -> bool:
        now = time.monotonic()
        if self._progress is not None and now - self._told_at >= PROGRESS_EVERY_S:
            self._told_at = now
            self._progress(now - self._asked_at)
        return False


def _stats_row(
    key: str | None,
    calls: int,
    errors: int,
    input_tokens: int,
    output_tokens: int,
    cost_nanousd: int,
    unpriced: int,
    *percentiles: float | None,
) -> StatsRow:
    # A group has a call, and a call a duration; a first byte only where there was an answer.
    p50, p95, p99, f50, f95, f99 = (value if value is not None else 0.0 for value in percentiles)
    return StatsRow(
        key=key,
        calls=calls,
        errors=errors,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_nanousd=cost_nanousd,
        unpriced=unpriced,
        duration_ms=(p50, p95, p99),
        first_byte_ms=None if percentiles[3] is None else (f50, f95, f99),
    )


def _conditions(filters: CallFilter) -> tuple[str, dict[str, Any]]:
    """Return an SQL condition over `calls c`, and the values of its parameters."""
    found = list(_parts(filters))
    values = {name: value for _, given in found for name, value in given.items()}
    return " AND ".join(["1", *(sql for sql, _ in found)]), values


def _parts(filters: CallFilter) -> Iterator[tuple[str, dict[str, Any]]]:
    for column, value in (
        ("user_id", filters.user),
        ("provider", filters.provider),
        ("session_id", filters.session),
        ("tenant", filters.tenant),
    ):
        if value is not None:
            yield f"c.{column} = :{column}", {column: value}
    if filters.since_us is not None:
        yield "c.started_at_us >= :since", {"since": filters.since_us}
    if filters.until_us is not None:
        yield "c.started_at_us < :until", {"until": filters.until_us}
    if filters.model is not None:
        yield ":model IN (c.model, c.model_requested)", {"model": filters.model}
    if filters.errors_only:
        yield IS_ERROR, {}
    if filters.status is not None:
        span = parse_status(filters.status)
        if span is None:
            yield "c.status IS NULL", {}
        else:
            yield "c.status BETWEEN :low AND :high", {"low": span[0], "high": span[1]}
    for number, (name, value) in enumerate(filters.properties.items()):
        yield (
            f"c.properties ->> :path{number} = :value{number}",
            {f"path{number}": _json_path(name), f"value{number}": value},
        )


def _json_path(property_name: str) -> str:
    return f'$."{property_name.lower()}"'
