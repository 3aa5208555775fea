"""What a run found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from bench.budgets import BUDGETS, Samples, judge
from bench.streams import CUT_WAIT_S
from bench.subjects import SUBJECTS

__all__ = ["budget_table", "micro_table", "replace_figures", "report", "subject_table"]

FIGURES_BEGIN = "<!-- figures: written by `python -m bench --docs` -->"
FIGURES_END = "<!-- end of figures -->"

VERSIONS = ("python", "uvicorn", "httptools", "uvloop", "pyreqwest", "node")

# Metric, heading, format. All are medians over the rounds.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("rps", "req/s, 32 conn.", ",.0f"),
    ("cpu_ms", "CPU ms/call", ".3f"),
    ("loop_ms", "on the loop", ".3f"),
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


def report(result: Mapping[str, Any]) -> str:
    """Return all tables of a result, as it stands in its JSON file."""
    machine, effort = result["machine"], result["effort"]
    versions = ", ".join(f"{name} {machine[name]}" for name in VERSIONS)
    parts = [
        (
            f"{machine['at'][:10]}, commit {machine['commit']}: {machine['cores']} cores "
            f"({machine['cpu']}), Linux {machine['kernel']}, load average "
            f"{machine['load_average_1min']:.1f} before the run; {versions}. Medians of "
            f"{effort['rounds']} rounds."
        ),
        subject_table(result["samples"]),
        budget_table(result["samples"]),
    ]
    if result["micro_us"]:
        parts.append(micro_table(result["micro_us"]))
    return "\n\n".join(parts)


def replace_figures(page: str, figures: str) -> str:
    """Return `page` with `figures` between its two marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(FIGURES_BEGIN)
    _, end, after = rest.partition(FIGURES_END)
    if not begin or not end:
        raise ValueError(f"the page needs the marks {FIGURES_BEGIN} and {FIGURES_END}")
    return f"{before}{begin}\n\n{figures}\n\n{end}{after}"


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
        cells = [_cell(metric, own.get(metric, ()), style) for metric, _, style in COLUMNS]
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


def _cell(metric: str, values: Sequence[float], style: str) -> str:
    if not values:
        return "-"
    if metric == "cut_p99_ms" and median(values) >= CUT_WAIT_S * 1e3:
        return "not at all"
    return format(median(values), style)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
