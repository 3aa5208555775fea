"""Fit what `core/semantic/prior.py` holds, on streams of labelled questions.

python -m bench.semcache.fit_prior --data FOLDER --half 0   # of the classes; prints the module
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asgi_llmgate.core.semantic import model
from asgi_llmgate.core.semantic.label import Label
from asgi_llmgate.core.semantic.simulate import Asked, LearnedPolicy, Replay

__all__ = ["fit_prior", "labels_of"]


class _Recording(LearnedPolicy):
    def __init__(self, max_error: float) -> None:
        super().__init__(max_error)
        self.recorded: list[Label] = []

    def learn(self, labels: list[Label]) -> None:
        self.recorded += labels
        super().learn(labels)


def labels_of(stream: Sequence[Asked], max_error: float, seed: int) -> list[Label]:
    policy = _Recording(max_error)
    replay = Replay(policy, dims=len(stream[0].vector), seed=seed)
    for asked in stream:
        replay.ask(asked)
    return policy.recorded


def fit_prior(
    labels: Sequence[Label], ridge: float = 30.0
) -> tuple[list[float], list[float], list[float]]:
    """Return means, scales and weights."""
    rows: npt.NDArray[np.float64] = np.array([label.features[1:] for label in labels])
    right = np.array([label.is_right for label in labels], float)
    weights = np.minimum([label.weight for label in labels], 10.0)
    means, scales = rows.mean(0), rows.std(0) + 1e-3
    z = np.concatenate([np.ones((len(rows), 1)), (rows - means) / scales], axis=1)
    fitted = model.logistic(z, right, weights, np.zeros(z.shape[1]), np.zeros(z.shape[1]), ridge)
    return list(means), list(scales), list(fitted)


def streams(asked: Sequence[Asked], sizes: Sequence[int], seed: int) -> list[list[Asked]]:
    """Return shuffled parts of the given sizes."""
    chosen = random.Random(seed)
    return [chosen.sample(list(asked), min(size, len(asked))) for size in sizes]
