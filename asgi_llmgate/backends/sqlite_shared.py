"""An SQLite file that the workers of a machine share: written by threads, read by the event loop.

In WAL mode a reader waits for nobody, whoever writes; so what is found by an index is read where it
is asked for, and only writing is handed to a thread. The file may be deleted or replaced meanwhile:
then it is opened anew, and `opened` says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from asgi_llmgate.backends.sqlite_file import connect, failure, require_recent_sqlite
from asgi_llmgate.errors import BackendError

__all__ = ["SharedFile"]

logger = logging.getLogger("asgi_llmgate")
T = TypeVar("T")


class SharedFile:
    """One writer for threads and one reader for the event loop, made at first use.

    Args:
        path: Of the file; made as 0600 in a folder of 0700.
        schema: Run in a file that is new.

    Raises:
        ConfigurationError: SQLite is older than 3.51.3.
    """

    def __init__(self, path: Path, schema: str) -> None:
        require_recent_sqlite()
        self.path = path
        self.opened = 0
        """How often a file was opened: whoever knows less has seen another one."""
        self._schema = schema
        self._start_empty()

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._writing = threading.RLock()
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._retired: list[apsw.Connection] = []
        self._inode: int | None = None

    async def reader(self) -> apsw.Connection:
        """Return what the event loop reads with, of the file that is there now.

        Raises:
            BackendError: it cannot be opened.
        """
        if self._pid != os.getpid() or self._reader is None or _inode(self.path) != self._inode:
            await self.write(lambda _: None)
        while self._retired:
            self._retired.pop().close()
        if self._reader is None:
            raise BackendError("the file was closed")
        return self._reader

    async def write(self, act: Callable[[apsw.Connection], T]) -> T:
        """Return what `act` makes of the writer, on a thread.

        Raises:
            BackendError: SQLite or the disk failed.
        """
        return await asyncio.to_thread(self.write_blocking, act)

    def write_blocking(self, act: Callable[[apsw.Connection], T]) -> T:
        """As `write`, on this thread."""
        if self._pid != os.getpid():
            # Closing what a child inherited would take the parent's locks away.
            _KEPT_FOREVER.extend((self._writer, self._reader, *self._retired))
            self._start_empty()
        try:
            with self._writing:
                return act(self._open())
        except (apsw.Error, OSError) as error:
            raise self.failed(error) from error

    def failed(self, error: apsw.Error | OSError) -> BackendError:
        """Return what to raise for `error`."""
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            logger.error("%s is damaged: %s. Delete it.", self.path, error)
        return failure(error)

    def close(self) -> None:
        """Close it, on the thread that reads; opened again by the next use."""
        if self._pid == os.getpid():
            with self._writing:
                self._disconnect()
            while self._retired:
                self._retired.pop().close()

    def _open(self) -> apsw.Connection:
        if self._writer is not None and _inode(self.path) == self._inode:
            return self._writer
        self._disconnect()
        writer = connect(self.path)
        try:
            if not writer.pragma("user_version"):
                writer.execute(self._schema)
            writer.wal_autocheckpoint(1000)
            reader = connect(self.path, readonly=True, busy_ms=0)
        except BaseException:
            writer.close()
            raise
        self._inode = _inode(self.path)
        self._writer, self._reader = writer, reader
        self.opened += 1
        return writer

    def _disconnect(self) -> None:
        """Close the writer. The reader may be in use just now, so the event loop closes it."""
        if self._writer is not None:
            self._writer.close()
        if self._reader is not None:
            self._retired.append(self._reader)
        self._writer = self._reader = None


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 -- on every call, and three times as fast
    except OSError:
        return None


_KEPT_FOREVER: list[object] = []
