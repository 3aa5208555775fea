"""What the semantic cache knows: look at it, judge what it served, make it forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from asgi_llmgate.core.cache_entry import decode_entry
from asgi_llmgate.core.cache_key import CacheKey, partitions_of
from asgi_llmgate.core.record import usd
from asgi_llmgate.core.semantic import report
from asgi_llmgate.core.semantic.alias import Alias
from asgi_llmgate.core.semantic.codec import decode_label, encode_label
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.mind import Mind
from asgi_llmgate.core.semantic.model import Model
from asgi_llmgate.core.semantic.policy import SemanticPolicy
from asgi_llmgate.core.semantic.served import (
    PLACES,
    SERVED_S,
    Served,
    decode_served,
    judged_key,
    served_key,
)
from asgi_llmgate.protocols import CacheStore, Count, LabelStore, VectorIndex

__all__ = ["MAX_LISTED", "AmbiguousCallError", "Learned"]

MAX_LISTED = 10_000

BOUNDS = (0.01, 0.02, 0.05)


class AmbiguousCallError(ValueError):
    """Calls of several tenants have this id."""


class Known(NamedTuple):
    """Labels, oldest first, and the model made of them."""

    labels: list[Label]
    model: Model | None


class Learned:
    """Reads and changes the stores themselves, so that it is the same from any process.

    All methods raise `BackendError` where a store does not answer.

    Args:
        store: Returns the store of the answers.
        index: Returns that of the phrasings.
        labels: Returns that of the verdicts.
        secret: Returns the key from which names derive.
        policy: What is allowed.
        count: Counts verdicts.
    """

    def __init__(
        self,
        store: Callable[[], CacheStore],
        index: Callable[[], VectorIndex],
        labels: Callable[[], LabelStore],
        secret: Callable[[], bytes],
        *,
        policy: SemanticPolicy = SemanticPolicy(),  # noqa: B008 -- frozen
        count: Count | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._index = index
        self._labels = labels
        self._secret = secret
        self.policy = policy
        self._count = count
        self._clock_us = clock_us

    async def size(self) -> dict[str, Any]:
        """Return how many phrasings there are, in how many scopes, and how many labels."""
        size = await self._index().size()
        labels = 0
        for partition in await self._labels().partitions():
            labels += len((await self._known(partition)).labels)
        return {
            "aliases": size.aliases,
            "scopes": size.scopes,
            "index_bytes": size.bytes,
            "labels": labels,
        }

    async def aliases(
        self, *, namespace: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return the newest phrasings, with what they lead to."""
        now_us = self._clock_us()
        return [
            {
                "id": alias.id,
                "scope": scope,
                "partition": alias.partition,
                "question": alias.question,
                "answer": alias.answer,
                "age_s": (now_us - alias.created_us) // 1_000_000,
                "expires_in_s": (alias.expires_us - now_us) // 1_000_000,
            }
            for scope, alias in await self._listed(namespace, limit)
        ]

    async def entries(
        self, *, namespace: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return the answers to which the newest phrasings lead, each with those phrasings."""
        now_us, secret, store = self._clock_us(), self._secret(), self._store()
        by_answer: dict[CacheKey, list[tuple[str, Alias]]] = {}
        for scope, alias in await self._listed(namespace, MAX_LISTED):
            by_answer.setdefault(alias.answer, []).append((scope, alias))
        rows = []
        for answer, found in list(by_answer.items())[:limit]:
            values, _ = await store.read(answer, slots=1, names=())
            entry = None if values[0] is None else decode_entry(secret, answer, values[0])
            rows.append(
                {
                    "answer": answer,
                    "scope": found[0][0],
                    "partition": found[0][1].partition,
                    "aliases": len(found),
                    "questions": [alias.question for _, alias in found[:5]],
                    "stored": entry is not None,
                    "age_s": entry and (now_us - entry.created_us) // 1_000_000,
                    "expires_in_s": entry and (entry.expires_us - now_us) // 1_000_000,
                    "model": entry and entry.model,
                    "cost_usd": entry and usd(entry.cost_nanousd),
                }
            )
        return rows

    async def partitions(self) -> list[dict[str, Any]]:
        """Return what has learned anything: a partition per tenant, named by a digest."""
        rows = []
        for partition in await self._labels().partitions():
            known = await self._known(partition)
            rows.append({"partition": partition, **self._summary(known)})
        return rows

    async def report(
        self, namespace: str | None = None, *, max_errors: Iterable[float] = ()
    ) -> dict[str, Any]:
        """Return what is known of a namespace, or of all: labels, histogram, bounds."""
        policy = self.policy
        bound = policy.max_error
        if namespace is not None:
            bound = policy.max_errors.get(namespace, bound)
        wanted = {*BOUNDS, bound, *max_errors}
        rows = []
        for partition in await self._learned(namespace):
            known = await self._known(partition)
            rows.append(
                {
                    "partition": partition,
                    "state": report.state_of(known.labels, known.model, bound),
                    "labels": report.label_counts(known.labels),
                    "histogram": report.histogram(known.labels),
                    "model_labels": None if known.model is None else known.model.labels,
                    "bounds": report.bounds(known.labels, known.model, wanted),
                }
            )
        return {
            "namespace": namespace,
            "max_error": bound,
            "threshold": policy.threshold,
            "observes": policy.observes,
            "partitions": rows,
        }

    async def export(self, namespace: str | None = None) -> dict[str, Any]:
        """Return all that was learned: the weights of the model, and each label."""
        rows = []
        for partition in await self._learned(namespace):
            known = await self._known(partition)
            rows.append(
                {
                    "partition": partition,
                    **self._summary(known),
                    "weights": report.weights(known.model),
                    "bounds": report.bounds(known.labels, known.model, BOUNDS),
                    "labels": [report.export_label(label) for label in known.labels],
                }
            )
        return {"namespace": namespace, "partitions": rows}

    async def reset(self, namespace: str | None = None, *, everything: bool = False) -> int:
        """Forget what was learned of a namespace, or all; return of how many partitions.

        Phrasings and answers stay: `Cache.purge` removes those.

        Raises:
            ValueError: neither or both were named.
        """
        if (namespace is None) != everything:
            raise ValueError("name a namespace, or everything")
        forgotten = await self._learned(namespace)
        for partition in forgotten:
            await self._labels().reset(partition)
        return len(forgotten)

    async def feedback(
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
        known = await self._known(served.partition)
        if (await asyncio.to_thread(_mind_of, known)).is_discredited(served.answer):
            await index.remove_answer(served.scope, served.answer)
            await self._store().delete(served.answer)

    async def _listed(self, namespace: str | None, limit: int) -> list[tuple[str, Alias]]:
        index = self._index()
        if namespace is None:
            return await index.listed(limit=limit)
        found = [
            pair
            for partition in partitions_of(self._secret(), namespace)
            for pair in await index.listed(partition=partition, limit=limit)
        ]
        return sorted(found, key=lambda pair: -pair[1].created_us)[:limit]

    async def _learned(self, namespace: str | None) -> Sequence[str]:
        known = await self._labels().partitions()
        if namespace is None:
            return known
        return [each for each in partitions_of(self._secret(), namespace) if each in known]

    async def _known(self, partition: str) -> Known:
        read = await self._labels().since(partition, after=0, model_version=0)

        def decode() -> Known:
            labels = [label for each in read.labels if (label := decode_label(each)) is not None]
            return Known(labels, None if read.model is None else _model_of(read.model[1]))

        return await asyncio.to_thread(decode)

    def _summary(self, known: Known) -> dict[str, Any]:
        return {
            "state": report.state_of(known.labels, known.model, self.policy.max_error),
            "labels": report.label_counts(known.labels),
            "model_labels": None if known.model is None else known.model.labels,
        }

    def _counted(self, name: str, **labels: str) -> None:
        if self._count is not None:
            self._count(f"llmgate_semantic_{name}", 1, **labels)


def _model_of(encoded: bytes) -> Model | None:
    try:
        return Model.decode(encoded)
    except ValueError:
        return None  # Of another version; the next fit makes a new one.


def _mind_of(known: Known) -> Mind:
    mind = Mind()
    mind.learn(known.labels)
    return mind
