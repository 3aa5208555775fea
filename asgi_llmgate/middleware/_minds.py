"""What each partition has learned, as far as this process knows it.

Labels are in a store that workers share. A mind is read whole when its partition is first seen,
and follows the store from then on, in the background, at most once a second. Whoever finds that
there is enough that is new makes the next model under a lease; all others take it over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.codec import decode_label, encode_label
from asgi_llmgate.core.semantic.label import Label
from asgi_llmgate.core.semantic.mind import Mind
from asgi_llmgate.core.semantic.model import Model, fit
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import CacheStore, LabelsRead, LabelStore

__all__ = ["Minds"]

logger = logging.getLogger("asgi_llmgate")

FOLLOW_EVERY_S = 1.0
# The first who asks waits until it is read; longer than this is worse than not knowing.
FIRST_WAIT_S = 1.0
FIT_LEASE_S = 30.0
# Labels that are taken in at once: some milliseconds of the event loop.
SLICE = 150
# A mind is about a megabyte once it has learned anything.
MAX_MINDS = 64


class Followed:
    """A mind, and where in the store it stands."""

    __slots__ = (
        "epoch",
        "followed_s",
        "following",
        "is_fitting",
        "last",
        "mind",
        "model_version",
        "reading",
    )

    def __init__(self) -> None:
        self.mind = Mind()
        self.reading = asyncio.Lock()  # Two at once would learn the same labels twice.
        self.is_fitting = False
        self.epoch: int | None = None
        self.last = 0
        self.model_version = 0
        self.followed_s = float("-inf")
        self.following: asyncio.Task[None] | None = None


class Minds:
    """Minds by partition; the least recently used are forgotten here, and read again.

    Args:
        labels: Where verdicts are kept.
        leases: Who makes a model is settled there.
        holder: Names this process.
        clock_s: Seconds since the epoch.
    """

    def __init__(
        self,
        labels: LabelStore,
        leases: CacheStore,
        *,
        holder: str,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._labels = labels
        self._leases = leases
        self._holder = holder
        self._clock_s = clock_s
        self._minds: dict[str, Followed] = {}

    async def of(self, partition: str) -> Mind:
        """Return the mind of `partition`, not older than about a second.

        Only the first call waits for the store. If the store fails, the mind is what it was.
        """
        followed = self._minds.pop(partition, None) or Followed()
        self._minds[partition] = followed
        if len(self._minds) > MAX_MINDS:
            del self._minds[next(iter(self._minds))]
        if time.monotonic() - followed.followed_s >= FOLLOW_EVERY_S:
            if followed.following is None:
                followed.following = asyncio.create_task(self._follow(partition, followed))
            if followed.epoch is None:
                await asyncio.wait([followed.following], timeout=FIRST_WAIT_S)
        return followed.mind

    async def add(self, partition: str, labels: Iterable[Label]) -> None:
        """Add verdicts; others see them within a second or two.

        Raises:
            BackendError: they were not kept.
        """
        await self._labels.append(partition, [encode_label(label) for label in labels])
        followed = self._minds.get(partition)
        if followed is None:
            return
        await self._read(partition, followed)
        await self._fit(partition, followed)

    def forget(self) -> None:
        """Drop what this process knows, and what it was about to find out."""
        for followed in self._minds.values():
            if followed.following is not None:
                followed.following.cancel()
        self._minds.clear()

    async def _follow(self, partition: str, followed: Followed) -> None:
        try:
            await self._read(partition, followed)
        finally:
            followed.following = None

    async def _read(self, partition: str, followed: Followed) -> None:
        followed.followed_s = time.monotonic()
        async with followed.reading:
            try:
                read = await self._since(partition, followed)
                if followed.epoch not in (None, read.epoch):
                    followed.mind.forget()
                    followed.last = followed.model_version = 0
                    read = await self._since(partition, followed)
            except BackendError as error:
                logger.warning("What the semantic cache has learned cannot be read: %s", error)
                return
            followed.epoch = read.epoch
            followed.last = read.last
            for start in range(0, len(read.labels), SLICE):
                if start:
                    await asyncio.sleep(0)  # Others have waited for some milliseconds.
                part = (decode_label(label) for label in read.labels[start : start + SLICE])
                followed.mind.learn(label for label in part if label is not None)
            if read.model is not None:
                followed.model_version, blob = read.model
                try:
                    followed.mind.model = Model.decode(blob)
                except ValueError as error:  # Of another version; the next one will be ours.
                    logger.info("A model of the semantic cache cannot be read: %s", error)

    async def _since(self, partition: str, followed: Followed) -> LabelsRead:
        return await self._labels.since(
            partition, after=followed.last, model_version=followed.model_version
        )

    async def _fit(self, partition: str, followed: Followed) -> None:
        mind = followed.mind
        if followed.is_fitting or not mind.needs_fit(self._clock_s()):
            return
        lease = CacheKey(f"fit:{partition}")
        followed.is_fitting = True
        try:
            if not await self._leases.acquire(lease, self._holder, ttl_s=FIT_LEASE_S):
                return
            try:
                model = await asyncio.to_thread(fit, mind.snapshot())
                followed.model_version = await self._labels.set_model(partition, model.encode())
                mind.model = model
            finally:
                await self._leases.release(lease, self._holder)
        finally:
            followed.is_fitting = False
