"""Questions to the call log, and their answers: filters, groupings, times. No storage here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

__all__ = ["GROUPINGS", "CallFilter", "StatsRow", "parse_grouping", "parse_status", "parse_when"]

GROUPINGS = (
    *("user", "model", "provider", "session", "status", "day"),
    *("key", "tenant", "route", "team"),
)
"""`team` is the property of that name, as with budgets."""


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_STATUS = re.compile(r"[1-5][0-9]{2}|([1-5])xx", re.ASCII)
_AGE = re.compile(r"([0-9]{1,9})([smhdw])")


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls are meant. None and empty mean any; all that is given must hold.

    Args:
        since_us: Calls that started at or after this time, microseconds since the epoch.
        until_us: Calls that started before it.
        user: User id, exactly.
        model: The model that answered or the one that was asked for.
        provider: Provider id.
        session: Session id, exactly.
        status: `429`, a class (`4xx`), or `none` for calls that got no answer.
        tenant: Whose calls.
        properties: Names (lower case) and values, exactly.
        errors_only: Only calls without an answer, with a status of 400 and more, or broken off.

    Raises:
        ValueError: the status is none, or a property cannot have this name.
    """

    since_us: int | None = None
    until_us: int | None = None
    user: str | None = None
    model: str | None = None
    provider: str | None = None
    session: str | None = None
    status: str | None = None
    tenant: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    errors_only: bool = False

    def __post_init__(self) -> None:
        if self.status is not None:
            parse_status(self.status)
        for name in self.properties:
            _check_property_name(name)


@dataclass(frozen=True, slots=True)
class StatsRow:
    """Figures of the calls of one group. Sums are of integers; percentiles are exact.

    Args:
        key: The group's value; None gathers the calls that have none.
        calls: How many, errors included.
        errors: How many of them count as errors (see `CallFilter.errors_only`).
        input_tokens: Of the calls whose usage is known.
        output_tokens: Likewise.
        cost_nanousd: Of the calls whose cost is known; 0 where none is.
        unpriced: Calls with tokens but without a cost: their cost is missing from the sum.
        duration_ms: p50, p95 and p99 over all calls, interpolated between neighbours.
        first_byte_ms: The same over the calls that got a first byte; None if none did.
    """

    key: str | None
    calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    unpriced: int
    duration_ms: tuple[float, float, float]
    first_byte_ms: tuple[float, float, float] | None


def parse_grouping(text: str) -> tuple[str, str | None]:
    """Return a grouping's name and, for `property:NAME`, the property's name in lower case.

    Raises:
        ValueError: there is no such grouping.
    """
    name, colon, property_name = text.partition(":")
    if name == "property" and property_name:
        _check_property_name(property_name)
        return name, property_name.lower()
    if text == "team":
        return "property", text
    if not colon and name in GROUPINGS:
        return name, None
    choices = ", ".join((*GROUPINGS, "property:NAME"))
    raise ValueError(f"cannot group by {text!r}; choose one of {choices}")


def parse_status(text: str) -> tuple[int, int] | None:
    """Return the lowest and highest status that `text` means; None if it is `none`.

    Raises:
        ValueError: it is no status.
    """
    if text == "none":
        return None
    if match := _STATUS.fullmatch(text):
        low, width = (int(text), 1) if match[1] is None else (100 * int(match[1]), 100)
        return low, low + width - 1
    raise ValueError(f"{text!r} is no status; write 429, 4xx or none")


def parse_when(text: str, *, now_us: int) -> int:
    """Return the time that `text` means, in microseconds since the epoch.

    `90s`, `30m`, `24h`, `7d` and `2w` count back from `now_us`; otherwise a date or a time of
    ISO 8601 (`2026-01-31`, `2026-01-31T12:00:00Z`), UTC where it names no zone.

    Raises:
        ValueError: it is neither.
    """
    if match := _AGE.fullmatch(text):
        return now_us - int(match[1]) * _UNITS_S[match[2]] * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time; write 24h, 7d, 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def _check_property_name(name: str) -> None:
    # Names come from HTTP header names, which hold none of these.
    if not name or '"' in name or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} cannot be the name of a property")
