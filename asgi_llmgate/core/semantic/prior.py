"""What a model is pulled towards: nothing, as far as labels do not say otherwise.

One fitted on other questions (`python -m bench.semcache.fit_prior`) was tried, and won nothing.
"""

from __future__ import annotations

from asgi_llmgate.core.semantic.features import MADE_OF

__all__ = ["MEANS", "SCALES", "WEIGHTS", "folded"]

MEANS = (0.0,) * (MADE_OF - 1)
SCALES = (1.0,) * (MADE_OF - 1)
WEIGHTS = (0.0,) * MADE_OF


def folded() -> list[float]:
    """Return bias and slopes for features as they are, neither shifted nor scaled."""
    slopes = [weight / scale for weight, scale in zip(WEIGHTS[1:], SCALES, strict=True)]
    shift = sum(slope * mean for slope, mean in zip(slopes, MEANS, strict=True))
    return [WEIGHTS[0] - shift, *slopes]
