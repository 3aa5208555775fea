"""What was learned, for workers on several machines: streams in Redis, no scripts, no modules.

<prefix><partition>:labels  a stream; ids are of the server's clock, so they only grow,
                            whatever becomes of the stream
<prefix><partition>:model   a stream of one; the id is the version
<prefix><partition>:epoch   moved by a reset; lost with the rest, it begins with the time
<prefix>partitions          a set
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from asgi_llmgate.backends.labels_memory import DEFAULT_WINDOW
from asgi_llmgate.backends.redis_guard import TIMEOUT_S, RedisGuard, redis_client
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import LabelsRead

__all__ = ["RedisLabelStore"]

PREFIX = "llmgate:labels:"
# A stream is at most read so far at once: a window with its slack.
SLACK = 200
# What nobody has added to for so long says nothing of today.
LIFE_S = 90 * 86_400
# Below it there may be so many ids in one millisecond.
PER_MS = 1 << 20


class RedisLabelStore:
    """Keep labels in Redis 6.2 or newer.

    Needs XADD, XRANGE, XREVRANGE, XTRIM, XLEN, SET, GET, INCR, EXPIRE, SADD, SREM, SMEMBERS,
    EXISTS, MULTI, EXEC on keys that begin with `prefix`. Not for clusters.

    Args:
        client: Yours to close. Its own timeouts should be below 50 ms, and it should not retry.
        window: How many labels of a partition are kept; Redis keeps some more.
        prefix: Of all keys.
        timeout_s: How long a call waits.
    """

    def __init__(
        self,
        client: Redis,
        *,
        window: int = DEFAULT_WINDOW,
        prefix: str = PREFIX,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._client: Any = client
        self._is_ours = False
        self._window = window
        self._prefix = prefix
        self._guard = RedisGuard(timeout_s)

    @classmethod
    def from_url(cls, url: str, *, timeout_s: float = TIMEOUT_S, **options: Any) -> RedisLabelStore:
        """Return a store with a client of its own, which `aclose` closes."""
        store = cls(redis_client(url, timeout_s=timeout_s), timeout_s=timeout_s, **options)
        store._is_ours = True
        return store

    async def append(self, partition: str, labels: Sequence[bytes]) -> None:
        if not labels:
            return
        name = self._name(partition, "labels")
        pipe = self._client.pipeline(transaction=True)
        for label in labels:
            pipe.xadd(name, {"l": label}, maxlen=self._window, approximate=True)
        pipe.expire(name, LIFE_S)
        pipe.sadd(f"{self._prefix}partitions", partition)
        await self._guard.ask(pipe.execute, self._patience_s(len(labels)))

    async def since(self, partition: str, *, after: int, model_version: int) -> LabelsRead:
        epoch = self._name(partition, "epoch")
        pipe = self._client.pipeline(transaction=True)
        # The epoch starts with the time of its making, so that a lost one is never met again.
        pipe.set(epoch, time.time_ns() // 1000, nx=True)
        pipe.get(epoch)
        pipe.expire(epoch, LIFE_S)
        pipe.xrange(
            self._name(partition, "labels"), f"({_id(after)}", "+", count=self._window + SLACK
        )
        pipe.xrevrange(self._name(partition, "model"), count=1)
        answers = await self._guard.ask(pipe.execute, self._patience_s(self._window))
        try:
            rows = [(_number(id_), _field(fields, "l")) for id_, fields in answers[3]]
            model = None
            for id_, fields in answers[4]:
                version = _number(id_)
                if version != model_version:
                    model = version, _field(fields, "m")
            last = rows[-1][0] if rows else after
            return LabelsRead(int(answers[1]), last, [label for _, label in rows], model)
        except (TypeError, ValueError):
            raise BackendError("what was learned cannot be read in Redis") from None

    async def set_model(self, partition: str, model: bytes) -> int:
        name = self._name(partition, "model")

        async def add() -> int:
            pipe = self._client.pipeline(transaction=True)
            pipe.xadd(name, {"m": model}, maxlen=1, approximate=False)
            pipe.expire(name, LIFE_S)
            pipe.sadd(f"{self._prefix}partitions", partition)
            return _number((await pipe.execute())[0])

        return await self._guard.ask(add, self._patience_s(len(model) // 100))

    async def reset(self, partition: str) -> None:
        epoch = self._name(partition, "epoch")
        pipe = self._client.pipeline(transaction=True)
        for part in ("labels", "model"):
            # An emptied stream remembers its last id; a deleted one could give it again.
            pipe.xtrim(self._name(partition, part), maxlen=0, approximate=False)
        pipe.set(epoch, time.time_ns() // 1000, nx=True)
        pipe.incr(epoch)
        pipe.expire(epoch, LIFE_S)
        # An operator's command: it is not held off by the breaker.
        await self._guard.once(pipe.execute)

    async def partitions(self) -> list[str]:
        async def read() -> list[str]:
            found = sorted(
                one.decode() if isinstance(one, bytes) else one
                for one in await self._client.smembers(f"{self._prefix}partitions")
            )
            pipe = self._client.pipeline(transaction=False)
            for partition in found:
                pipe.xlen(self._name(partition, "labels"))
                pipe.xlen(self._name(partition, "model"))
            lengths = await pipe.execute() if found else []
            pairs = zip(found, lengths[::2], lengths[1::2], strict=True)
            return [partition for partition, labels, models in pairs if labels or models]

        return await self._guard.once(read)

    async def aclose(self) -> None:
        if self._is_ours:
            await self._client.aclose()

    def _name(self, partition: str, part: str) -> str:
        return f"{self._prefix}{partition}:{part}"

    def _patience_s(self, labels: int) -> float:
        """Many labels take longer than a timeout that is meant for round trips."""
        return self._guard.timeout_s + labels * 50e-6


def _id(number: int) -> str:
    return f"{number // PER_MS}-{number % PER_MS}"


def _number(id_: bytes | str) -> int:
    """Return a stream's id as a number that grows with it."""
    text = id_.decode() if isinstance(id_, bytes) else id_
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds) * PER_MS + int(sequence)


def _field(fields: dict[Any, bytes], name: str) -> bytes:
    return fields[name.encode()]
