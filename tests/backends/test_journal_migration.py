from __future__ import annotations

from pathlib import Path

import apsw

from asgi_llmgate.backends import journal_schema
from asgi_llmgate.backends.journal import JournalLogSink
from tests.backends.records import PLAIN


async def test_a_journal_without_the_newer_fields_is_brought_up_to_date(tmp_path: Path) -> None:
    connection = journal_schema.open_journal(tmp_path)
    for name in ("cache_reason", "saved_nanousd", "saved_ms", "original_id", "trace_id"):
        connection.execute(f"ALTER TABLE calls DROP COLUMN {name}")
    connection.execute("INSERT INTO calls(id, started_at_us) VALUES('old', 1)")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    record = PLAIN._replace(
        saved_nanousd=7, saved_ms=1.5, original_id="a", cache_reason="b", trace_id="c"
    )

    sink = JournalLogSink(tmp_path)
    sink.write(record)
    await sink.aclose()

    connection = apsw.Connection(str(tmp_path / journal_schema.JOURNAL_FILE))
    columns = ", ".join(journal_schema.COLUMNS)
    rows = list(connection.execute(f"SELECT {columns} FROM calls ORDER BY seq"))
    connection.close()
    assert [row[0] for row in rows] == ["old", record.id]
    assert rows[1][-5:] == ("b", 7, 1.5, "a", "c")
