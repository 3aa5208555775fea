"""The budgets of the design, and whether a run held them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["BUDGETS", "Budget", "Kind", "Samples", "Verdict", "judge"]

Samples = Mapping[str, Mapping[str, Sequence[float]]]
"""Subject → metric → one value per round, in order of rounds."""


class Kind(enum.Enum):
    RATIO = "ratio"
    DIFFERENCE = "difference"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on a metric of `subject`: on itself, or over or beside that of `base`.

    Ratios and differences are taken within a round, where both sides saw the same machine, and
    the median over the rounds is judged.
    """

    text: str
    kind: Kind
    subject: str
    metric: str
    limit: float
    base: str | None = None
    at_least: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run did on `budget`. `value` is None if one side was not measured."""

    budget: Budget
    value: float | None
    values: tuple[float, ...]

    @property
    def held(self) -> bool | None:
        if self.value is None:
            return None
        if self.budget.at_least:
            return self.value >= self.budget.limit
        return self.value <= self.budget.limit


def judge(budget: Budget, samples: Samples) -> Verdict:
    own = samples.get(budget.subject, {}).get(budget.metric, ())
    if budget.kind is Kind.VALUE:
        values = tuple(own)
    else:
        assert budget.base is not None, "a ratio and a difference need a base"
        base = samples.get(budget.base, {}).get(budget.metric, ())
        pairs = list(zip(own, base, strict=False))
        if budget.kind is Kind.RATIO:
            values = tuple(ours / theirs for ours, theirs in pairs if theirs)
        else:
            values = tuple(ours - theirs for ours, theirs in pairs)
    return Verdict(budget, median(values) if values else None, values)


def _faster(text: str, subject: str, base: str, times: float) -> Budget:
    return Budget(text, Kind.RATIO, subject, "rps", times, base, at_least=True, unit="x")


BUDGETS: tuple[Budget, ...] = (
    _faster("slice, req/s over bare relay", "slice", "relay", 0.65),
    _faster("slice, req/s over LiteLLM", "slice", "litellm", 40),
    _faster("slice, req/s over Portkey", "slice", "portkey", 6),
    _faster("default app, req/s over bare relay", "gateway", "relay", 0.40),
    Budget(
        "p50 added at 1 connection, over bare relay",
        *(Kind.DIFFERENCE, "slice", "p50_ms", 0.25, "relay"),
        unit="ms",
    ),
    Budget(
        "CPU per relayed chunk, over bare relay",
        *(Kind.DIFFERENCE, "slice", "chunk_us", 20, "relay"),
        unit="µs",
    ),
    Budget("import of asgi_llmgate.middleware", Kind.VALUE, "package", "import_s", 0.3, unit="s"),
    Budget("start to first answer", Kind.VALUE, "gateway", "cold_start_s", 1.5, unit="s"),
    Budget("resident memory, idle", Kind.VALUE, "gateway", "rss_idle_mb", 120, unit="MB"),
    Budget(
        "caller left → upstream cancelled, p99", Kind.VALUE, "gateway", "cut_p99_ms", 50, unit="ms"
    ),
    Budget("logging, on the request path", Kind.VALUE, "micro", "logging_us", 30, unit="µs"),
)
