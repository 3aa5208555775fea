"""Keys that nobody has: remembered apart from those that somebody has, and looked up seldom.

The checksum of a key is no secret, so made-up keys can have a right one, and each is a question to
the store. So many at once, and so many a second after that, may find nobody; beyond it only keys
that were seen before are let in, at no cost to them.
"""

from __future__ import annotations

__all__ = ["Strangers"]

PER_S = 100.0
AT_ONCE = 1000.0
MAX_REMEMBERED = 10_000


class Strangers:
    """Which keys were refused lately, by the digest of their whole text. Times are in seconds.

    Args:
        ttl_s: How long a refusal is remembered.
        now: Seconds on a clock that never goes back.
    """

    def __init__(self, ttl_s: float, now: float) -> None:
        self._ttl_s = ttl_s
        self._refused_at: dict[bytes, float] = {}
        self._left = AT_ONCE
        self._filled_at = now

    def __len__(self) -> int:
        return len(self._refused_at)

    def was_refused(self, digest: bytes, now: float) -> bool:
        refused_at = self._refused_at.get(digest)
        return refused_at is not None and now - refused_at < self._ttl_s

    def refuse(self, digest: bytes, now: float) -> None:
        self._refused_at[digest] = now
        if len(self._refused_at) > MAX_REMEMBERED:
            del self._refused_at[next(iter(self._refused_at))]

    def count(self) -> None:
        """Note that the store was asked for somebody whom it does not know."""
        self._left -= 1

    def may_be_asked_for(self, now: float) -> bool:
        """Tell whether the store may be asked for a key that was never seen."""
        self._left = min(self._left + (now - self._filled_at) * PER_S, AT_ONCE)
        self._filled_at = now
        return self._left >= 1

    def clear(self) -> None:
        """Forget who was refused: there may be new keys."""
        self._refused_at.clear()
