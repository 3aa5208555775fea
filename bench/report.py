"""What a run found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from bench.budgets import BUDGETS, Samples, judge
from bench.subjects import SUBJECTS

__all__ = ["budget_table", "micro_table", "subject_table"]

# Metric, heading, format. All are medians over the rounds.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("rps", "req/s, 32 conn.", ",.0f"),
    ("cpu_ms", "CPU ms/call", ".3f"),
    ("core_share", "core used", ".0%"),
    ("p50_ms", "p50 ms, 1 conn.", ".3f"),
    ("p99_ms", "p99 ms, 1 conn.", ".2f"),
    ("added_p50_ms", "added p50", "+.3f"),
    ("added_p99_ms", "added p99", "+.2f"),
    ("chunk_us", "CPU µs/chunk", ".1f"),
    ("cut_p99_ms", "cancel p99 ms", ".1f"),
    ("rss_idle_mb", "RSS idle MB", ".0f"),
    ("rss_loaded_mb", "RSS loaded MB", ".0f"),
    ("cold_start_s", "cold start s", ".2f"),
)


def subject_table(samples: Samples) -> str:
    """Return a row per subject; latency is also shown as added to the bare relay's."""
    rows: list[list[str]] = []
    for name, subject in SUBJECTS.items():
        own = dict(samples.get(name, {}))
        if not own:
            continue
        for metric in ("p50_ms", "p99_ms"):
            base = samples.get("relay", {}).get(metric, ())
            if name not in ("direct", "hello", "relay"):
                pairs = zip(own.get(metric, ()), base, strict=False)
                own[f"added_{metric}"] = [ours - theirs for ours, theirs in pairs]
        cells = [_cell(own.get(metric, ()), style) for metric, _, style in COLUMNS]
        rows.append([subject.title, *cells])
    return _table(["", *(heading for _, heading, _ in COLUMNS)], rows)


def budget_table(samples: Samples) -> str:
    """Return a row per budget.

    Rates are judged as they were seen. The same ratio of CPU times stands beside it: it is what
    a core of one's own would have shown where other work took part of this one.
    """
    rows: list[list[str]] = []
    for budget in BUDGETS:
        verdict = judge(budget, samples)
        sign = "≥" if budget.at_least else "≤"
        limit = f"{sign} {budget.limit:g} {budget.unit}"
        if verdict.value is None:
            rows.append([budget.text, limit, "", "", "", "not measured"])
            continue
        spread = f"{min(verdict.values):.3g} … {max(verdict.values):.3g}"
        by_cpu = ""
        if budget.metric == "rps" and budget.base is not None:
            inverse = replace(budget, subject=budget.base, base=budget.subject, metric="cpu_ms")
            by_cpu = f"{judge(inverse, samples).value:.3g} {budget.unit}"
        said = "held" if verdict.held else "**missed**"
        measured = f"{verdict.value:.3g} {budget.unit}"
        rows.append([budget.text, limit, measured, spread, by_cpu, said])
    return _table(["budget", "limit", "measured", "over the rounds", "by CPU time", ""], rows)


def micro_table(costs: Mapping[str, float]) -> str:
    return _table(["part", "own µs"], [[name, f"{cost:.1f}"] for name, cost in costs.items()])


def _cell(values: Sequence[float], style: str) -> str:
    return format(median(values), style) if values else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
