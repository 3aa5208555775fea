"""What callers may spend: policies, and the words they are written in.

    [quota];w=[seconds];u=[request|token|cents|concurrent];s=[user|session|…|property]

Several are separated by commas. `u` defaults to `request`, `s` to everybody of the tenant. A
request can only add such policies, never loosen one.

Under `LLMGate-RateLimit-Policy` a mistake is an error that names the part. Helicone's own gateway
goes on without a limit it cannot read; under its name so do we, but say so in the warnings.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

__all__ = [
    "CENT",
    "MAX_POLICIES",
    "MAX_WINDOW_S",
    "SEGMENTS",
    "BadPolicyError",
    "Identity",
    "Policy",
    "Unit",
    "key_policies",
    "parse_helicone_policy",
    "parse_policies",
]

CENT = 10_000_000
"""Nano-dollars."""

MAX_POLICIES = 16
MAX_WINDOW_S = 31_536_000
# Above this a 64-bit counter could overflow within a year: a billion dollars.
MAX_QUOTA = 10**18
# What Helicone takes for a window.
HELICONE_MIN_WINDOW_S = 60

SEGMENTS = ("all", "tenant", "key", "user", "session", "model", "route")
"""Whose bucket, beside properties. `all` is one bucket for everybody, for settings only."""

_HELICONE = re.compile(
    r"(\d{1,12}(?:\.\d{1,9})?);w=(\d{1,12})(?:;u=(request|token|cents))?(?:;s=([\w-]{1,256}))?",
    re.ASCII | re.IGNORECASE,
)
_QUOTA = re.compile(r"\d{1,18}(?:\.\d{1,7})?", re.ASCII)
_PROPERTY = re.compile(r"[a-z0-9_.-]{1,256}")


class Unit(enum.StrEnum):
    REQUEST = "request"
    TOKEN = "token"  # noqa: S105 -- of text, no secret
    CENTS = "cents"
    CONCURRENT = "concurrent"
    """Calls that run at the same time; such a policy has no window."""


class BadPolicyError(ValueError):
    """A policy that does not parse. The message names the part and what it must be."""


@dataclass(slots=True)  # Not frozen: one is built per call, and that takes three times as long.
class Identity:
    """Whose call it is and what it asks for. None where nobody said.

    Args:
        tenant: Empty where nobody authenticates.
        key: The id of the principal.
        properties: By name in lower case.
    """

    tenant: str = ""
    key: str | None = None
    user: str | None = None
    session: str | None = None
    model: str | None = None
    route: str = ""
    properties: dict[str, str] | None = None

    def of(self, segment: str) -> str | None:
        """Return the value of `segment`; None if the call has none."""
        match segment:
            case "all":
                return ""
            case "tenant":
                return self.tenant
            case "key":
                return self.key
            case "user":
                return self.user
            case "session":
                return self.session
            case "model":
                return self.model
            case "route":
                return self.route
        return (self.properties or {}).get(segment.removeprefix("property:"))


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `quota` in any `window_s` seconds, for each value of `segment`.

    Args:
        quota: Requests, tokens, nano-dollars (`Unit.CENTS`), or calls at once. Positive.
        window_s: 0 for `Unit.CONCURRENT`.
        segment: One of `SEGMENTS`, or `property:<name>`.
        text: As it is shown in headers.
        source: Part of the bucket's name, so that a caller's own policy has its own bucket:
            `settings`, `route:<path>`, `key:<kid>`, `header` or `helicone`.
        charges_after: Nothing is reserved: a call is let through while anything is left, and
            what it cost is taken off afterwards (Helicone's `cents`).
        models, routes, tenants, keys: Only calls that match one of each; a `*` at the end matches
            any rest. Empty matches all.
    """

    quota: int
    window_s: int
    unit: Unit = Unit.REQUEST
    segment: str = "tenant"
    text: str = ""
    source: str = "settings"
    charges_after: bool = False
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def applies(self, identity: Identity) -> bool:
        if not (self.models or self.routes or self.tenants or self.keys):
            return True
        return (
            _matches(self.models, identity.model)
            and _matches(self.routes, identity.route)
            and _matches(self.tenants, identity.tenant)
            and _matches(self.keys, identity.key)
        )

    def bucket(self, tenant: str, value: str) -> str:
        """Return the name of the bucket of `value`. Lengths keep two names from meaning one."""
        of_tenant = "" if self.segment == "all" else f"{len(tenant)}:{tenant}"
        limited = ""
        if self.models or self.routes or self.tenants or self.keys:
            # Two policies that differ in what they apply to count different calls.
            limited = repr((self.models, self.routes, self.tenants, self.keys))
        # Callers who send one quota now and another then mean two limits; an operator who changes
        # his means the same one.
        quota = str(self.quota) if self.source == "header" else ""
        return (
            f"{self.source}|{self.unit}|{quota}|{self.window_s}|{limited}|{of_tenant}|"
            f"{self.segment}={value}"
        )

    def describe(self) -> str:
        """Return the policy in the words it is written in."""
        if self.text:
            return self.text
        quota = shown_quota(self.unit, self.quota)
        window = "" if self.unit is Unit.CONCURRENT else f";w={self.window_s}"
        return f"{quota}{window};u={self.unit};s={self.segment.removeprefix('property:')}"


def shown_quota(unit: Unit, amount: int) -> str:
    """Write an amount as headers have it: cents with their fraction, all else as it is."""
    if unit is not Unit.CENTS:
        return str(amount)
    text = f"{Decimal(amount) / CENT:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_policies(text: str, *, source: str = "header") -> tuple[Policy, ...]:
    """Read one or several policies, strictly.

    Raises:
        BadPolicyError: names the part that is wrong.
    """
    written = text.split(",")
    if len(written) > MAX_POLICIES:
        raise BadPolicyError(f"at most {MAX_POLICIES} policies, separated by commas")
    return tuple(_parse_one(one.strip(), source) for one in written)


@functools.lru_cache(maxsize=4096)
def key_policies(rates: tuple[tuple[str, str], ...]) -> tuple[Policy, ...]:
    """Return the policies of a key and those above it: `Principal.rates`.

    Each is counted for the key that has it, so what one below it uses is its own use, too.
    """
    return tuple(
        policy for kid, text in rates for policy in parse_policies(text, source=f"key:{kid}")
    )


def _parse_one(text: str, source: str) -> Policy:
    first, *rest = (part.strip() for part in text.split(";"))
    parts: dict[str, str] = {}
    for part in rest:
        name, equals, value = part.partition("=")
        name = name.lower()
        if not equals or name not in ("w", "u", "s"):
            raise BadPolicyError("parts `w=`, `u=` and `s=` after the quota, separated by `;`")
        if name in parts:
            raise BadPolicyError(f"`{name}=` only once")
        parts[name] = value.strip()
    unit = _unit(parts.get("u", "request"))
    return Policy(
        quota=_quota(first, unit),
        window_s=_window(parts.get("w"), unit),
        unit=unit,
        segment=_segment(parts["s"], source) if "s" in parts else "tenant",
        text=text,
        source=source,
    )


def _unit(text: str) -> Unit:
    try:
        return Unit(text.lower())
    except ValueError:
        raise BadPolicyError("`u=` request, token, cents or concurrent") from None


def _quota(text: str, unit: Unit) -> int:
    if _QUOTA.fullmatch(text):
        value = Decimal(text)
        if unit is Unit.CENTS:
            value *= CENT
        if value == int(value) and 0 < value <= MAX_QUOTA:
            return int(value)
    wanted = "a number of cents" if unit is Unit.CENTS else "a whole number"
    raise BadPolicyError(f"a quota of more than 0 first: {wanted}")


def _window(text: str | None, unit: Unit) -> int:
    if unit is Unit.CONCURRENT:
        if text is not None:
            raise BadPolicyError("no `w=` with `u=concurrent`: it counts calls at one time")
        return 0
    if text is None:
        raise BadPolicyError("`w=`, the window in seconds")
    is_number = text.isascii() and text.isdigit() and len(text) <= 12
    if not is_number or not 1 <= int(text) <= MAX_WINDOW_S:
        raise BadPolicyError(f"`w=` a whole number of seconds from 1 to {MAX_WINDOW_S}")
    return int(text)


def _segment(text: str, source: str) -> str:
    name = text.lower()
    # In a header `all` would let one tenant fill the bucket of the others.
    if name in SEGMENTS and (name != "all" or source == "settings"):
        return name
    name = name.removeprefix("property:")
    if text.lower() == "all" or not _PROPERTY.fullmatch(name):
        raise BadPolicyError("`s=` user, session, key, tenant, model, route or a property's name")
    return f"property:{name}"


def parse_helicone_policy(text: str) -> Policy | None:
    """Read a policy as Helicone does; None if Helicone would go on without.

    `u=token` is ours: what counts tokens here must not count nothing under the other name.
    """
    match = _HELICONE.fullmatch(text.strip())
    if match is None:
        return None
    window_s = int(match[2])
    unit = Unit((match[3] or "request").lower())
    quota = Decimal(match[1]) * (CENT if unit is Unit.CENTS else 1)
    if not HELICONE_MIN_WINDOW_S <= window_s <= MAX_WINDOW_S or not 1 <= quota <= MAX_QUOTA:
        return None
    segment = (match[4] or "").lower()
    if segment and segment != "user":
        segment = f"property:{segment}"
    return Policy(
        quota=int(quota),
        window_s=window_s,
        unit=unit,
        segment=segment or "tenant",
        text=text.strip(),
        source="helicone",
        charges_after=unit is Unit.CENTS,
    )


def _matches(patterns: Sequence[str], value: str | None) -> bool:
    if not patterns:
        return True
    if value is None:
        return False
    return any(
        value == pattern or (pattern.endswith("*") and value.startswith(pattern[:-1]))
        for pattern in patterns
    )
