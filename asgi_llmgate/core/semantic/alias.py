"""A question that was asked before, and which stored answer answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from asgi_llmgate.core.cache_key import CacheKey

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Alias", "Neighbour", "Vector"]

Vector: TypeAlias = "npt.NDArray[np.float32]"
"""float32, shape (dims,), of unit length."""


class Alias(NamedTuple):
    """One phrasing. Several phrasings may lead to one answer.

    Args:
        id: 32 hex digits, of this phrasing within its scope.
        answer: Under which key of the cache the answer is stored.
        question: The text that was embedded.
        partition: Whose it is: 16 hex digits, as `cache_key.partition` gives.
        principal: Who asked: 16 hex digits.
        created_us: When the provider was asked.
        expires_us: From then on it leads nowhere.
    """

    id: str
    answer: CacheKey
    question: str
    partition: str
    principal: str
    created_us: int
    expires_us: int


class Neighbour(NamedTuple):
    """An alias near a question. `distance` is a cosine distance, 0 (same direction) to 2."""

    alias: Alias
    distance: float
