"""Open an SQLite file of the data folder, the way all of them are opened."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from asgi_llmgate.errors import BackendError, ConfigurationError

__all__ = [
    "LOG_BYTES",
    "OLDEST_SQLITE",
    "connect",
    "create_private",
    "failure",
    "require_recent_sqlite",
]

# Up to 3.51.2 two connections that checkpoint and commit at once can corrupt a WAL file.
# Python's own sqlite3 module often links an older one; apsw brings its own.
OLDEST_SQLITE = (3, 51, 3)

# Checkpointed from here on: a second of 10,000 calls without bodies. Smaller means more waiting
# for the disk, larger slower readers.
LOG_BYTES = 8 * 1024 * 1024


def require_recent_sqlite(version: str | None = None) -> None:
    """Refuse an SQLite that may corrupt a file that several processes write.

    Raises:
        ConfigurationError: it is older than 3.51.3.
    """
    version = version if version is not None else apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) < OLDEST_SQLITE:
        raise ConfigurationError(
            f"SQLite {version} can corrupt a file that several processes write; "
            f"{'.'.join(map(str, OLDEST_SQLITE))} is the first that cannot.\n"
            "HINT: `pip install --upgrade apsw`; the one on PyPI brings its own SQLite."
        )


def connect(path: Path, *, readonly: bool = False, busy_ms: int = 1000) -> apsw.Connection:
    """Open `path` in WAL mode; created with its folder (0700) and as 0600 if it is not there.

    A writer checkpoints only when it is asked to. SQLite gives `-wal` and `-shm` the
    permissions of the file itself.

    Raises:
        apsw.Error, OSError: it cannot be opened.
    """
    if readonly:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(busy_ms)
        return connection
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_private(path)
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(busy_ms)
    try:
        # Only takes effect in a new file: lets it shrink again after a large one was pruned.
        connection.pragma("auto_vacuum", 2)
        connection.pragma("journal_mode", "wal")
        # A power cut may lose the last seconds, never the file; a killed process loses nothing.
        connection.pragma("synchronous", "normal")
        connection.wal_autocheckpoint(0)
        connection.pragma("journal_size_limit", LOG_BYTES)
    except BaseException:
        connection.close()
        raise
    return connection


def create_private(path: Path) -> None:
    """Make an empty file that only its owner reads, unless there is a file already.

    One that exists is not even opened: closing it again would take away the locks that
    SQLite holds on it anywhere in this process (POSIX locks belong to process and file).
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass


def failure(error: apsw.Error | OSError) -> BackendError:
    """Return what to tell of `error`: SQLite's message, which holds no content of any row."""
    return BackendError(f"{type(error).__name__.removesuffix('Error')}: {error}")
