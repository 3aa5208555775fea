"""What the cache did: sums over all workers of the machine, or over one tenant's logged calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asgi_llmgate.cache import Cache
from asgi_llmgate.core.record import usd
from asgi_llmgate.core.stats import CallFilter
from asgi_llmgate.learned import Learned

__all__ = ["cache_stats", "machine_figures", "tenant_figures"]

Counters = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


async def cache_stats(
    cache: Cache, learned: Learned | None, folder: Path, tenant: str | None = None
) -> dict[str, Any]:
    """Return how much is stored, and what the cache did; for one tenant, only the latter.

    Args:
        learned: None where there is no semantic cache.

    Raises:
        BackendError: something does not answer.
    """
    if tenant is not None:
        return {"namespace": tenant, **await tenant_figures(folder, tenant)}
    figures = await machine_figures(folder)
    if learned is not None:
        figures["semantic"] = await learned.size() | figures["semantic"]
    return {**await cache.stats(), **figures}


async def machine_figures(folder: Path) -> dict[str, Any]:
    """Return hits, misses and money, as the workers of this machine counted them.

    Raises:
        BackendError: they cannot be read.
    """
    from asgi_llmgate.backends.metrics import counters  # needs SQLite's driver, an extra

    counted = await asyncio.to_thread(counters, folder)
    statuses = _by_label(counted, "llmgate_cache_total", "status")
    tiers = _by_label(counted, "llmgate_cache_hits_total", "tier")
    saved = _nanousd(counted, "llmgate_cache_saved_usd_total")
    paid = _nanousd(counted, "llmgate_semantic_check_usd_total")
    looks = _by_label(counted, "llmgate_semantic_looks_total", "result")
    verdicts: dict[str, dict[str, int]] = {}
    for (name, labels), number in counted.items():
        if name == "llmgate_semantic_labels_total":
            said = dict(labels)
            found = verdicts.setdefault(said["source"], {"right": 0, "wrong": 0})
            found["right" if said["right"] == "true" else "wrong"] += round(number)
    return {
        "calls": "counted by the workers of this machine",
        **_calls(statuses, tiers),
        **_money("saved", saved),
        **_money("net_saved", saved - paid),
        "semantic": {
            "looks": looks,
            "would_have_served": looks.get("observed", 0),
            **_money("would_have_saved", _nanousd(counted, "llmgate_semantic_observed_usd_total")),
            **_money("saved", _nanousd(counted, "llmgate_semantic_saved_usd_total")),
            **_money("check", paid),
            "checks": _total(counted, "llmgate_semantic_checks_total"),
            "checks_skipped": _total(counted, "llmgate_semantic_checks_skipped_total"),
            "labels": sum(sum(found.values()) for found in verdicts.values()),
            "verdicts": verdicts,
            "quarantined": _total(counted, "llmgate_semantic_quarantined_total"),
            "failures": _total(counted, "llmgate_semantic_failures_total"),
        },
    }


async def tenant_figures(folder: Path, tenant: str) -> dict[str, Any]:
    """Return hits, misses and money of the calls of one tenant that the journal still holds.

    Raises:
        BackendError: there is no journal, or it cannot be read.
    """
    from asgi_llmgate.backends.journal_reader import CacheSums, JournalReader

    def read() -> list[CacheSums]:
        reader = JournalReader(folder)
        try:
            return reader.cache_sums(CallFilter(tenant=tenant))
        finally:
            reader.close()

    rows = await asyncio.to_thread(read)
    statuses: dict[str, int] = {}
    tiers: dict[str, int] = {}
    for row in rows:
        statuses[row.status] = statuses.get(row.status, 0) + row.calls
        if row.status in ("HIT", "STALE"):
            tier = "semantic" if row.is_semantic else "exact"
            tiers[tier] = tiers.get(tier, 0) + row.calls
    return {
        "calls": "in the journal of this machine",
        **_calls(statuses, tiers),
        **_money("saved", sum(row.saved_nanousd for row in rows)),
        "semantic": _money("saved", sum(row.saved_nanousd for row in rows if row.is_semantic)),
    }


def _calls(statuses: Mapping[str, int], tiers: Mapping[str, int]) -> dict[str, Any]:
    hits = sum(tiers.values())
    asked = hits + statuses.get("MISS", 0)
    return {
        "hits": {"exact": tiers.get("exact", 0), "semantic": tiers.get("semantic", 0)},
        "misses": statuses.get("MISS", 0),
        "stale": statuses.get("STALE", 0),
        "bypassed": statuses.get("BYPASS", 0),
        "hit_share": round(hits / asked, 4) if asked else None,
    }


def _money(name: str, nanousd: int) -> dict[str, Any]:
    return {f"{name}_usd": usd(nanousd), f"{name}_nanousd": nanousd}


def _by_label(counted: Counters, name: str, label: str) -> dict[str, int]:
    return {
        dict(labels).get(label, "other"): round(number)
        for (each, labels), number in counted.items()
        if each == name
    }


def _total(counted: Counters, name: str) -> int:
    return round(sum(_values(counted, name)))


def _nanousd(counted: Counters, name: str) -> int:
    return round(sum(_values(counted, name)) * 1e9)


def _values(counted: Counters, name: str) -> Iterable[float]:
    return (number for (each, _), number in counted.items() if each == name)
