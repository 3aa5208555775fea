"""What was learned beforehand, on other questions: to begin with, and to be corrected by labels.

Written by `python -m bench.semcache.fit_prior`, on streams of BANKING77 and CLINC150. It ranks
candidates while there are few labels. No bound rests on it.
"""

from __future__ import annotations

__all__ = ["MEANS", "SCALES", "WEIGHTS", "folded"]

_BIAS = 0.560

# Name, weight of the standardised feature, mean, standard deviation.
_FITTED = (
    ("similarity", 0.322, 0.614, 0.194),
    ("margin", 0.271, 0.067, 0.171),
    ("other", 0.088, 0.547, 0.182),
    ("votes", 0.821, 0.479, 0.307),
    ("share", -0.112, 0.306, 0.230),
    ("odds_near", 0.118, 0.947, 2.679),
    ("odds_far", 0.340, 0.035, 1.444),
    ("supporters", 0.259, 0.828, 0.731),
    ("mean", -0.181, 0.565, 0.173),
    ("answer_precision", -0.071, 0.473, 0.191),
    ("answer_right", -0.333, 1.356, 0.954),
    ("answer_wrong", -0.145, 1.489, 0.943),
    ("above_wrong", 0.205, 0.104, 0.225),
    ("alias_precision", 0.054, 0.460, 0.166),
    ("jaccard", -0.087, 0.220, 0.156),
    ("content_jaccard", -0.123, 0.252, 0.226),
    ("best_jaccard", -0.125, 0.282, 0.237),
    ("dice", -0.163, 0.336, 0.180),
    ("best_dice", 0.724, 0.366, 0.183),
    ("covered", 0.236, 0.422, 0.305),
    ("elsewhere", -0.050, 0.716, 0.915),
    ("numbers", -0.048, 0.055, 0.230),
    ("negation", -0.134, 0.117, 0.322),
    ("differs", 0.078, 0.241, 0.509),
    ("agreeing", 0.028, 0.779, 0.379),
    ("names", 0.005, 0.005, 0.069),
    ("asks", 0.012, 0.462, 0.500),
    ("length_ratio", 0.048, 0.714, 0.202),
    ("length", 0.060, 9.766, 4.335),
    ("only_question", 0.028, 2.790, 2.027),
    ("only_alias", 0.011, 2.638, 1.949),
    ("climate", 0.629, 0.678, 0.150),
)

MEANS = tuple(mean for _, _, mean, _ in _FITTED)
SCALES = tuple(scale for _, _, _, scale in _FITTED)
WEIGHTS = (_BIAS, *(weight for _, weight, _, _ in _FITTED))


def folded() -> list[float]:
    """Return bias and slopes for features as they are, neither shifted nor scaled."""
    slopes = [weight / scale for weight, scale in zip(WEIGHTS[1:], SCALES, strict=True)]
    shift = sum(slope * mean for slope, mean in zip(slopes, MEANS, strict=True))
    return [WEIGHTS[0] - shift, *slopes]
