"""Somebody's word on an answer that was served: learned from, and taken back if it was wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from asgi_llmgate.core.semantic.codec import encode_label
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.mind import Mind
from asgi_llmgate.core.semantic.served import (
    PLACES,
    SERVED_S,
    Served,
    decode_served,
    judged_key,
    served_key,
)
from asgi_llmgate.learned_labels import known_of
from asgi_llmgate.protocols import CacheStore, Count, LabelStore, VectorIndex

__all__ = ["AmbiguousCallError", "Feedback"]


class AmbiguousCallError(ValueError):
    """Calls of several tenants have this id."""


class Feedback:
    """Takes verdicts on semantic hits of the last day, whichever worker served them.

    Args:
        store: Returns the store of the answers, which also holds what was served.
        index: Returns that of the phrasings.
        labels: Returns that of the verdicts.
        secret: Returns the key from which names derive.
        count: Counts verdicts.
    """

    def __init__(
        self,
        store: Callable[[], CacheStore],
        index: Callable[[], VectorIndex],
        labels: Callable[[], LabelStore],
        secret: Callable[[], bytes],
        *,
        count: Count | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._index = index
        self._labels = labels
        self._secret = secret
        self._count = count
        self._clock_us = clock_us

    async def give(
        self, call_id: str, *, wrong: bool, tenant: str | None = None, is_admin: bool = False
    ) -> dict[str, Any] | None:
        """Take somebody's word on an answer that was served; a call is judged once.

        Args:
            call_id: `LLMGate-Id` of a call of the last day that was a semantic hit.
            tenant: Whose call it was.
            is_admin: May judge everybody's calls; then `tenant` may be None.

        Returns:
            What came of it; None if there is no such hit.

        Raises:
            AmbiguousCallError: several tenants have such a call; name one.
        """
        served = await self._served(call_id, tenant, is_admin=is_admin)
        if served is None:
            return None
        store, lease = self._store(), judged_key(self._secret(), call_id, served.tenant)
        told = {"id": call_id, "wrong": wrong, "counted": False, "quarantined": False}
        # Never released: it stands for as long as the note does.
        if not await store.acquire(lease, f"{self._clock_us()}", ttl_s=SERVED_S):
            return told
        label = Label(
            features=served.features,
            is_right=not wrong,
            weight=1.0,  # Who complains is no sample of all hits.
            source=Source.FEEDBACK,
            alias=served.alias,
            answer=served.answer,
            similarity=served.similarity,
            made_us=self._clock_us(),
        )
        await self._labels().append(served.partition, [encode_label(label)])
        self._counted("labels_total", source=label.source.value, right=str(not wrong).lower())
        if wrong:
            await self._take_back(served)
        return told | {"counted": True, "quarantined": wrong}

    async def _served(self, call_id: str, tenant: str | None, *, is_admin: bool) -> Served | None:
        secret = self._secret()
        key = served_key(secret, call_id)
        values, _ = await self._store().read(key, slots=PLACES, names=())
        now_us = self._clock_us()
        found = [
            served
            for value in values
            if value is not None
            and (served := decode_served(secret, key, value, now_us=now_us)) is not None
            and (served.tenant == tenant or (is_admin and tenant is None))
        ]
        if len(found) > 1:
            raise AmbiguousCallError("calls of several tenants have this id: name the tenant")
        return found[0] if found else None

    async def _take_back(self, served: Served) -> None:
        """Forget a phrasing that led to a wrong answer; after the second time, the answer."""
        self._counted("quarantined_total")
        index = self._index()
        await index.remove(served.scope, [served.alias])
        known = await known_of(self._labels(), served.partition)
        if (await asyncio.to_thread(_mind_of, known.labels)).is_discredited(served.answer):
            await index.remove_answer(served.scope, served.answer)
            await self._store().delete(served.answer)

    def _counted(self, name: str, **labels: str) -> None:
        if self._count is not None:
            self._count(f"llmgate_semantic_{name}", 1, **labels)


def _mind_of(labels: Iterable[Label]) -> Mind:
    mind = Mind()
    mind.learn(labels)
    return mind
