"""Fit what `core/semantic/prior.py` holds, on streams of labelled questions.

python -m bench.semcache.fit_prior --data FOLDER --half 0   # of the classes; prints the module
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asgi_llmgate.core.semantic import model
from asgi_llmgate.core.semantic.features import NAMES
from asgi_llmgate.core.semantic.label import Label
from asgi_llmgate.core.semantic.simulate import Asked, LearnedPolicy, Replay
from bench.semcache.sets import Files, long_tail, read, stream
from bench.semcache.vectors import Vectors

__all__ = ["fit_prior", "labels_of", "streams"]


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


def main(folder: Path, model_folder: Path) -> None:
    texts = read(Files(folder / "banking77.jsonl", folder / "clinc150.jsonl", *[Path()] * 3))
    every = [*texts.banking, *texts.clinc]
    found = Vectors(model_folder, Path(tempfile.gettempdir()) / "llmgate-bench-vectors").of(
        [text for text, _ in every]
    )
    vectors = dict(zip([text for text, _ in every], found, strict=True))
    labels: list[Label] = []
    for questions in (texts.banking, texts.clinc):
        for seed in range(2):
            asked = stream(questions, vectors, seed)
            for part in streams(asked, [500, 1500, 2500], seed):
                labels += labels_of(part, 0.02, seed)
    for seed in range(6):
        labels += labels_of(stream(long_tail(every, 100 + seed), vectors, seed), 0.05, seed)
    means, scales, weights = fit_prior(labels)
    print(f"_BIAS = {weights[0]:.3f}")
    for name, weight, mean, scale in zip(NAMES[1:], weights[1:], means, scales, strict=True):
        print(f'    ("{name}", {weight:.3f}, {mean:.3f}, {scale:.3f}),')


if __name__ == "__main__":
    package = Path(model.__file__).parents[2]
    main(Path(sys.argv[1]), next(file.parent for file in package.rglob("model.onnx")))
