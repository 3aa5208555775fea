"""Things that belong to an event loop: connections, above all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["PerLoop"]


class Closable(Protocol):
    async def aclose(self) -> None: ...


T = TypeVar("T", bound=Closable)


class PerLoop(Generic[T]):
    """Makes one thing for each event loop, and closes it with this object or with the loop.

    A loop that ends closes the asynchronous generators that began in it. So each thing is kept
    in one: nobody could close a connection any more once its loop is gone, and test suites, which
    have many loops, would drown in warnings.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, T] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[T, None]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def here(self) -> T | None:
        """Return the thing of the running loop if it is made already."""
        return self._made.get(asyncio.get_running_loop())

    async def make(self) -> T:
        """Make the thing of the running loop."""
        loop = asyncio.get_running_loop()
        for other in [other for other in self._made if other.is_closed()]:
            del self._made[other], self._keepers[other]
        keeper = self._keepers[loop] = self._keep()
        made = self._made[loop] = await anext(keeper)
        return made

    async def aclose(self) -> None:
        """Close the thing of the running loop."""
        keeper = self._keepers.get(asyncio.get_running_loop())
        if keeper is not None:
            await keeper.aclose()

    async def _keep(self) -> AsyncGenerator[T, None]:
        made = self._make()
        try:
            yield made
        finally:
            loop = asyncio.get_running_loop()
            self._made.pop(loop, None)
            self._keepers.pop(loop, None)
            await made.aclose()
