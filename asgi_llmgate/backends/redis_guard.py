"""How long a call waits for Redis, and who asks it while it fails.

A call waits 50 ms at most. Then a breaker keeps everybody off for a second, and lets one try at a
time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from asgi_llmgate.errors import BackendError

__all__ = ["BATCH_TIMEOUT_S", "OPEN_S", "TIMEOUT_S", "RedisGuard", "failure", "redis_client"]

T = TypeVar("T")

TIMEOUT_S = 0.05
# An operator's commands look at many keys, batch by batch.
BATCH_TIMEOUT_S = 1.0
# More would not make one event loop faster.
MAX_CONNECTIONS = 32
OPEN_S = 1.0

_NOT_IN_URL = {"decode_responses", "protocol"}


class RedisGuard:
    """The time limit and the breaker of one store.

    Args:
        timeout_s: How long `ask` waits.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.open_until_s = 0.0
        """Until then nobody asks; 0 while it works."""
        self._is_probing = False

    async def ask(self, act: Callable[[], Awaitable[T]], timeout_s: float | None = None) -> T:
        """Ask Redis, unless it has just failed; then only one at a time may try.

        Raises:
            BackendError: it failed, took too long or is left alone.
        """
        now = time.monotonic()
        is_probe = False
        if self.open_until_s:
            if now < self.open_until_s or self._is_probing:
                raise BackendError("Redis has just failed and is left alone for a second")
            self._is_probing = is_probe = True
        try:
            answer = await self.once(act, timeout_s or self.timeout_s)
        except BackendError:
            self.open_until_s = time.monotonic() + OPEN_S
            raise
        else:
            self.open_until_s = 0.0
            return answer
        finally:
            if is_probe:
                self._is_probing = False

    async def once(self, act: Callable[[], Awaitable[T]], timeout_s: float | None = None) -> T:
        """Ask Redis whatever the breaker says; by default with the patience of an operator."""
        try:
            async with asyncio.timeout(timeout_s or max(BATCH_TIMEOUT_S, self.timeout_s)):
                return await act()
        except (RedisError, OSError, TimeoutError) as error:
            raise failure(error) from error


def redis_client(url: str, *, timeout_s: float) -> Redis:
    """Return a client that gives up after `timeout_s` and does not try again. Yours to close."""
    # What stands in a URL would win over what is asked for here.
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query) if pair[0] not in _NOT_IN_URL]
    pool = BlockingConnectionPool.from_url(
        parts._replace(query=urlencode(query)).geturl(),
        timeout=timeout_s,
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        max_connections=MAX_CONNECTIONS,
        health_check_interval=0,
        # Else each new connection reads the metadata of an installed package, on the loop.
        driver_info=None,
    )
    client: Redis = Redis.from_pool(pool)
    return client


def failure(error: BaseException) -> BackendError:
    """Return what to tell of `error`."""
    # Its message may name the host, and some the password in the URL.
    return BackendError(f"Redis: {type(error).__name__}")
