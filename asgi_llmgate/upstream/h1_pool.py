"""The HTTP/1.1 connections of one event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from asgi_llmgate.upstream.h1_connection import Connection, Origin
from asgi_llmgate.upstream.parts import not_connected
from asgi_llmgate.upstream.timer import CONNECT, POOL, TaskTimer

__all__ = ["Pool"]

# Load balancers close idle connections after 60 s (AWS) or more; leaving first loses no call.
KEEP_IDLE_S = 55
CLOSE_S = 1.0


class Pool:
    """At most `max_connections`, idle ones included; a call that finds none free waits."""

    def __init__(self, max_connections: int | None, context: ssl.SSLContext) -> None:
        self._loop = asyncio.get_running_loop()
        self._max = max_connections
        self._context = context
        self._open: set[Connection] = set()
        self._connecting = 0
        self._idle: dict[Origin, list[Connection]] = {}
        self._queue: deque[asyncio.Future[None]] = deque()

    def take(self, origin: Origin) -> Connection | None:
        """Return an idle connection to `origin`, the one used last."""
        idle = self._idle.get(origin)
        oldest = self._loop.time() - KEEP_IDLE_S
        while idle:
            connection = idle.pop()
            if connection.idle_since > oldest and connection.is_usable():
                return connection
            connection.abort()
        return None

    async def connect(self, origin: Origin, timer: TaskTimer) -> Connection:
        """Return an idle or a new connection.

        Raises:
            UpstreamConnectError: there is none to be had.
            UpstreamTimeoutError: `pool_s`, `connect_s` or `total_s` ran out.
        """
        while self._max is not None and len(self._open) + self._connecting >= self._max:
            if not self._drop_an_idle_one():
                await self._turn(timer)
                if (connection := self.take(origin)) is not None:
                    return connection
        begun: list[Connection] = []

        def begin() -> Connection:
            begun.append(Connection(self, origin, self._loop))
            return begun[-1]

        self._connecting += 1
        timer.begin(timer.timeouts.connect_s, CONNECT)
        try:
            _, connection = await self._loop.create_connection(
                begin,
                origin.host,
                origin.port,
                ssl=self._context if origin.is_tls else None,
            )
        except BaseException as error:
            self._connecting -= 1
            for unheard_of in begun:
                # Made, and nobody told: uvloop closes it then, and never says that it is lost.
                self._open.discard(unheard_of)
            self._call_next()
            failure: Exception | None = timer.end()
            if failure is None:
                if not isinstance(error, OSError):
                    raise
                failure = not_connected(repr(error))
        else:
            self._connecting -= 1
            failure = timer.end()
            if failure is None:
                return connection
            connection.abort()
        raise failure

    def made(self, connection: Connection) -> None:
        self._open.add(connection)

    def freed(self, connection: Connection) -> None:
        connection.idle_since = self._loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        self._call_next()

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)
        self._call_next()

    async def aclose(self) -> None:
        for connection in list(self._open):
            if connection.exchange is not None:
                connection.exchange.fail()
            connection.abort()
        # Nothing that a loop forgets to tell may keep a server from stopping.
        deadline = self._loop.time() + CLOSE_S
        while self._open and self._loop.time() < deadline:  # noqa: ASYNC110 -- for its round
            await asyncio.sleep(0)

    def _drop_an_idle_one(self) -> bool:
        for idle in self._idle.values():
            if idle:
                connection = idle.pop(0)
                self._open.discard(connection)
                connection.abort()
                return True
        return False

    async def _turn(self, timer: TaskTimer) -> None:
        waiter = self._loop.create_future()
        self._queue.append(waiter)
        timer.begin(timer.timeouts.pool_s, POOL)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._queue.remove(waiter)
            else:
                self._call_next()  # this turn was ours, and goes to the next
            if (late := timer.end()) is not None:
                raise late from None
            raise
        timer.end()

    def _call_next(self) -> None:
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
