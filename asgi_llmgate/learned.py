"""What the semantic cache knows: look at it, judge what it served, make it forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from asgi_llmgate.core.cache_entry import decode_entry
from asgi_llmgate.core.cache_key import CacheKey, partitions_of
from asgi_llmgate.core.record import usd
from asgi_llmgate.core.semantic import report
from asgi_llmgate.core.semantic.alias import Alias
from asgi_llmgate.core.semantic.policy import SemanticPolicy
from asgi_llmgate.feedback import Feedback
from asgi_llmgate.learned_labels import Known, known_of
from asgi_llmgate.protocols import CacheStore, Count, LabelStore, VectorIndex

__all__ = ["MAX_LISTED", "Learned"]

MAX_LISTED = 10_000

# Each may be thousands of labels, which are read for a summary.
MAX_PARTITIONS = 100

BOUNDS = (0.01, 0.02, 0.05)


class Learned:
    """Reads and changes the stores themselves, so that it is the same from any process.

    All methods raise `BackendError` where a store does not answer. A namespace is a tenant, what
    `namespace=` of a middleware returned, or the digest that stands for one of these in lists.

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
        self._clock_us = clock_us
        self._feedback = Feedback(store, index, labels, secret, count=count, clock_us=clock_us)

    async def size(self) -> dict[str, Any]:
        """Return how many phrasings there are, and in how many scopes."""
        size = await self._index().size()
        return {"aliases": size.aliases, "scopes": size.scopes, "index_bytes": size.bytes}

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

    async def report(
        self, namespace: str | None = None, *, max_errors: Iterable[float] = ()
    ) -> dict[str, Any]:
        """Return what is known of a namespace, or of many: labels, histogram, bounds."""
        policy = self.policy
        bound = policy.max_error
        if namespace is not None:
            bound = policy.max_errors.get(namespace, bound)
        wanted = {*BOUNDS, bound, *max_errors}

        def told(known: Known) -> dict[str, Any]:
            return {
                **_summary(known, bound),
                "histogram": report.histogram(known.labels),
                "bounds": report.bounds(known.labels, known.model, wanted),
            }

        return {
            "namespace": namespace,
            "max_error": bound,
            "threshold": policy.threshold,
            "observes": policy.observes,
            **await self._of_each(namespace, told),
        }

    async def export(self, namespace: str | None = None) -> dict[str, Any]:
        """Return what was learned: the weights of the model, and of one namespace each verdict."""

        def told(known: Known) -> dict[str, Any]:
            found = {
                **_summary(known, self.policy.max_error),
                "weights": report.weights(known.model),
                "bounds": report.bounds(known.labels, known.model, BOUNDS),
            }
            if namespace is not None:
                found["verdicts"] = [report.export_label(label) for label in known.labels]
            return found

        return {"namespace": namespace, **await self._of_each(namespace, told)}

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
        """Take somebody's word on an answer that was served; as `Feedback.give`."""
        return await self._feedback.give(call_id, wrong=wrong, tenant=tenant, is_admin=is_admin)

    async def _of_each(
        self, namespace: str | None, told: Callable[[Known], dict[str, Any]]
    ) -> dict[str, Any]:
        found = await self._learned(namespace)
        rows = []
        for partition in found[:MAX_PARTITIONS]:
            known = await known_of(self._labels(), partition)
            rows.append({"partition": partition, **await asyncio.to_thread(told, known)})
        return {"partitions": rows, "left_out": len(found) - len(rows)}

    async def _listed(self, namespace: str | None, limit: int) -> list[tuple[str, Alias]]:
        index = self._index()
        if namespace is None:
            return await index.listed(limit=limit)
        found = [
            pair
            for partition in (namespace, *partitions_of(self._secret(), namespace))
            for pair in await index.listed(partition=partition, limit=limit)
        ]
        return sorted(found, key=lambda pair: -pair[1].created_us)[:limit]

    async def _learned(self, namespace: str | None) -> Sequence[str]:
        known = await self._labels().partitions()
        if namespace is None:
            return known
        meant = (namespace, *partitions_of(self._secret(), namespace))
        return [each for each in meant if each in known]


def _summary(known: Known, max_error: float) -> dict[str, Any]:
    return {
        "state": report.state_of(known.labels, known.model, max_error),
        "labels": report.label_counts(known.labels),
        "model_labels": None if known.model is None else known.model.labels,
    }
