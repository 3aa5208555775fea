"""Find the control store, and load what it needs only when it is needed."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from asgi_llmgate.errors import ConfigurationError

if TYPE_CHECKING:  # It takes a third of a second to load, and many gateways never need it.
    from asgi_llmgate.backends.control import ControlStore

__all__ = ["Opening"]

CONTROL_FILE = "control.sqlite"
NEEDED = ("sqlalchemy", "aiosqlite", "alembic", "cryptography", "greenlet")


class Opening:
    """Where the control store is. Building one opens nothing.

    Args:
        url: Of a database; None keeps everything in the data folder.
        folder: The data folder.
    """

    def __init__(self, url: str | None, folder: Path) -> None:
        self._url = url
        self.file = folder / CONTROL_FILE

    @property
    def exists(self) -> bool:
        """Whether there is a store: a database was named, or a key was made."""
        return self._url is not None or self.file.exists()

    @cached_property
    def store(self) -> ControlStore:
        missing = [name for name in NEEDED if find_spec(name) is None]
        if self._url is not None and "postgres" in self._url and find_spec("asyncpg") is None:
            missing.append("asyncpg")
        if missing:
            raise ConfigurationError(
                f"Virtual keys need {', '.join(missing)}, which is not installed.\n"
                "HINT: pip install 'asgi-llmgate[standalone]', and [postgres] for PostgreSQL."
            )
        from asgi_llmgate.backends.control import ControlStore

        if self._url is not None:
            return ControlStore(self._url)
        return ControlStore.in_folder(self.file.parent)

    async def aclose(self) -> None:
        if "store" in self.__dict__:
            await self.store.aclose()
