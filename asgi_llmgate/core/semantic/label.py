"""What was found out about one candidate: would its answer have been right?"""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["Label", "Source"]


class Source(enum.Enum):
    """How it was found out.

    - MISS: the provider was asked anyway, and there was a candidate.
    - SHADOW: a hit was served, and the provider was asked behind it.
    - FEEDBACK: somebody who saw the answer said so.
    """

    MISS = "miss"
    SHADOW = "shadow"
    FEEDBACK = "feedback"


class Label(NamedTuple):
    """One verdict.

    Args:
        features: What was known when it was decided, in the order of `features.NAMES`.
        is_right: The stored answer says what a new one says.
        weight: 1 / the probability with which such a call is looked at; 1 for a miss.
        source: How it was found out.
        alias: Id of the nearest phrasing.
        answer: Key of the answer it leads to.
        similarity: Cosine, -1 to 1.
        made_us: When, in microseconds since the epoch.
    """

    features: tuple[float, ...]
    is_right: bool
    weight: float
    source: Source
    alias: str
    answer: str
    similarity: float
    made_us: int
