"""Bring the tables of a control store up to date, one process at a time.

SQLite is locked by a file beside it, PostgreSQL by an advisory lock that its transaction holds.
All steps are one transaction in both, so a process that dies midway leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asgi_llmgate.backends.control_tables import version_table
from asgi_llmgate.errors import ConfigurationError

__all__ = ["HEAD", "migrate"]

HEAD = "0002"
"""The newest step. A constant, so that nothing of Alembic is loaded where none is left to do."""

KNOWN = frozenset({"0001", "0002"})
# Any number will do, if nobody else in the database uses it: "llmgate" in ASCII, cut to 63 bits.
LOCK_ID = 0x6C6C6D67617465
SCRIPTS = Path(__file__).parent / "control_migrations"


async def migrate(engine: AsyncEngine, file: Path | None) -> None:
    """Run the steps that are missing. `file` is the SQLite file; None is PostgreSQL.

    Raises:
        ConfigurationError: a newer version of this package has been here.
    """
    async with engine.connect() as connection:
        if await _revision(connection) == HEAD:
            return
    async with _locked(file), engine.connect() as connection:
        if file is None:
            await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
        else:
            # Python's driver begins no transaction for CREATE TABLE by itself.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        if await _revision(connection) != HEAD:
            await connection.run_sync(_upgrade)
        await connection.commit()


async def _revision(connection: AsyncConnection) -> str | None:
    """Return the last step that was run, or None if there was none."""
    names = await connection.run_sync(lambda sync: sa.inspect(sync).has_table(version_table))
    if not names:
        return None
    revision = await connection.scalar(sa.text(f"SELECT version_num FROM {version_table}"))  # noqa: S608 -- our own name
    if revision is not None and revision not in KNOWN:
        raise ConfigurationError(
            "The control store was made by a newer version of asgi_llmgate.\n"
            "HINT: upgrade this one; going back needs a backup from before."
        )
    return None if revision is None else str(revision)


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@asynccontextmanager
async def _locked(file: Path | None) -> AsyncIterator[None]:
    if file is None:
        yield
        return
    descriptor = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
