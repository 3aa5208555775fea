"""How many may be wrong, given how many were found wrong: Clopper and Pearson's upper bound.

The bound is a quantile of a beta distribution, whose distribution function is the regularised
incomplete beta function.

Source: NIST Digital Library of Mathematical Functions, §8.17; C. Clopper, E. Pearson (1934).
"""

from __future__ import annotations

import math

__all__ = ["CONFIDENCE", "beta_cdf", "beta_quantile", "is_at_most", "lower_bound", "upper_bound"]

CONFIDENCE = 0.9

_TINY = 1e-300
_PRECISION = 1e-12


def upper_bound(wrong: float, of: float, confidence: float = CONFIDENCE) -> float:
    """Return the share that, with `confidence`, is not exceeded; 1 if nothing was looked at.

    Counts need not be whole: weighted ones are given as effective numbers.
    """
    if of <= 0 or wrong >= of:
        return 1.0
    return beta_quantile(confidence, wrong + 1, of - wrong)


def lower_bound(wrong: float, of: float, confidence: float = CONFIDENCE) -> float:
    """Return the share that, with `confidence`, is exceeded; 0 if nothing was found wrong."""
    if of <= 0 or wrong <= 0:
        return 0.0
    return beta_quantile(1 - confidence, wrong, of - wrong + 1)


def is_at_most(share: float, wrong: float, of: float, confidence: float = CONFIDENCE) -> bool:
    """Whether `upper_bound(wrong, of, confidence) <= share`, at a fraction of its cost."""
    if of <= 0 or wrong >= of:
        return share >= 1
    return beta_cdf(share, wrong + 1, of - wrong) >= confidence


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return x such that `beta_cdf(x, a, b) == probability`, to 1e-10."""
    low, high = 0.0, 1.0
    while high - low > 1e-11:
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for a, b > 0."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    factor = math.exp(
        a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    )
    # The fraction converges fast below the mean only; above it the mirrored one does.
    if x < (a + 1) / (a + b + 2):
        return factor * _fraction(x, a, b) / a
    return 1 - factor * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of DLMF 8.17.22, by Lentz's method."""
    numerator, denominator = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            denominator = 1 / _away_from_zero(1 + term * denominator)
            numerator = _away_from_zero(1 + term / numerator)
            value *= numerator * denominator
        if abs(numerator * denominator - 1) < _PRECISION:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
