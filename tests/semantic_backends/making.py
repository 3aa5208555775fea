"""Phrasings and vectors to fill an index with."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Vector

DIMS = 16
SCOPE = "a" * 64
OTHER = "b" * 64
TEST_PREFIX = "llmgate-test:"
SOON_US = 10**9


def now_us() -> int:
    return time.time_ns() // 1000


def answer(number: int = 0) -> CacheKey:
    return CacheKey(f"{number:064x}")


def alias(number: int, **changes: Any) -> Alias:
    """Return phrasing `number`, which lives for a quarter of an hour."""
    made = Alias(
        id=f"{number:032x}",
        answer=answer(number),
        question=f"question {number}: wie gefällt's?",
        partition="c" * 16,
        principal="d" * 16,
        created_us=now_us(),
        expires_us=now_us() + SOON_US,
    )
    return made._replace(**changes)


def vector(*values: float, dims: int = DIMS) -> Vector:
    """Return a vector of unit length that begins with `values`."""
    full = np.zeros(dims, dtype=np.float32)
    full[: len(values)] = values
    return full / np.float32(np.linalg.norm(full))


def random_vectors(number: int, seed: int = 0, dims: int = DIMS) -> list[Vector]:
    drawn = np.random.default_rng(seed).standard_normal((number, dims), dtype=np.float32)
    return list(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
