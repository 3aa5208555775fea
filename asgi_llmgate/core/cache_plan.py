"""What the cache does for one request, and whether a stored answer may be given.

    plan(directives, policy) ─▶ Plan ─┬─ bypass, with the reason
                                      └─ reads? saves? for how long? which slots?

    judge(entry, plan, now, generations) ─▶ FRESH       give it
                                            SOFT        give it, say STALE, refresh behind it
                                            EXPIRED     only if the provider fails, and only
                                                        where the caller allows it
                                            DEAD        never

An entry is DEAD for good once a generation it depends on has moved; nothing revives it. A hit
never prolongs its life: times are absolute, set when it was stored.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from asgi_llmgate.core.cache_entry import Entry
from asgi_llmgate.core.directives import Directives

__all__ = [
    "ALL",
    "BUMPS",
    "CachePolicy",
    "Plan",
    "Verdict",
    "dependencies",
    "generation_name",
    "jittered",
    "judge",
    "lacks_tag",
    "plan",
    "read_cache_control",
]

DAY_S = 86_400
DEFAULT_TTL_S = 7 * DAY_S
"""Helicone's."""
MAX_TTL_S = 365 * DAY_S
"""Helicone's."""

# Entries of one minute expire over six seconds, so that a burst of them is no burst of misses.
JITTER = 0.1

MAX_NAME_CHARS = 200

BUMPS = "bumps"
"""Generation that moves with every other one."""

ALL = "all"
"""Generation that every entry depends on."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What an operator allows and wants. Times are seconds.

    Args:
        is_on: The cache is used unless a request says otherwise; else only if it asks.
        ttl_s: Life of an entry for which a request names none.
        soft_ttl_s: From this age on an entry is given as STALE while it is refreshed; None never.
        keep_stale_s: How long an expired entry is kept for callers who say `stale-if-error`.
        serves_fallbacks: Answers of a fallback model are stored and given, too.
        tags: Every entry depends on these.
    """

    is_on: bool = True
    ttl_s: float = DEFAULT_TTL_S
    soft_ttl_s: float | None = None
    keep_stale_s: float = DAY_S
    serves_fallbacks: bool = False
    tags: tuple[str, ...] = ()


class Plan(NamedTuple):
    """What to do for one request.

    Args:
        bypass: Why the cache has no part in this call; None if it has.
        reads: A stored answer may be given.
        saves: The answer may be stored.
        ttl_s: Life of what is stored, before jitter.
        max_age_s: Older answers are not given, beside the life they have.
        stale_if_error_s: How long after its end an answer may still stand in for an error.
        only_if_cached: Without a stored answer this is an error.
        slots: Answers per question, 1 to 20.
    """

    bypass: str | None
    reads: bool = False
    saves: bool = False
    ttl_s: float = 0.0
    max_age_s: float | None = None
    stale_if_error_s: float = 0.0
    only_if_cached: bool = False
    slots: int = 1


class Verdict(enum.Enum):
    FRESH = "fresh"
    SOFT = "soft"
    EXPIRED = "expired"
    DEAD = "dead"


def plan(directives: Directives, policy: CachePolicy) -> Plan:
    """Return what to do for a request whose route can be cached."""
    control = read_cache_control(directives.cache_control)
    only_if_cached = "only-if-cached" in control
    wants, reads, saves = directives.cache_enabled, directives.cache_read, directives.cache_save
    if wants is False:
        return Plan("disabled", only_if_cached=only_if_cached)
    if wants is None and not policy.is_on:
        # Helicone's one-way switches ask for one half.
        reads, saves = reads is True, saves is True
    else:
        reads, saves = reads is not False, saves is not False
    if not (reads or saves):
        return Plan("off", only_if_cached=only_if_cached)
    if "no-store" in control:
        return Plan("no-store", only_if_cached=only_if_cached)
    reads = reads and "no-cache" not in control
    max_age_s = control.get("max-age")
    asked_s = control.get("s-maxage")
    asked_s = max_age_s if asked_s is None else asked_s
    ttl_s = float(policy.ttl_s if asked_s is None else min(asked_s, MAX_TTL_S))
    if ttl_s <= 0:
        saves = False
    if max_age_s == 0:
        reads = False
    if not (reads or saves or only_if_cached):
        return Plan("no-store")
    return Plan(
        None,
        reads=reads,
        saves=saves,
        ttl_s=ttl_s,
        max_age_s=None if max_age_s is None else float(max_age_s),
        stale_if_error_s=float(control.get("stale-if-error") or 0),
        only_if_cached=only_if_cached,
        slots=directives.cache_bucket_max_size or 1,
    )


def jittered(ttl_s: float, roll: float) -> float:
    """Return a life that is up to 10 % shorter; `roll` is 0 to 1, chosen at random."""
    return ttl_s * (1 - JITTER * roll)


def read_cache_control(value: str | None) -> dict[str, int | None]:
    """Return the directives of a `Cache-Control` value in lower case, with their seconds.

    Where seconds are not a whole number, and for directives without, None. Of repeated
    directives the first counts. Source: RFC 9111, §5.2.
    """
    found: dict[str, int | None] = {}
    if not value:
        return found
    for part in value.split(","):
        name, _, argument = part.partition("=")
        name = name.strip().lower()
        argument = argument.strip().strip('"')
        # Longer than any time that matters, and `int` is quadratic.
        is_number = argument.isascii() and argument.isdigit() and len(argument) <= 12
        if name:
            found.setdefault(name, int(argument) if is_number else None)
    return found


def generation_name(kind: str, value: str) -> str:
    """Return the name of the generation of a tag, namespace, model, prompt or user.

    Callers choose values, so a long or odd one is replaced by its digest.
    """
    if len(value) <= MAX_NAME_CHARS and value.isascii() and value.isprintable():
        return f"{kind}:{value}"
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}#{digest}"


@lru_cache(maxsize=512)  # the same for most calls of a tenant
def dependencies(
    *,
    partition: str,
    model: str | None,
    user: str | None,
    prompt: str | None,
    tags: tuple[str, ...],
) -> tuple[str, ...]:
    """Return the names of all generations that an entry depends on, without repeats."""
    names = [ALL, generation_name("namespace", partition)]
    if model is not None:
        names.append(generation_name("model", model))
    if user is not None:
        names.append(generation_name("user", user))
    if prompt is not None:
        names.append(generation_name("prompt", prompt))
    names += [generation_name("tag", tag) for tag in tags]
    return tuple(dict.fromkeys(names))


def lacks_tag(names: Collection[str], generations: Mapping[str, int]) -> bool:
    """Tell whether a request names a tag that an answer with these generations does not depend on.

    Nobody knows whether such an answer is from before the last change of what the tag stands for.
    """
    return any(name not in generations and name.startswith(("tag:", "tag#")) for name in names)


def judge(
    entry: Entry,
    plan: Plan,
    policy: CachePolicy,
    *,
    now_us: int,
    generations: Mapping[str, int],
    names: Collection[str] = (),
) -> Verdict:
    """Say what may be done with `entry` now.

    Args:
        generations: Read after the request began. A name that is missing counts as moved.
        names: What the request depends on.
    """
    if lacks_tag(names, entry.generations):
        return Verdict.DEAD
    for name, then in entry.generations.items():
        if generations.get(name) != then:
            return Verdict.DEAD
    if entry.is_fallback and not policy.serves_fallbacks:
        return Verdict.DEAD
    age_s = (now_us - entry.created_us) / 1e6
    # A clock that was set back makes ages negative; what is from the future proves nothing.
    if age_s < -1:
        return Verdict.DEAD
    left_s = (entry.expires_us - now_us) / 1e6
    if plan.max_age_s is not None:
        left_s = min(left_s, plan.max_age_s - age_s)
    if left_s <= 0:
        return Verdict.EXPIRED if -left_s < plan.stale_if_error_s else Verdict.DEAD
    if policy.soft_ttl_s is not None and age_s >= policy.soft_ttl_s:
        return Verdict.SOFT
    return Verdict.FRESH
