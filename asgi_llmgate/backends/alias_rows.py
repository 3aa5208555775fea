"""Phrasings as rows of SQLite. Vectors are float16: half as large, and distances move by 1e-4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import apsw
import numpy as np

from asgi_llmgate.backends.alias_matrix import AliasMatrix
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = [
    "EVERYTHING",
    "SCHEMA",
    "Change",
    "change_all",
    "changed",
    "changed_scopes",
    "last_change",
    "listed",
    "matrix_of",
    "packed",
    "purge",
    "read_scope",
    "trim",
    "write",
]

# `changes` says what others are to look at again, in this order; an empty scope means everything.
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS aliases(
    scope TEXT, id TEXT, answer TEXT, question BLOB, partition TEXT, principal TEXT,
    created_us INTEGER, expires_us INTEGER, vector BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS aliases_id ON aliases(scope, id);
CREATE INDEX IF NOT EXISTS aliases_created_us ON aliases(created_us);
CREATE INDEX IF NOT EXISTS aliases_expires_us ON aliases(expires_us);
CREATE TABLE IF NOT EXISTS changes(
    number INTEGER PRIMARY KEY AUTOINCREMENT, writer TEXT, scope TEXT, id TEXT
);
CREATE TABLE IF NOT EXISTS used(scope TEXT PRIMARY KEY, at_us INTEGER) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""

EVERYTHING = ""
# Who has not looked for longer than that has to read everything again.
KEPT_CHANGES = 20_000

COLUMNS = "id, answer, question, partition, principal, created_us, expires_us, vector"

Change = tuple[str, Alias, bytes | None]
"""Scope, phrasing and its packed vector; None if it goes."""


def packed(vector: Vector) -> bytes:
    return vector.astype(np.float16).tobytes()


def read_scope(
    connection: apsw.Connection, scope: str, *, now_us: int, limit: int
) -> list[tuple[Any, ...]]:
    """Return the newest rows of a scope, for `matrix_of`."""
    sql = f"SELECT {COLUMNS} FROM aliases WHERE scope = ? AND expires_us > ? "  # noqa: S608 -- ours
    sql += "ORDER BY created_us DESC LIMIT ?"
    return list(connection.execute(sql, (scope, now_us, limit)))


def matrix_of(rows: list[tuple[Any, ...]], waiting: Iterable[Change] = ()) -> AliasMatrix:
    """Return rows and what waits to be written as a matrix. Takes 10 µs for each."""
    pairs = [(_alias(row), row[7]) for row in reversed(rows)]
    pairs += [(alias, vector) for _, alias, vector in waiting]
    lengths = [len(vector) for _, vector in pairs if vector is not None]
    matrix = AliasMatrix(lengths[-1] // 2 if lengths else 0)
    for alias, vector in pairs:
        if vector is None:
            matrix.remove([alias.id])
        elif len(vector) == 2 * matrix.dims:
            matrix.add(alias, _vector(vector), tick=0)
    return matrix


def write(writer: apsw.Connection, changes: Iterable[Change], *, by: str) -> None:
    """Write what came and went, in one transaction."""
    changes = list(changes)
    with writer:
        for scope, alias, vector in changes:
            if vector is None:
                writer.execute("DELETE FROM aliases WHERE scope = ? AND id = ?", (scope, alias.id))
            else:
                writer.execute(
                    "INSERT OR REPLACE INTO aliases VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (scope, *_row(alias), vector),
                )
        writer.executemany(
            "INSERT INTO changes(writer, scope, id) VALUES(?, ?, ?)",
            [(by, scope, alias.id) for scope, alias, _ in changes],
        )


def last_change(reader: apsw.Connection) -> tuple[int, int]:
    """Return the numbers of the oldest and of the newest change."""
    sql = "SELECT coalesce(min(number), 0), coalesce(max(number), 0) FROM changes"
    [(first, last)] = reader.execute(sql)
    return first, last


def changed_scopes(reader: apsw.Connection, after: int, last: int, *, by: str) -> list[str]:
    """Return in which scopes others than `by` changed something."""
    sql = "SELECT DISTINCT scope FROM changes WHERE number > ? AND number <= ? AND writer != ?"
    return [scope for (scope,) in reader.execute(sql, (after, last, by))]


def changed(
    reader: apsw.Connection, after: int, last: int, *, by: str
) -> list[tuple[str, str, Alias | None, Vector | None]]:
    """Return (scope, id, phrasing, vector) of what others changed; None if it went."""
    columns = ", ".join(f"a.{name}" for name in COLUMNS.split(", "))
    rows = reader.execute(
        f"SELECT {columns}, c.scope, c.id FROM "  # noqa: S608 -- ours
        "(SELECT DISTINCT scope, id FROM changes WHERE number > ? AND number <= ? AND writer != ?)"
        " AS c LEFT JOIN aliases AS a ON a.scope = c.scope AND a.id = c.id",
        (after, last, by),
    )
    return [
        (row[8], row[9], None, None)
        if row[0] is None
        else (row[8], row[9], _alias(row), _vector(row[7]))
        for row in rows
    ]


def change_all(writer: apsw.Connection) -> None:
    writer.execute("INSERT INTO changes(writer, scope, id) VALUES('', ?, '')", (EVERYTHING,))


def purge(writer: apsw.Connection, *, partition: str | None, created_before_us: int | None) -> int:
    with writer:
        writer.execute(
            "DELETE FROM aliases WHERE (?1 IS NULL OR partition = ?1) "
            "AND (?2 IS NULL OR created_us < ?2)",
            (partition, created_before_us),
        )
        removed = writer.changes()
        if removed:
            change_all(writer)
    return removed


def listed(
    connection: apsw.Connection, *, partition: str | None, limit: int, now_us: int
) -> list[tuple[str, Alias]]:
    rows = connection.execute(
        f"SELECT {COLUMNS}, scope FROM aliases "  # noqa: S608 -- ours
        "WHERE expires_us > ?1 AND (?2 IS NULL OR partition = ?2) "
        "ORDER BY created_us DESC LIMIT ?3",
        (now_us, partition, limit),
    )
    return [(row[8], _alias(row)) for row in rows]


def trim(writer: apsw.Connection, *, used: Iterable[str], now_us: int, max_aliases: int) -> None:
    """Remove what has expired, then scopes that were used least recently while there are too many.

    Args:
        used: Scopes that were looked at since the last time.
    """
    with writer:
        writer.executemany(
            "INSERT OR REPLACE INTO used VALUES(?, ?)", [(scope, now_us) for scope in used]
        )
        writer.execute("DELETE FROM aliases WHERE expires_us <= ?", (now_us,))
        writer.execute(
            "DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?",
            (KEPT_CHANGES,),
        )
        [(count,)] = writer.execute("SELECT count(*) FROM aliases")
        excess = int(count) - max_aliases
        if excess > 0:
            _drop_scopes(writer, excess)
            change_all(writer)
        writer.execute("DELETE FROM used WHERE scope NOT IN (SELECT scope FROM aliases)")
    writer.pragma("incremental_vacuum")


def _drop_scopes(writer: apsw.Connection, excess: int) -> None:
    counted: list[tuple[str, int]] = writer.execute(  # type: ignore[assignment]  # as asked for
        "SELECT scope, count(*) FROM aliases LEFT JOIN used USING(scope) GROUP BY scope "
        "ORDER BY max(coalesce(at_us, 0), max(created_us))"
    ).fetchall()
    for scope, count in counted:
        if excess <= 0:
            return
        # Of the last one only what is too much, oldest first.
        writer.execute(
            "DELETE FROM aliases WHERE rowid IN "
            "(SELECT rowid FROM aliases WHERE scope = ? ORDER BY created_us LIMIT ?)",
            (scope, excess),
        )
        excess -= count


def _vector(packed: bytes) -> Vector:
    return np.frombuffer(packed, dtype=np.float16).astype(np.float32)


def _row(alias: Alias) -> tuple[Any, ...]:
    # Half a surrogate pair is no text to SQLite.
    return alias._replace(question=alias.question.encode("utf-8", "surrogatepass"))  # type: ignore[arg-type]  # of a row


def _alias(row: tuple[Any, ...]) -> Alias:
    id_, answer, question, *others = row[:7]
    return Alias(id_, CacheKey(answer), question.decode("utf-8", "surrogatepass"), *others)
