"""The journal's tables, and a call record as a row of them.

`calls` has one column per field of `CallRecord`, but for the bodies: those have a table of their
own, so that figures over many calls do not read past them. `seq` numbers rows in the order in
which they became readable, and is never used twice, so that a reader can go on where it stopped.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from asgi_llmgate.backends.sqlite_file import connect
from asgi_llmgate.core.json import dumps, loads
from asgi_llmgate.errors import BackendError
from asgi_llmgate.types import AttemptRecord, CallRecord

__all__ = [
    "BODY_COLUMNS",
    "COLUMNS",
    "JOURNAL_FILE",
    "SCHEMA_VERSION",
    "body_row",
    "call_row",
    "check_schema",
    "create_tables",
    "open_journal",
    "record_of",
]

JOURNAL_FILE = "journal.sqlite"
SCHEMA_VERSION: Final = 3

_FIELDS = CallRecord._fields
_ATTEMPTS = _FIELDS.index("attempts")
_PROPERTIES = _FIELDS.index("properties")
_REQUEST_BODY = _FIELDS.index("request_body")
_AFTER_BODIES = _FIELDS.index("response_body") + 1
_FLAGS = frozenset(
    _FIELDS.index(name)
    for name in (
        "is_stream",
        "complete",
        "client_left",
        "usage_estimated",
        "request_truncated",
        "response_truncated",
    )
)

COLUMNS = _FIELDS[:_REQUEST_BODY] + _FIELDS[_AFTER_BODIES:]
"""Columns of `calls` after `seq`, in the order of `call_row`."""

BODY_COLUMNS = ("seq", "request_body", "response_body", "packed")
"""Columns of `bodies`. `packed` adds 1 if the request body is deflated, 2 if the response is."""

SCHEMA = f"""
CREATE TABLE calls(seq INTEGER PRIMARY KEY AUTOINCREMENT, {", ".join(COLUMNS)});
CREATE INDEX calls_id ON calls(id);
CREATE INDEX calls_started_at_us ON calls(started_at_us);
CREATE TABLE bodies(seq INTEGER PRIMARY KEY, request_body, response_body, packed);
CREATE TRIGGER calls_deleted AFTER DELETE ON calls BEGIN
    DELETE FROM bodies WHERE seq = old.seq;
END;
PRAGMA user_version = {SCHEMA_VERSION};
"""  # noqa: S608 -- the names are ours

# Below it deflating saves less than half a page, and costs as much as writing the record.
PACK_FROM_BYTES = 1024


def open_journal(folder: Path) -> apsw.Connection:
    """Open the journal of `folder` for writing, making it if it is not there.

    Raises:
        BackendError: it was written by a newer version.
        apsw.Error, OSError: it cannot be opened.
    """
    connection = connect(folder / JOURNAL_FILE)
    try:
        create_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def create_tables(connection: apsw.Connection) -> None:
    """Make the tables where there are none, and check those that are there."""
    if _version(connection) < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _version(connection)  # Another worker may have been faster.
            if version == 0:
                connection.execute(SCHEMA)
            elif version < SCHEMA_VERSION:
                _add_columns(connection)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    check_schema(connection)


def check_schema(connection: apsw.Connection) -> None:
    """Refuse a journal of another version.

    Raises:
        BackendError: it has other tables, or none.
    """
    version = _version(connection)
    if version == 0:
        raise BackendError("the journal is empty; a gateway may just be making it")
    if version != SCHEMA_VERSION:
        raise BackendError(
            f"the journal has format {version}, and this version of llmgate reads "
            f"{SCHEMA_VERSION}; upgrade llmgate, or name another data folder"
        )


def call_row(record: CallRecord) -> tuple[Any, ...]:
    """Return the values of `COLUMNS`; attempts and properties as JSON, null where empty."""
    attempts = record.attempts
    properties = record.properties
    return (
        *record[:_ATTEMPTS],
        dumps([a._asdict() for a in attempts]).decode() if attempts else None,
        *record[_ATTEMPTS + 1 : _PROPERTIES],
        dumps(properties).decode() if properties else None,
        *record[_PROPERTIES + 1 : _REQUEST_BODY],
        *record[_AFTER_BODIES:],
    )


def body_row(seq: int, record: CallRecord, *, pack: bool) -> tuple[Any, ...]:
    """Return the values of `BODY_COLUMNS`, deflating what is worth it if `pack`."""
    request, response, packed = record.request_body, record.response_body, 0
    if pack and request is not None and len(request) >= PACK_FROM_BYTES:
        request, packed = zlib.compress(request, 1), 1
    if pack and response is not None and len(response) >= PACK_FROM_BYTES:
        response, packed = zlib.compress(response, 1), packed + 2
    return seq, request, response, packed


def record_of(row: Sequence[Any], bodies: Sequence[Any] | None) -> CallRecord:
    """Return the record of the values of `COLUMNS`, and of `BODY_COLUMNS` after `seq` if any."""
    request, response, packed = bodies or (None, None, 0)
    values = [
        *row[:_REQUEST_BODY],
        _unpacked(request, (packed or 0) & 1),
        _unpacked(response, (packed or 0) & 2),
        *row[_REQUEST_BODY:],
    ]
    for place in _FLAGS:
        values[place] = bool(values[place])
    values[_ATTEMPTS] = tuple(AttemptRecord(**kept) for kept in loads(values[_ATTEMPTS] or "[]"))
    if values[_PROPERTIES] is not None:
        values[_PROPERTIES] = loads(values[_PROPERTIES])
    return CallRecord._make(values)


def _add_columns(connection: apsw.Connection) -> None:
    """Bring the journal of an older version up to date: fields are only ever added."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(calls)")}
    for name in COLUMNS:
        if name not in present:
            connection.execute(f"ALTER TABLE calls ADD COLUMN {name}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))


def _unpacked(body: bytes | None, is_packed: int) -> bytes | None:
    return zlib.decompress(body) if body is not None and is_packed else body
