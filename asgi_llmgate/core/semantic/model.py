"""How likely a candidate is right, and from which likelihood on it may be served.

A logistic regression over `features.NAMES`, pulled towards `prior.WEIGHTS`, so that a hundred
labels are enough to begin with.

It is not believed: the threshold comes from counting. Of the labels whose score (given by a model
that has not seen them) reaches a threshold, the share that was wrong is bounded from above.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from asgi_llmgate.core.semantic import bound, prior
from asgi_llmgate.core.semantic.features import MADE_OF

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

__all__ = ["Estimate", "Model", "Snapshot", "fit", "logistic"]

VERSION = 1

_RIDGE = 3.0
_ITERATIONS = 8
# Labels that hardly ever are looked at would rule all others.
_MAX_WEIGHT = 30.0
_POINTS = 256
_BINS = 40
_FOLDS = 5
_LEAST_BIN = 25
# Below, a single wrong verdict decides.
_LEAST_LABELS = 20
_HEADER = struct.Struct(">BHHI")


class Snapshot(NamedTuple):
    """Labels at one moment, to be fitted elsewhere. Rows are labels, oldest first."""

    features: npt.NDArray[np.float32]
    is_right: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]


class Point(NamedTuple):
    """What was found out about labels that score at least `score`.

    Args:
        labels: How many equal ones they are worth (Kish's effective number).
        wrong: The weighted share that was wrong.
    """

    score: float
    labels: float
    wrong: float


class Estimate(NamedTuple):
    """How many hits are right, and between what, with 80 % certainty.

    Args:
        labels: On how many (effective) labels that rests.
    """

    precision: float
    low: float
    high: float
    labels: float


class Model:
    """Immutable. `weights` begin with the bias; `curve` falls in score."""

    __slots__ = ("_found", "curve", "labels", "weights")

    def __init__(
        self, weights: Sequence[float], curve: Sequence[Point] = (), labels: int = 0
    ) -> None:
        self.weights = tuple(weights)
        self.curve = tuple(curve)
        self.labels = labels
        self._found: dict[float, Point | None] = {}

    def probability(self, features: Sequence[float]) -> float:
        score = self.weights[0]
        for weight, value in zip(self.weights[1:], features[1:], strict=True):
            score += weight * value
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))

    def threshold(self, max_error: float) -> float | None:
        """Return the lowest probability from which on at most `max_error` of the hits are wrong,
        with 90 % confidence; None if no threshold is known to do so."""
        at = self._at(max_error)
        return None if at is None else at.score

    def estimate(self, max_error: float) -> Estimate | None:
        """Return how good the hits under `max_error` are; None if there are none."""
        at = self._at(max_error)
        if at is None:
            return None
        wrong = at.wrong * at.labels
        return Estimate(
            1 - at.wrong,
            1 - bound.upper_bound(wrong, at.labels),
            1 - bound.lower_bound(wrong, at.labels),
            at.labels,
        )

    def _at(self, max_error: float) -> Point | None:
        if max_error not in self._found:
            if len(self._found) > 64:
                self._found.clear()
            self._found[max_error] = self._search(max_error)
        return self._found[max_error]

    def _search(self, max_error: float) -> Point | None:
        for point in reversed(self.curve):
            if point.wrong <= max_error and bound.is_at_most(
                max_error, point.wrong * point.labels, point.labels
            ):
                return point
        return None

    def encode(self) -> bytes:
        numbers = [*self.weights, *(value for point in self.curve for value in point)]
        header = _HEADER.pack(VERSION, len(self.weights), len(self.curve), self.labels)
        return header + struct.pack(f">{len(numbers)}d", *numbers)

    @classmethod
    def decode(cls, encoded: bytes) -> Model:
        """Raises ValueError: garbage, or written by another version."""
        try:
            version, weights, points, labels = _HEADER.unpack_from(encoded)
            numbers = struct.unpack(f">{weights + 3 * points}d", encoded[_HEADER.size :])
        except struct.error as error:
            raise ValueError("not a model") from error
        if version != VERSION or weights != MADE_OF or not all(map(math.isfinite, numbers)):
            raise ValueError("not a model of this version")
        rest = iter(numbers[weights:])
        return cls(
            numbers[:weights],
            [Point(*three) for three in zip(rest, rest, rest, strict=True)],
            labels,
        )


def fit(snapshot: Snapshot) -> Model:
    """Fit a model to labels. Deterministic. Spends its time in numpy, which lets others run."""
    import numpy as np

    z = (snapshot.features[:, 1:].astype(np.float64) - prior.MEANS) / prior.SCALES
    z = np.concatenate([np.ones((len(z), 1)), z], axis=1)
    right = snapshot.is_right.astype(np.float64)
    weights = np.minimum(snapshot.weights.astype(np.float64), _MAX_WEIGHT)
    towards = np.array(prior.WEIGHTS)
    whole = logistic(z, right, weights, towards, towards)
    scores = np.zeros(len(z))
    fold = np.arange(len(z)) % _FOLDS
    for number in range(_FOLDS):
        part = fold == number
        rest = logistic(z[~part], right[~part], weights[~part], whole, towards)
        scores[part] = 1 / (1 + np.exp(-np.clip(z[part] @ rest, -30, 30)))
    proposed = snapshot.features[:, 0] > 0.5
    curve = _curve(scores[proposed], right[proposed], weights[proposed])
    slopes = whole[1:] / prior.SCALES
    bias = whole[0] - float(np.dot(slopes, prior.MEANS))
    return Model([bias, *map(float, slopes)], curve, len(z))


def logistic(
    z: Array, right: Array, weights: Array, start: Array, towards: Array, ridge: float = _RIDGE
) -> Array:
    """Return the weights that fit best, by iteratively reweighted least squares.

    `ridge` says how many labels' worth the belief in `towards` is. The first column of `z` is ones.
    """
    import numpy as np

    beta = start.copy()
    pull = np.full(len(beta), ridge)
    pull[0] = 0.1
    for _ in range(_ITERATIONS):
        p = 1 / (1 + np.exp(-np.clip(z @ beta, -30, 30)))
        gradient = z.T @ (weights * (right - p)) - pull * (beta - towards)
        hessian = (z.T * (weights * p * (1 - p) + 1e-9)) @ z + np.diag(pull)
        step = np.linalg.solve(hessian, gradient)
        beta += step * min(1.0, 5.0 / float(np.linalg.norm(step) + 1e-12))
        if float(np.abs(step).max()) < 1e-4:
            break
    return beta


def _curve(scores: Array, right: Array, weights: Array) -> list[Point]:
    """Return what is known of labels from each score on.

    Misses are all looked at, hits one in ten. Labels of about the same score are taken as equally
    often right, whichever they are: together they stand for all calls of that score, and each of
    them for as many as the others. Ten labels of misses and one of a hit are then eleven, not two.
    """
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    scores, right, weights = scores[order], right[order], weights[order]
    count = len(scores)
    bins = np.arange(count) // max(_LEAST_BIN, -(-count // _BINS))
    sums = np.bincount(bins, weights)
    weights = (sums / np.bincount(bins))[bins] if count else weights
    total, squares = np.cumsum(weights), np.cumsum(weights * weights)
    wrong = np.cumsum(weights * (1 - right)) / np.maximum(total, 1e-12)
    effective = total * total / np.maximum(squares, 1e-12)
    rows = range(_LEAST_LABELS - 1, count, max(1, count // _POINTS))
    return [Point(float(scores[at]), float(effective[at]), float(wrong[at])) for at in rows]
