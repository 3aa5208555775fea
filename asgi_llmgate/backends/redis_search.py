"""Can this Redis search, and with which client?"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import BlockingConnectionPool, ConnectionPool
from redis.exceptions import ResponseError

from asgi_llmgate.errors import ConfigurationError

__all__ = ["has_search", "search_client"]


async def has_search(client: Any, prefix: str = "llmgate:") -> bool:
    """Say whether `client` may search: the module is there, and the user is allowed to use it.

    Asks for an index that does not exist, with the commands that will be needed: a user who may
    search need not be allowed to list modules, and one who may list them not to search.

    Raises:
        RedisError, OSError: it cannot be reached.
    """
    name = f"{prefix}semantic:none"
    for command in (("FT.INFO", name), ("FT.SEARCH", name, "*", "LIMIT", "0", "0")):
        try:
            await client.execute_command(*command)
        except ResponseError as error:
            # NOPERM is an exception of its own below it, whose text lacks the word.
            text = f"{type(error).__name__} {error}".lower()
            if any(words in text for words in ("unknown command", "noperm", "permission")):
                return False
    return True


def search_client(client: Redis) -> Redis:
    """Return `client`, or one like it that speaks protocol 2 and decodes nothing.

    RedisVL and redis-py read answers of the search module in the shapes of protocol 2; in others
    results have been empty or undecoded, depending on the version.

    Raises:
        ConfigurationError: there is no way to make one like it.
    """
    pool: Any = getattr(client, "connection_pool", None)
    settings: dict[str, Any] = getattr(pool, "connection_kwargs", {})
    if settings.get("protocol") in (2, "2") and not settings.get("decode_responses"):
        return client
    if type(pool) not in (ConnectionPool, BlockingConnectionPool):
        raise ConfigurationError(
            f"The semantic index cannot use a {type(client).__name__} with a "
            f"{type(pool).__name__}.\n"
            "HINT: give it a `redis.asyncio.Redis` of one server, made with `protocol=2`."
        )
    # These belong to the pool that they were made for.
    kept = {
        name: value
        for name, value in settings.items()
        if not name.startswith(("maint_", "orig_", "himport_"))
    }
    kept |= {"protocol": 2, "decode_responses": False}
    made: Any = type(pool)(
        connection_class=pool.connection_class, max_connections=pool.max_connections, **kept
    )
    ours: Redis = Redis.from_pool(made)
    return ours
