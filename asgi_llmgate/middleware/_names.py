"""Bound how many names somebody may make up."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Names"]

MAX_GROUPS = 10_000


class Names:
    """Remembers the first `limit` names of each group, per process.

    Of many groups the oldest is forgotten, with its names.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._known: dict[str, set[str]] = {}

    def beyond(self, group: str, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are too many for `group`; remember the others."""
        known = self._known.get(group)
        if known is None:
            if len(self._known) >= MAX_GROUPS:
                del self._known[next(iter(self._known))]
            known = self._known[group] = set()
        beyond = []
        for name in names:
            if name not in known:
                if len(known) >= self.limit:
                    beyond.append(name)
                else:
                    known.add(name)
        return beyond
