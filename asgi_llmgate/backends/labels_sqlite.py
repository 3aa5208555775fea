"""What was learned, for all workers of a machine: one SQLite file in the data folder.

Labels are numbered through all partitions, and a new file begins with the time of its making: so a
number is never given twice, whatever became of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from asgi_llmgate.backends.labels_memory import DEFAULT_WINDOW
from asgi_llmgate.backends.sqlite_shared import SharedFile
from asgi_llmgate.protocols import LabelsRead

__all__ = ["LABELS_FILE", "SqliteLabelStore"]

LABELS_FILE = "semantic_labels.sqlite"

# BEGIN IMMEDIATE, so that two that find a new file do not both fill it.
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS labels(
    number INTEGER PRIMARY KEY AUTOINCREMENT, partition TEXT, label BLOB
);
CREATE INDEX IF NOT EXISTS labels_partition ON labels(partition, number);
CREATE TABLE IF NOT EXISTS models(partition TEXT PRIMARY KEY, version INTEGER, model BLOB);
CREATE TABLE IF NOT EXISTS epochs(partition TEXT PRIMARY KEY, epoch INTEGER);
CREATE TABLE IF NOT EXISTS base(value INTEGER);
INSERT INTO base
    SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER) WHERE NOT EXISTS (SELECT 1 FROM base);
INSERT INTO sqlite_sequence SELECT 'labels', value FROM base
    WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'labels');
PRAGMA user_version = 1;
COMMIT;
"""

SET_MODEL = """
INSERT INTO models VALUES(?1, (SELECT value FROM base) + 1, ?2)
ON CONFLICT(partition) DO UPDATE SET version = version + 1, model = excluded.model
RETURNING version
"""
# The version stays, so that the next one is above it.
RESET = (
    "DELETE FROM labels WHERE partition = ?1",
    "UPDATE models SET model = NULL WHERE partition = ?1",
    (
        "INSERT INTO epochs VALUES(?1, (SELECT value FROM base) + 1) "
        "ON CONFLICT(partition) DO UPDATE SET epoch = epoch + 1"
    ),
)
TRIM = """
DELETE FROM labels WHERE partition = ?1 AND number <= (
    SELECT number FROM labels WHERE partition = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2
)
"""
STATE = """
SELECT
    coalesce((SELECT epoch FROM epochs WHERE partition = ?1), (SELECT value FROM base)),
    coalesce((SELECT max(number) FROM labels WHERE partition = ?1), 0),
    (SELECT version FROM models WHERE partition = ?1 AND model IS NOT NULL)
"""
PARTITIONS = """
SELECT partition FROM labels UNION SELECT partition FROM models WHERE model IS NOT NULL ORDER BY 1
"""


class SqliteLabelStore:
    """Keep labels in `semantic_labels.sqlite` of `folder`, for all processes of this machine.

    Args:
        folder: The data folder, on a disk of this machine.
        window: How many labels of a partition are kept.

    Raises:
        ConfigurationError: SQLite is older than 3.51.3.
    """

    def __init__(self, folder: Path, *, window: int = DEFAULT_WINDOW) -> None:
        self._file = SharedFile(Path(folder) / LABELS_FILE, SCHEMA)
        self._window = window

    async def append(self, partition: str, labels: Sequence[bytes]) -> None:
        def append(writer: apsw.Connection) -> None:
            with writer:
                writer.executemany(
                    "INSERT INTO labels(partition, label) VALUES(?, ?)",
                    [(partition, label) for label in labels],
                )
                writer.execute(TRIM, (partition, self._window))

        if labels:
            await self._file.write(append)

    async def since(self, partition: str, *, after: int, model_version: int) -> LabelsRead:
        def read(writer: apsw.Connection) -> LabelsRead:
            [(epoch, last, version)] = writer.execute(STATE, (partition,))
            rows = writer.execute(
                "SELECT label FROM labels WHERE partition = ? AND number > ? ORDER BY number",
                (partition, after),
            )
            labels = [label for (label,) in rows]
            model = None
            if version is not None and version != model_version:
                sql = "SELECT model FROM models WHERE partition = ?"
                model = version, writer.execute(sql, (partition,)).get
            return LabelsRead(epoch, max(after, last), labels, model)

        def read_at_once(writer: apsw.Connection) -> LabelsRead:
            writer.execute("BEGIN")  # All of it as of one moment.
            try:
                return read(writer)
            finally:
                writer.execute("COMMIT")

        return await self._file.write(read_at_once)

    async def set_model(self, partition: str, model: bytes) -> int:
        def set_model(writer: apsw.Connection) -> int:
            version: int = writer.execute(SET_MODEL, (partition, model)).get
            return version

        return await self._file.write(set_model)

    async def reset(self, partition: str) -> None:
        def reset(writer: apsw.Connection) -> None:
            with writer:
                for sql in RESET:
                    writer.execute(sql, (partition,))

        await self._file.write(reset)

    async def partitions(self) -> list[str]:
        return await self._file.write(
            lambda writer: [partition for (partition,) in writer.execute(PARTITIONS)]
        )

    async def aclose(self) -> None:
        self._file.close()
