"""Open a control store: which database, how, and how long it may take.

SQLite goes through Python's own module, which often links a version whose WAL mode can lose
commits of several processes (before 3.51.3). So this file has a rollback journal instead
(`journal_mode=DELETE`): it is small and seldom written, and every commit is on the disk
(`synchronous=FULL`). Connections are opened for each use: no thread and no lock outlives a
question, and a file that was replaced is noticed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from asgi_llmgate.backends.control_schema import migrate
from asgi_llmgate.errors import BackendError, ConfigurationError

__all__ = ["ControlEngine", "parse_url"]

# Until another process has finished its change. Each takes milliseconds.
BUSY_S = 5.0
# A question that takes longer is not worth waiting for; whoever asked goes on without.
DEADLINE_S = 10.0

# Kernels stamp files with the time of their last tick: 10 ms at the slowest.
CLOCK_TICK_NS = 50_000_000

# Only what writes needs them, and they are a third of what a look-up costs.
WRITING = (
    "PRAGMA journal_mode=DELETE",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
)

DRIVERS = {
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}


def parse_url(text: str) -> URL:
    """Return the URL of a database with the driver we use.

    Raises:
        ConfigurationError: it is none, or of a database we do not know. Without the URL, for it
            may hold a password.
    """
    hint = "HINT: write postgresql://user:password@host/name, or sqlite:////path/to/file."
    try:
        url = make_url(text)
    except SQLAlchemyError:
        raise ConfigurationError(f"LLMGATE_DATABASE_URL is not a URL.\n{hint}") from None
    if url.drivername not in DRIVERS:
        raise ConfigurationError(
            f"LLMGATE_DATABASE_URL: {url.drivername!r} is not supported.\n{hint}"
        )
    url = url.set(drivername=DRIVERS[url.drivername])
    if url.drivername == "sqlite+aiosqlite" and url.database in (None, "", ":memory:"):
        raise ConfigurationError(f"LLMGATE_DATABASE_URL names no file.\n{hint}")
    return url


class ControlEngine:
    """One database, opened at first use, its tables brought up to date before.

    Args:
        url: From `parse_url`.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self.file = Path(url.database) if url.drivername.startswith("sqlite") else None  # type: ignore[arg-type]  # `parse_url` saw it
        self._engine: AsyncEngine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_migrated = False
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def connection(self, *, writes: bool = False) -> AsyncIterator[AsyncConnection]:
        """Yield a connection; whoever changes something says so, and commits.

        Raises:
            BackendError: the database failed or took too long. Only the kind of failure is told:
                messages of databases quote values.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                engine = await self._opened()
                async with engine.connect() as connection:
                    if writes and self.file is not None:
                        for pragma in WRITING:
                            await connection.exec_driver_sql(pragma)
                    yield connection
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            raise BackendError(f"the control store failed: {kind}") from None

    def mark(self) -> tuple[int, ...] | None:
        """Return what is the same as long as nobody wrote to the file; None if that is unknown.

        A stamp of this very moment may be that of a write which is still to come.
        """
        if self.file is None:
            return None
        try:
            found = os.stat(self.file)  # noqa: PTH116 -- twice a second, and a third of the time
        except OSError:
            return None
        if time.time_ns() - found.st_mtime_ns < CLOCK_TICK_NS:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    async def open(self) -> None:
        """Make the database if there is none, and bring its tables up to date."""
        async with self.connection():
            pass

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose(close=self._loop is asyncio.get_running_loop())

    async def _opened(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        if self._engine is None or self._loop is not loop:
            # Connections of PostgreSQL's driver belong to the loop that made them.
            self._engine, self._loop = self._made(), loop
            self._opening = asyncio.Lock()
        if not self._is_migrated or (self.file is not None and not self.file.exists()):
            async with self._opening:
                if self.file is not None:
                    _make_private(self.file)
                await migrate(self._engine, self.file)
                self._is_migrated = True
        return self._engine

    def _made(self) -> AsyncEngine:
        # Parameters are digests and envelopes: never in a message.
        options: dict[str, Any] = {"hide_parameters": True}
        if self.file is not None:
            return create_async_engine(
                self._url, poolclass=NullPool, connect_args={"timeout": BUSY_S}, **options
            )
        return create_async_engine(
            self._url,
            pool_size=2,
            max_overflow=6,
            pool_timeout=5,
            pool_recycle=1800,
            connect_args={"timeout": 5, "command_timeout": 5},
            **options,
        )


def _make_private(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One that exists is not even opened: closing it would drop the locks SQLite has on it.
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
