"""What labels and a model say of a semantic cache, for people to look at. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from asgi_llmgate.core.semantic.features import NAMES
from asgi_llmgate.core.semantic.label import Label
from asgi_llmgate.core.semantic.mind import LEAST_LABELS, LEAST_RIGHT
from asgi_llmgate.core.semantic.model import Model

__all__ = ["CELL", "bounds", "export_label", "histogram", "label_counts", "state_of", "weights"]

CELL = 0.05
"""Width of a cell of the histogram, as a cosine."""
_CELLS = 20


def label_counts(labels: Iterable[Label]) -> dict[str, Any]:
    """Count labels by what was found, and by how it was found out."""
    by_source: dict[str, dict[str, int]] = {}
    for label in labels:
        found = by_source.setdefault(label.source.value, {"right": 0, "wrong": 0})
        found["right" if label.is_right else "wrong"] += 1
    right = sum(found["right"] for found in by_source.values())
    wrong = sum(found["wrong"] for found in by_source.values())
    return {"total": right + wrong, "right": right, "wrong": wrong, "by_source": by_source}


def histogram(labels: Iterable[Label]) -> list[dict[str, Any]]:
    """Return how many were right and wrong by cosine, from the first cell that holds any to 1."""
    cells = [[0, 0] for _ in range(_CELLS)]
    for label in labels:
        at = max(0, min(_CELLS - 1, int(label.similarity / CELL + 1e-9)))
        cells[at][not label.is_right] += 1
    first = next((at for at, cell in enumerate(cells) if any(cell)), _CELLS)
    return [
        {
            "from": round(at * CELL, 2),
            "to": round((at + 1) * CELL, 2),
            "right": right,
            "wrong": wrong,
        }
        for at, (right, wrong) in enumerate(cells)
        if at >= first
    ]


def bounds(
    labels: Sequence[Label], model: Model | None, max_errors: Iterable[float]
) -> list[dict[str, Any]]:
    """Return, per bound, from where on is served, how good that is, and how much it would serve.

    `would_serve` and `would_be_wrong` look back at the labels of candidates: which of them would
    be hits with the model of now.
    """
    candidates = [label for label in labels if label.features and label.features[0] > 0]
    odds = [0.0 if model is None else model.probability(label.features) for label in candidates]
    rows = []
    for max_error in sorted(set(max_errors)):
        threshold = None if model is None else model.threshold(max_error)
        estimate = None if model is None else model.estimate(max_error)
        served = [
            label
            for label, probability in zip(candidates, odds, strict=True)
            if threshold is not None and probability >= threshold
        ]
        rows.append(
            {
                "max_error": max_error,
                "threshold": threshold,
                "precision": None if estimate is None else estimate.precision,
                "precision_low": None if estimate is None else estimate.low,
                "precision_high": None if estimate is None else estimate.high,
                "labels": 0 if estimate is None else round(estimate.labels, 1),
                "candidates": len(candidates),
                "would_serve": len(served),
                "would_be_wrong": sum(not label.is_right for label in served),
            }
        )
    return rows


def state_of(labels: Sequence[Label], model: Model | None, max_error: float) -> str:
    """Say whether anything is served under `max_error`, in a sentence."""
    right = sum(label.is_right for label in labels)
    if model is None:
        return (
            f"cold: {len(labels)} of {LEAST_LABELS} labels, {right} of {LEAST_RIGHT} right ones; "
            "only the very same request is a hit"
        )
    if model.threshold(max_error) is None:
        return f"unproven: no threshold is known to keep {max_error:.3g}; nothing is served"
    return "serving"


def weights(model: Model | None) -> dict[str, float] | None:
    """Return what each feature counts, in the model of now."""
    if model is None:
        return None
    return dict(zip(("bias", *NAMES[1:]), model.weights, strict=True))


def export_label(label: Label) -> dict[str, Any]:
    return {
        "made_us": label.made_us,
        "source": label.source.value,
        "is_right": label.is_right,
        "weight": label.weight,
        "similarity": label.similarity,
        "alias": label.alias,
        "answer": label.answer,
        "features": dict(zip(NAMES, label.features, strict=False)),
    }
