"""Counters of this process, added once a second to those of all workers of the machine."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from asgi_llmgate.backends.flusher import Flusher
from asgi_llmgate.core.call_sums import (
    CALLS,
    MODELS,
    Labels,
    Numbers,
    add_call,
    call_families,
    zeros,
)
from asgi_llmgate.core.exposition import CONTENT_TYPE, NAME, Family, exposition
from asgi_llmgate.errors import BackendError
from asgi_llmgate.types import CallRecord

if TYPE_CHECKING:  # It needs SQLite's driver, which a sink in memory does without.
    from asgi_llmgate.backends.metrics_store import MetricsStore, Sums

__all__ = ["CONTENT_TYPE", "Metrics", "counters", "render"]

logger = logging.getLogger("asgi_llmgate")

PUBLISH_EVERY_S = 1.0

# 17 numbers or so per set and histogram: 300 sets are some 200 KB of text per scrape.
MAX_LABEL_SETS = 300
MAX_MODELS = 1000
MAX_LABEL_LENGTH = 128

COUNTERS = "counter:"
"""What precedes the name of a counter in the name of its family of sums."""

HELP = {
    "llmgate_breaker_changes_total": "Changes of breakers and keys, by the state they came to.",
    "llmgate_breakers_open": "Breakers and keys out of use, those of callers among them.",
    "llmgate_keys_refused_total": "Answers that said that a key is not good, or has no money.",
    "llmgate_cache_hits_total": "Calls answered from the cache, by the tier that knew the answer.",
    "llmgate_cache_total": "Calls that could be cached, by what became of that.",
    "llmgate_cache_saved_usd_total": "What answers cost that were not paid for again.",
    "llmgate_headers_dropped_total": "Headers left out because of an underscore in their name.",
    "llmgate_identity_conflicts_total": "Calls that name another user than is proven.",
    "llmgate_requests_refused_total": "Requests refused before they were calls, by code.",
    "llmgate_policy_refusals_total": "Calls that a policy refused, or would if it did not observe.",
    "llmgate_properties_dropped_total": "Properties beyond the names a tenant may have.",
    "llmgate_limited_total": "Calls refused because a limit or a budget was reached.",
    "llmgate_limits_degraded_total": "Calls decided without the store of the limits.",
    "llmgate_log_dropped_total": "Call records that could not be kept.",
    "llmgate_log_queue_length": "Call records that wait to be written.",
    "llmgate_semantic_check_usd_total": "What it cost to ask the provider behind semantic hits.",
    "llmgate_semantic_checks_skipped_total": "Checks of semantic hits that were over the budget.",
    "llmgate_semantic_checks_total": "Semantic hits behind which the provider was asked.",
    "llmgate_semantic_embed_seconds_total": "Time that questions took to become vectors.",
    "llmgate_semantic_failures_total": "Calls that went on without the semantic cache: it failed.",
    "llmgate_semantic_labels_total": "Stored answers found right or wrong, by how that was found.",
    "llmgate_semantic_lessons_dropped_total": "Answers nothing was learned from: too many at once.",
    "llmgate_semantic_looks_total": "Questions that were looked up by meaning, by what came of it.",
    "llmgate_semantic_observed_usd_total": "What hits would have saved if they had been served.",
    "llmgate_semantic_quarantined_total": "Phrasings forgotten because they led to a wrong answer.",
    "llmgate_semantic_saved_usd_total": "What semantic hits cost when they were paid for.",
    "llmgate_semantic_stale_tags_total": "Tags outdated because old answers proved wrong.",
}


class Metrics:
    """What is counted in this process; written to `metrics.sqlite` in `folder`.

    No tenant, user or key is ever a label. Values of labels are bounded: a model gets its own
    series once a call of it succeeded, so that nobody fills the scrape with invented names.

    Thread-safe. Building one does no I/O. Without a folder the figures are of this process only.

    Args:
        folder: The data folder.
        max_label_sets: How many sets of labels a metric may have on this machine; what comes
            later is counted under `other`.
    """

    def __init__(self, folder: Path | None = None, *, max_label_sets: int = MAX_LABEL_SETS) -> None:
        self.folder = folder
        self._max_label_sets = max_label_sets
        self._store = None if folder is None else _store_in(folder, max_label_sets)
        self._gauges: dict[str, Callable[[], float]] = {}
        self._watched: dict[str, Callable[[], int]] = {}
        self._start_empty()
        self._flusher = Flusher(
            self._work,
            interval_s=PUBLISH_EVERY_S,
            name="llmgate-metrics",
            at_exit=self.close,
            after_fork=self._after_fork,
        )
        _ALIVE.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self._calls: dict[tuple[str, str, str, str], int] = {}
        self._models: dict[tuple[str, str], Numbers] = {}
        self._counts: dict[tuple[str, Labels], float] = {}
        self._answering: dict[str, str] = {}
        self._published: dict[str, int] = {}
        self._process = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._is_failing = False

    def observe(self, record: CallRecord) -> None:
        """Count a call: outcome, duration, first byte, tokens, cost."""
        provider = record.provider or "none"
        status = record.status
        outcome = "none" if status is None else f"{status // 100}xx"
        with self._lock:
            model = self._model_label(record, is_success=status is not None and status < 400)
            call = (provider, model, record.dialect or "none", outcome)
            self._calls[call] = self._calls.get(call, 0) + 1
            numbers = self._models.get((provider, model))
            if numbers is None:
                numbers = self._models[provider, model] = zeros()
            add_call(numbers, record)
            if record.cache is not None:
                self._count_cache(record)
        self._flusher.wake()

    def _count_cache(self, record: CallRecord) -> None:
        said = "llmgate_cache_total", (("status", str(record.cache)),)
        self._counts[said] = self._counts.get(said, 0) + 1
        is_semantic = (record.cache_reason or "").startswith("semantic;")
        if record.cache in ("HIT", "STALE"):
            hit = "llmgate_cache_hits_total", (("tier", "semantic" if is_semantic else "exact"),)
            self._counts[hit] = self._counts.get(hit, 0) + 1
        if record.saved_nanousd:
            usd = record.saved_nanousd / 1e9
            names = ["llmgate_cache_saved_usd_total"]
            names += ["llmgate_semantic_saved_usd_total"] if is_semantic else []
            for name in names:
                self._counts[name, ()] = self._counts.get((name, ()), 0) + usd

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        """Add `value` to the counter `name`, which ends in `_total` by convention.

        Labels must have few values, whatever callers send, and say nothing about who calls.

        Raises:
            ValueError: the name is not one that Prometheus takes.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a metric")
        key = name, tuple((label, str(labels[label])) for label in sorted(labels))
        with self._lock:
            if key not in self._counts and len(self._counts) >= self._max_label_sets:
                key = name, tuple((label, "other") for label in sorted(labels))
            self._counts[key] = self._counts.get(key, 0) + value
        self._flusher.wake()

    def watch_counter(self, name: str, read: Callable[[], int]) -> None:
        """Publish what `read` returns, a count of this process that only grows."""
        self._watched[name] = read

    def watch_gauge(self, name: str, read: Callable[[], float]) -> None:
        """Publish what `read` returns; a scrape shows the sum over living processes."""
        self._gauges[name] = read

    def publish(self) -> None:
        """Add what was counted since the last time to the machine's sums. Blocks; never raises.

        What cannot be written is kept and added next time.
        """
        if self._store is None:
            return
        with self._publishing:
            sums, watched = self._taken()
            gauges = {name: read() for name, read in self._gauges.items()}
            try:
                self._store.add(sums, gauges, process=self._process)
            except BackendError as error:
                self._put_back(sums, watched)
                if not self._is_failing:
                    logger.error("Metrics cannot be written: %s", error)
                self._is_failing = True
            else:
                self._is_failing = False

    def render(self) -> bytes:
        """Return the text of a scrape. Blocks on the file: call it in a thread.

        Raises:
            BackendError: the file cannot be read.
        """
        if self._store is not None:
            self.publish()
            return _text(*self._store.read())
        with self._lock:
            sums = _sums(self._calls, self._models, self._counts)
        for name, read in self._watched.items():
            sums[COUNTERS + name, ()] = [read()]
        return _text(sums, {name: read() for name, read in self._gauges.items()})

    def close(self, timeout_s: float = 5.0) -> None:
        """Publish the rest and close the file."""
        self._flusher.stop(timeout_s)
        with self._publishing:
            if self._store is not None:
                self._store.close()

    def _model_label(self, record: CallRecord, *, is_success: bool) -> str:
        asked = record.model_requested or record.model
        if asked is None:
            return "none"
        known = self._answering.get(asked)
        if is_success and known is None and len(self._answering) < MAX_MODELS:
            known = (record.model or asked)[:MAX_LABEL_LENGTH]
            self._answering[asked] = known
        return known or "other"

    def _taken(self) -> tuple[Sums, dict[str, int]]:
        with self._lock:
            counted = self._calls, self._models, self._counts
            self._calls, self._models, self._counts = {}, {}, {}
        sums = _sums(*counted)
        before = self._published
        now = {name: read() for name, read in self._watched.items()}
        for name, value in now.items():
            sums[COUNTERS + name, ()] = [value - before.get(name, 0)]
        self._published = now
        return sums, before

    def _put_back(self, sums: Sums, watched: dict[str, int]) -> None:
        self._published = watched
        with self._lock:
            for (family, labels), numbers in sums.items():
                values = dict(labels)
                if family == CALLS:
                    call = values["provider"], values["model"], values["dialect"], values["status"]
                    self._calls[call] = self._calls.get(call, 0) + int(numbers[0])
                elif family == MODELS:
                    model = values["provider"], values["model"]
                    so_far = self._models.get(model, zeros())
                    self._models[model] = [a + b for a, b in zip(so_far, numbers, strict=True)]
                elif (name := family.removeprefix(COUNTERS)) not in self._watched:
                    key = name, labels
                    self._counts[key] = self._counts.get(key, 0) + numbers[0]

    def _work(self) -> float | None:
        self.publish()
        # A gauge must be seen to go down again, and what failed must be tried again.
        again = self._is_failing or any(read() for read in self._gauges.values())
        return PUBLISH_EVERY_S if again else None

    def _after_fork(self) -> None:
        self._start_empty()
        if self._store is not None:
            _KEPT_FOREVER.extend(self._store.abandon())


def render(folder: Path) -> bytes:
    """Return the text of a scrape: the sums of all processes that used `folder`.

    Blocks on the file: call it in a thread.

    Raises:
        BackendError: the file cannot be read.
    """
    _publish_all(folder)
    return _text(*_store_in(folder, MAX_LABEL_SETS).read())


def counters(folder: Path) -> dict[tuple[str, Labels], float]:
    """Return the counters of all processes that used `folder`, by name and labels.

    Blocks on the file: call it in a thread.

    Raises:
        BackendError: the file cannot be read.
    """
    _publish_all(folder)
    sums, _ = _store_in(folder, MAX_LABEL_SETS).read()
    return {
        (family.removeprefix(COUNTERS), labels): numbers[0]
        for (family, labels), numbers in sums.items()
        if family.startswith(COUNTERS)
    }


def _publish_all(folder: Path) -> None:
    for metrics in list(_ALIVE):
        if metrics.folder is not None and metrics.folder.absolute() == folder.absolute():
            metrics.publish()


def _store_in(folder: Path, max_label_sets: int) -> MetricsStore:
    from asgi_llmgate.backends.metrics_store import MetricsStore

    return MetricsStore(folder, max_label_sets=max_label_sets)


def _sums(
    calls: dict[tuple[str, str, str, str], int],
    models: dict[tuple[str, str], Numbers],
    counts: dict[tuple[str, Labels], float],
) -> Sums:
    sums: Sums = {}
    for (provider, model, dialect, outcome), number in calls.items():
        labels: Labels = (
            ("provider", provider),
            ("model", model),
            ("dialect", dialect),
            ("status", outcome),
        )
        sums[CALLS, labels] = [number]
    for (provider, model), numbers in models.items():
        sums[MODELS, (("provider", provider), ("model", model))] = numbers
    for (name, own_labels), value in counts.items():
        sums[COUNTERS + name, own_labels] = [value]
    return sums


def _text(sums: Sums, gauges: dict[str, float]) -> bytes:
    by_family: dict[str, dict[Labels, Numbers]] = {CALLS: {}, MODELS: {}}
    for (family, labels), numbers in sums.items():
        by_family.setdefault(family, {})[labels] = numbers
    families = list(call_families(by_family.pop(CALLS), by_family.pop(MODELS)))
    for family, counted in by_family.items():
        if not family.startswith(COUNTERS):
            continue  # A layout of another version.
        name = family.removeprefix(COUNTERS)
        samples = [("", labels, numbers[0]) for labels, numbers in counted.items()]
        families.append(Family(name, "counter", _help(name), samples))
    for name, value in gauges.items():
        families.append(Family(name, "gauge", _help(name), [("", (), value)]))
    return exposition(families)


def _help(name: str) -> str:
    return HELP.get(name, name.replace("_", " "))


_ALIVE: weakref.WeakSet[Metrics] = weakref.WeakSet()

# Connections that a forked child inherited: closing them would take the parent's locks away.
_KEPT_FOREVER: list[object] = []
