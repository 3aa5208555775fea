"""Budgets: how much money may be spent within a calendar hour, day or month."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from asgi_llmgate.core.limits import SEGMENTS, BadPolicyError, Identity
from asgi_llmgate.core.meters import Kind, Meter

__all__ = [
    "Budget",
    "Period",
    "budget_from",
    "budget_meter",
    "budget_prefix",
    "period_of",
]

# In the name of a bucket `/` and `|` separate the parts.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
NANO = 10**9
MAX_NANOUSD = 10**18


class Period(enum.StrEnum):
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit_nanousd` per period, for each value of `per`, or for `subject` alone.

    Args:
        per: `all`, `tenant`, `key`, `user`, `session`, `model`, `route`, `team` (the property of
            that name) or `property:<name>`.
        subject: Whose it is alone; None gives one to everybody.
        tenant: Whose calls alone it is about. Any tenant may have a user, session or team of the
            name of `subject`.
        soft_nanousd: From here on the webhook is told, once per period; None tells nobody.
        hard: Whether calls beyond the limit are refused.
        webhook: Where to post; None is the one of the settings.
    """

    name: str
    per: str
    limit_nanousd: int
    period: Period = Period.MONTH
    subject: str | None = None
    soft_nanousd: int | None = None
    hard: bool = True
    webhook: str | None = None
    tenant: str | None = None

    @property
    def segment(self) -> str:
        return "property:team" if self.per == "team" else self.per

    def subject_of(self, identity: Identity) -> str | None:
        """Return whose budget the call is paid from; None if this is not about the call.

        Keys, users, sessions and models of two tenants that have one name are two subjects.
        """
        if self.tenant is not None and identity.tenant != self.tenant:
            return None
        value = identity.of(self.segment)
        if value is None or (self.subject is not None and value != self.subject):
            return None
        if self.segment in ("all", "tenant") or self.subject is not None:
            return value
        return f"{identity.tenant}/{value}" if identity.tenant not in ("", value) else value


def budget_from(values: Mapping[str, Any]) -> Budget:
    """Read a budget as settings, the command and the API write it.

    Raises:
        BadPolicyError: names the part that is wrong.
    """
    name = values.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadPolicyError("`name`: 1 to 64 of A-Z a-z 0-9 _ . -")
    per = str(values.get("per") or "all").lower()
    if per.startswith("tag:"):  # As the command for keys calls them.
        per = f"property:{per.removeprefix('tag:')}"
    if per not in (*SEGMENTS, "team") and not (per.startswith("property:") and per[9:]):
        raise BadPolicyError(f"`per`: one of {', '.join((*SEGMENTS, 'team'))} or property:NAME")
    try:
        period = Period(str(values.get("period") or "month"))
    except ValueError:
        raise BadPolicyError("`period`: hour, day or month") from None
    limit = values.get("limit_nanousd")
    if type(limit) is not int or not 0 < limit <= MAX_NANOUSD:
        raise BadPolicyError("`limit`: more than 0 US dollars")
    soft = values.get("soft_nanousd")
    if soft is not None and (type(soft) is not int or not 0 < soft <= limit):
        raise BadPolicyError("`soft`: more than 0 and at most the limit")
    for name_of_whom in ("subject", "tenant"):
        whose = values.get(name_of_whom)
        if whose is not None and (not isinstance(whose, str) or not 0 < len(whose) <= 256):
            raise BadPolicyError(f"`{name_of_whom}`: 1 to 256 characters")
    webhook = values.get("webhook")
    if webhook is not None and (not isinstance(webhook, str) or len(webhook) > 2048):
        raise BadPolicyError("`webhook`: a URL")
    hard = values.get("hard", True)
    if type(hard) is not bool:
        raise BadPolicyError("`hard`: true or false")
    return Budget(
        name, per, limit, period, values.get("subject"), soft, hard, webhook, values.get("tenant")
    )


def period_of(period: Period, now: datetime) -> tuple[datetime, datetime]:
    """Return begin and end of the period around `now`, an aware time in the zone that counts.

    A day that has 23 or 25 hours is one day; an hour that comes twice is two.
    """
    zone = now.tzinfo
    if period is Period.HOUR:
        # By elapsed time: zones differ by minutes, and an hour must not repeat itself.
        start = now.replace(minute=0, second=0, microsecond=0)
        begin = start.astimezone(UTC)
        return begin.astimezone(zone), (begin + timedelta(hours=1)).astimezone(zone)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period is Period.DAY:
        return midnight, midnight + timedelta(days=1)
    first = midnight.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def budget_prefix(budget: Budget) -> str:
    return f"budget|{budget.name}|"


def budget_meter(budget: Budget, subject: str, wall_ns: int, zone: tzinfo) -> Meter:
    """Return the meter of `subject` in the period of now."""
    begin, end = period_of(budget.period, datetime.fromtimestamp(wall_ns // NANO, zone))
    stamp = begin.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")
    return Meter(
        f"{budget_prefix(budget)}{stamp}|{subject}",
        Kind.BUDGET,
        budget.limit_nanousd if budget.hard else MAX_NANOUSD,
        ends_ns=int(end.timestamp()) * NANO,
    )
