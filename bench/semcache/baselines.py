"""What others do: a fixed cosine threshold, and vCache.

vCache is written from the mathematics of its paper (arXiv 2502.03771): every entry has a logistic
of its own, and explores with a probability that keeps the share of wrong answers *among all
requests* below delta. Its code was not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt

from asgi_llmgate.core.semantic.simulate import Asked, Outcome, Shelf

__all__ = ["Baseline", "Static", "VCache", "run"]

Array = npt.NDArray[np.float64]


class Baseline(Protocol):
    keeps_right_misses: bool

    def serves(self, entry: str, similarity: float) -> bool: ...

    def learn(self, entry: str, similarity: float, is_right: bool) -> None: ...


class Static:
    """Serve the nearest if its cosine reaches the threshold. Every miss becomes an entry."""

    keeps_right_misses = True

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def serves(self, entry: str, similarity: float) -> bool:
        return similarity >= self.threshold

    def learn(self, entry: str, similarity: float, is_right: bool) -> None:
        """It never learns."""


class VCache:
    keeps_right_misses = False
    least_observations = 6
    """Two of them are given: similarity 0 is wrong, 1 is right."""

    def __init__(self, delta: float, seed: int = 0) -> None:
        self.delta = delta
        self.random = random.Random(seed)
        self.seen: dict[str, list[tuple[float, float]]] = {}
        self.epsilons = np.linspace(1e-6, 1 - 1e-6, 50)
        normal = NormalDist()
        self.quantiles = np.array([normal.inv_cdf(1 - epsilon) for epsilon in self.epsilons])

    def serves(self, entry: str, similarity: float) -> bool:
        seen = self.seen.setdefault(entry, [(0.0, 0.0), (1.0, 1.0)])
        if len(seen) < self.least_observations:
            return False
        threshold, slope, variance = _logistic(np.array(seen))
        at = np.clip(threshold + self.quantiles * np.sqrt(variance), 0, 1)
        sure = (1 - self.epsilons) / (1 + np.exp(-np.clip(slope * (similarity - at), -50, 50)))
        explores = float(np.min(1 - self.delta / (1 - sure + 1e-12)))
        return self.random.random() > explores

    def learn(self, entry: str, similarity: float, is_right: bool) -> None:
        self.seen[entry].append((similarity, float(is_right)))


def _logistic(seen: Array) -> tuple[float, float, float]:
    """Return threshold, slope, and the variance of the threshold."""
    similarities, right = seen[:, 0], seen[:, 1]
    x = np.stack([np.ones(len(seen)), similarities], axis=1)
    beta = np.array([-8.0, 10.0])
    for _ in range(60):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -50, 50)))
        hessian = (x.T * (p * (1 - p) + 1e-9)) @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, x.T @ (right - p) - 1e-6 * beta)
        length = float(np.linalg.norm(step))
        beta = beta + step * min(1.0, 20 / max(length, 1e-12))
        if length < 1e-5:
            break
    slope = max(float(beta[1]), 1e-6)
    threshold = float(np.clip(-beta[0] / slope, 0, 1))
    if similarities[right == 1].min() > similarities[right == 0].max():
        # Separable: the paper has a table, which falls about so.
        return threshold, slope, 0.2 / len(seen)
    p = 1 / (1 + np.exp(-np.clip(x @ beta, -50, 50)))
    information = (x.T * (p * (1 - p))) @ x + 1e-12 * np.eye(2)
    gradient = np.array([-1 / slope, beta[0] / slope**2])
    return threshold, slope, max(0.0, float(gradient @ np.linalg.inv(information) @ gradient))


def run(policy: Baseline, stream: Sequence[Asked]) -> list[Outcome]:
    """Return what becomes of each question: only the nearest entry counts."""
    shelf, answers, outcomes = Shelf(len(stream[0].vector)), dict[str, str](), []
    for number, asked in enumerate(stream):
        nearest = shelf.nearest(asked.vector, 1)
        keeps = True
        if nearest:
            alias, similarity = nearest[0].alias, 1 - nearest[0].distance
            is_right = answers[alias.answer] == asked.answer
            if policy.serves(alias.id, similarity):
                outcomes.append(Outcome(is_hit=True, is_wrong=not is_right))
                continue
            policy.learn(alias.id, similarity, is_right)
            keeps = policy.keeps_right_misses or not is_right
        outcomes.append(Outcome(is_hit=False))
        if keeps:
            answers[str(number)] = asked.answer
            shelf.add(asked.question, str(number), asked.vector)
    return outcomes
