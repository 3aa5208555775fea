"""Decide whether and when the same provider is asked again.

What the provider asks for is obeyed first: `x-should-retry`, then `retry-after-ms`, `Retry-After`
(seconds or a date), Gemini's RetryInfo, and the resets of limits that are used up. Otherwise pauses
grow exponentially, with full jitter, so that callers who failed together do not return together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

__all__ = [
    "NO_RETRY",
    "RETRYABLE",
    "RetryBudget",
    "RetryPolicy",
    "asked_wait",
    "duration_s",
    "moment_s",
]

# Statuses that a moment later may be another. Source: the official SDKs of OpenAI and Anthropic.
RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")

# Above this a number is a moment, not a duration: 1e9 is the year 2001.
_EPOCH_S = 1e9
_EPOCH_MS = 1e12


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often one target is asked, and how long the pauses are.

    Args:
        attempts: In all, the first included; 0 and 1 retry nothing.
        factor: By which the pause grows.
        min_s: The longest first pause; full jitter makes it anything from 0 to this.
        max_s: The longest of all. A provider that asks for more is not asked again.
    """

    attempts: int = 1
    factor: float = 2.0
    min_s: float = 1.0
    max_s: float = 10.0

    def pause_s(self, tried: int, asked_s: float | None, roll: float) -> float | None:
        """Return the pause after `tried` attempts, or None if there shall be no further one.

        Args:
            asked_s: What the provider asked for; None if nothing.
            roll: A random number in [0, 1).
        """
        if tried >= self.attempts or (asked_s is not None and asked_s > self.max_s):
            return None
        try:
            ceiling = min(self.max_s, self.min_s * self.factor ** (tried - 1))
        except OverflowError:
            ceiling = self.max_s
        jittered = ceiling * roll
        return jittered if asked_s is None else max(asked_s, jittered)


NO_RETRY = RetryPolicy()


class RetryBudget:
    """Retries of one upstream: at most a share of its calls, and some per second.

    In any time of `t` seconds with `n` calls there are at most `share * n + per_s * (t + 1)`
    retries, however many callers fail. The clock is an argument: seconds, monotonic.
    """

    __slots__ = ("_at_s", "_saved", "calls", "per_s", "share")

    def __init__(self, share: float = 0.2, per_s: float = 10.0) -> None:
        self.share = share
        self.per_s = per_s
        self.calls = 0
        """Raised by whoever makes a first call; counted in at the next `take`."""
        self._saved = per_s
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Tell whether one more retry may be made, and count it if so."""
        elapsed = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s if self._at_s is None else max(now_s, self._at_s)
        earned = self.calls * self.share
        self.calls = 0
        # What the calls since then earned is theirs to spend; what is left of it is not hoarded.
        self._saved = min(self.per_s, self._saved + elapsed * self.per_s) + earned
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


def asked_wait(headers: Mapping[bytes, bytes], *, status: int | None, now_s: float) -> float | None:
    """Return how many seconds an answer asks to wait; None if it does not say.

    Args:
        headers: Names in lower case.
        now_s: Seconds since the epoch. A `Date` in `headers` counts instead, for the moments in
            them are of the same clock.
    """
    milliseconds = _number(headers.get(b"retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    theirs = _date_s(headers.get(b"date"))
    now_s = now_s if theirs is None else theirs
    plain = headers.get(b"retry-after")
    if plain is not None:
        seconds = _number(plain)
        if seconds is not None:
            return seconds
        until = _date_s(plain)
        if until is not None:
            return max(0.0, until - now_s)
    return _used_up(headers, now_s) if status == 429 else None


def duration_s(text: str) -> float | None:
    """Read `6m0s`, `20ms`, `1h2m3.5s` or plain seconds; None if it is none of these."""
    text = text.strip()
    try:
        return max(0.0, _finite(float(text)))
    except ValueError:
        pass
    match = _DURATION.fullmatch(text) if 0 < len(text) <= 32 else None
    if match is None:
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def moment_s(text: str, now_s: float) -> float | None:
    """Return in how many seconds a limit resets: a duration, a moment of RFC 3339, or an epoch."""
    seconds = duration_s(text)
    if seconds is not None:
        if seconds >= _EPOCH_MS:
            seconds = seconds / 1000 - now_s
        elif seconds >= _EPOCH_S:
            seconds -= now_s
        return max(0.0, seconds)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now_s) if moment.tzinfo is not None else None


def _used_up(headers: Mapping[bytes, bytes], now_s: float) -> float | None:
    """Return when the last of the limits resets that have nothing remaining."""
    waits = []
    for name, value in headers.items():
        if b"ratelimit" not in name or b"reset" not in name:
            continue
        remaining = headers.get(name.replace(b"reset", b"remaining"))
        if remaining is not None and remaining.strip() in (b"0", b"0.0"):
            wait = moment_s(value.decode("latin-1"), now_s)
            if wait is not None:
                waits.append(wait)
    return max(waits, default=None)


def _number(value: bytes | None) -> float | None:
    if value is None:
        return None
    try:
        return max(0.0, _finite(float(value)))
    except ValueError:
        return None


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("not a number of seconds")
    return number


def _date_s(value: bytes | None) -> float | None:
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None
