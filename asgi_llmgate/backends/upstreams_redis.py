"""What the processes of several machines know about upstreams, in Redis.

    …:places    a hash: place → what was said of it last, and by whom
    …:changes   how often anything was said, so that a look costs one GET while all is well
    …:probe:…   who probes a place; expires with its owner

Plain commands only, no scripts: HSET, HGETALL, HDEL, INCR, GET, SET, DEL, TIME. Times are of the
server's clock, so a machine whose own is wrong takes part like any other. Used from the thread of
`SharedHealth`, so a Redis that hangs keeps no call.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from asgi_llmgate.backends.upstreams_shared import CLAIM_S, KEPT_US, RUNNING_S, Row
from asgi_llmgate.core.breaker import State
from asgi_llmgate.core.health import WHOLE_KEY, Place, Trouble
from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.errors import BackendError

__all__ = ["RedisBoard"]

PREFIX = "llmgate:upstreams:"

# All who are awake have heard by then that a place is called again.
GOOD_AGAIN_US = 60_000_000

# Nobody's call waits for it, and a machine that is busy is late by more than a round trip.
TIMEOUT_S = 1.0


class RedisBoard:
    """`Board` in Redis 6.2 or newer.

    Args:
        url: Connected to at the first use.
        prefix: Of all keys.
    """

    name = "Redis"

    def __init__(self, url: str, *, prefix: str = PREFIX, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._made: Redis | None = None
        self._making = threading.Lock()
        self._seen: dict[bytes, bytes] = {}
        self._changes: bytes | None = None

    def now_us(self) -> int:
        with self._asked() as redis:
            return _micros(redis)

    def publish(self, row: Row, *, by: str) -> None:
        place = dumps(row.place)
        with self._asked() as redis:
            said = [row.is_open, row.until_us, row.reason, _micros(redis), by]
            pipe = redis.pipeline(transaction=True)
            pipe.hset(f"{self._prefix}places", place, dumps(said))
            pipe.incr(f"{self._prefix}changes")
            pipe.delete(self._probe(row.place))
            pipe.execute()

    def news(self, *, by: str) -> list[Row]:
        with self._asked() as redis:
            # Read before the rows: what is said in between is read again next time.
            changes: Any = redis.get(f"{self._prefix}changes")
            if changes == self._changes:
                return []
            rows = self._rows(redis)
        found = []
        for name, raw, row, said_us, said_by in rows:
            if self._seen.get(name) != raw:
                self._seen[name] = raw
                if said_by != by:
                    found.append((said_us, row))
        self._changes = changes
        return [row for _, row in sorted(found, key=lambda each: each[0])]

    def claim(self, *, running: Sequence[Place], waiting: Sequence[Place], by: str) -> list[Place]:
        with self._asked() as redis:
            for place in running:
                if redis.get(self._probe(place)) == by.encode():
                    redis.set(self._probe(place), by, px=int(RUNNING_S * 1000), xx=True)
            if not self._seen and not waiting:
                return []
            now_us = _micros(redis)
            rows = {row.place: row for _, _, row, _, _ in self._rows(redis)}
            due = [
                place
                for place, row in rows.items()
                if row.is_open and row.until_us <= now_us and place.model != WHOLE_KEY
            ]
            # A Redis that was restarted, or was short of memory, does not know of them any more.
            due += [place for place in waiting if place not in rows]
            life_ms = int(CLAIM_S * 1000)
            return [
                place
                for place in due
                if place not in running and redis.set(self._probe(place), by, px=life_ms, nx=True)
            ]

    def troubles(self) -> list[tuple[Trouble, float]]:
        with self._asked() as redis:
            now_us = _micros(redis)
            rows = [row for _, _, row, _, _ in self._rows(redis) if row.is_open]
            probed = [bool(redis.get(self._probe(row.place))) for row in rows]
        found = [
            (
                Trouble(row.place, State.HALF_OPEN if is_probed else State.OPEN, 0.0, row.reason),
                max(0.0, (row.until_us - now_us) / 1e6),
            )
            for row, is_probed in zip(rows, probed, strict=True)
        ]
        return sorted(found, key=lambda each: each[0].place)

    def close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            made.close()

    def abandon(self) -> object:
        abandoned, self._made = self._made, None
        self._making = threading.Lock()
        return abandoned

    def _rows(self, redis: Redis) -> list[tuple[bytes, bytes, Row, int, str]]:
        """Return what is on the board; takes off what is over, and what is not ours."""
        answer: Any = redis.hgetall(f"{self._prefix}places")
        now_us = _micros(redis) if answer else 0
        found, gone = [], []
        for name, raw in answer.items():
            read = _row(name, raw)
            kept_us = KEPT_US if read is not None and read[0].is_open else GOOD_AGAIN_US
            if read is None or read[1] <= now_us - kept_us:
                gone.append(name)
                self._seen.pop(name, None)
            else:
                found.append((name, raw, *read))
        if gone:
            redis.hdel(f"{self._prefix}places", *gone)
        return found

    def _probe(self, place: Place) -> str:
        return f"{self._prefix}probe:{hashlib.sha256(dumps(place)).hexdigest()[:32]}"

    @contextmanager
    def _asked(self) -> Iterator[Redis]:
        with self._making:
            if self._made is None:
                self._made = Redis.from_url(
                    self._url,
                    socket_timeout=self._timeout_s,
                    socket_connect_timeout=self._timeout_s,
                    retry=Retry(NoBackoff(), 0),
                    retry_on_error=[],
                    driver_info=None,
                )
            made = self._made
        try:
            yield made
        except (RedisError, OSError) as error:
            # Its message may name the host, and some the password in the URL.
            raise BackendError(f"Redis: {type(error).__name__}") from error


def _micros(redis: Redis) -> int:
    answer: Any = redis.time()
    seconds, micros = answer
    return int(seconds) * 1_000_000 + int(micros)


def _row(name: bytes, raw: bytes) -> tuple[Row, int, str] | None:
    """Read one field of the hash; None if somebody else wrote it."""
    try:
        place, said = Place(*loads(name)), loads(raw)
        is_open, until_us, reason, said_us, by = said
        return Row(place, bool(is_open), int(until_us), str(reason)), int(said_us), str(by)
    except (JSONError, TypeError, ValueError):
        return None
