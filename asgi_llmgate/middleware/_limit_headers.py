"""How limits stand, in the headers of the caller's dialect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from asgi_llmgate._asgi.headers import safe_value
from asgi_llmgate.core.limits import Policy, Unit, shown_quota
from asgi_llmgate.core.meters import Standing
from asgi_llmgate.types import Dialect

__all__ = ["Stands", "limit_headers", "without_repeats"]

Stands = Sequence[tuple[Policy, Standing]]
Headers = list[tuple[bytes, bytes]]

_SECOND = 1_000_000_000


def limit_headers(stands: Stands, dialect: Dialect, *, ietf: bool = False) -> Headers:
    """Return the headers for the tightest limits; of Helicone's only if one of them is.

    Args:
        stands: Every policy of the call, and how it stands now.
        ietf: Also send `RateLimit` and `RateLimit-Policy` as
            draft-ietf-httpapi-ratelimit-headers-10 has them.
    """
    if not stands:
        return []
    policy, standing = _tightest(stands)
    headers = _named(b"llmgate-ratelimit-", policy, standing)
    theirs: list[tuple[Policy, Standing]] = []
    requests: list[tuple[Policy, Standing]] = []
    tokens: list[tuple[Policy, Standing]] = []
    for stand in stands:
        unit = stand[0].unit
        if unit is Unit.REQUEST:
            requests.append(stand)
        elif unit is Unit.TOKEN:
            tokens.append(stand)
        if stand[0].source == "helicone":
            theirs.append(stand)
    if theirs:
        headers += _named(b"helicone-ratelimit-", *_tightest(theirs))
    if requests:
        headers += _in_dialect(dialect, b"requests", *_tightest(requests))
    if tokens:
        headers += _in_dialect(dialect, b"tokens", *_tightest(tokens))
    if ietf:
        headers += _ietf(stands)
    return headers


def without_repeats(headers: Headers, present: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Leave out what the answer has already: the provider's own limits, for a key of the caller's
    own, are what he has to keep first."""
    names = {name.lower() for name, _ in present}
    return [header for header in headers if header[0] not in names]


def _tightest(stands: Stands) -> tuple[Policy, Standing]:
    if len(stands) == 1:
        return stands[0]
    return min(stands, key=lambda stand: (stand[1].allowed, stand[1].remaining / stand[0].quota))


def _named(prefix: bytes, policy: Policy, standing: Standing) -> Headers:
    """Return limit, remaining, reset in seconds until all is there again, and the policy."""
    limit, text = _fixed(prefix, policy)
    if policy.unit is Unit.CENTS:
        remaining = shown_quota(policy.unit, standing.remaining).encode()
    else:
        remaining = b"%d" % standing.remaining
    return [
        limit,
        (prefix + b"remaining", remaining),
        (prefix + b"reset", b"%d" % -(-standing.reset_ns // _SECOND)),
        text,
    ]


# By identity, for hashing a policy takes longer than writing the headers; so it is kept, too.
_written: dict[tuple[int, bytes], tuple[Policy, Headers]] = {}


def _fixed(prefix: bytes, policy: Policy) -> Headers:
    """Return the two headers that are the same with every call."""
    known = _written.get((id(policy), prefix))
    if known is not None and known[0] is policy:
        return known[1]
    if len(_written) >= 1000:
        _written.clear()
    headers = [
        (prefix + b"limit", shown_quota(policy.unit, policy.quota).encode()),
        (prefix + b"policy", safe_value(policy.describe())),
    ]
    _written[id(policy), prefix] = policy, headers
    return headers


def _in_dialect(dialect: Dialect, noun: bytes, policy: Policy, standing: Standing) -> Headers:
    limit, remaining = b"%d" % policy.quota, b"%d" % standing.remaining
    if dialect is Dialect.ANTHROPIC:
        at = datetime.fromtimestamp(time.time() + standing.reset_ns / _SECOND, UTC)
        prefix = b"anthropic-ratelimit-" + noun
        return [
            (prefix + b"-limit", limit),
            (prefix + b"-remaining", remaining),
            (prefix + b"-reset", f"{at:%Y-%m-%dT%H:%M:%SZ}".encode()),
        ]
    return [
        (b"x-ratelimit-limit-" + noun, limit),
        (b"x-ratelimit-remaining-" + noun, remaining),
        (b"x-ratelimit-reset-" + noun, duration(standing.reset_ns).encode()),
    ]


def duration(nanoseconds: int) -> str:
    """Write a duration as OpenAI does: `120ms`, `1s`, `6m0s`, `1h0m5s`."""
    milliseconds = -(-nanoseconds // 1_000_000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds = -(-milliseconds // 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _ietf(stands: Stands) -> Headers:
    policies, states = [], []
    for place, (policy, standing) in enumerate(stands, 1):
        if policy.unit is Unit.CONCURRENT:
            quota = f'"{place}";q={policy.quota};qu="concurrent-requests"'
        else:
            kind = "" if policy.unit is Unit.REQUEST else f';qu="{policy.unit}"'
            # Items of this field are integers: whole cents, rounded down.
            quota = f'"{place}";q={_whole(policy, policy.quota)};w={policy.window_s}{kind}'
        policies.append(quota)
        wait_s = -(-standing.reset_ns // _SECOND)
        states.append(f'"{place}";r={_whole(policy, standing.remaining)};t={wait_s}')
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    ]


def _whole(policy: Policy, amount: int) -> int:
    return int(shown_quota(policy.unit, amount).partition(".")[0])
