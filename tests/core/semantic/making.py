"""Neighbours, labels and streams of questions to decide on."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Neighbour
from asgi_llmgate.core.semantic.features import MADE_OF
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.mind import Mind
from asgi_llmgate.core.semantic.model import Model, Point, fit
from asgi_llmgate.core.semantic.simulate import Asked, Outcome

DIMS = 64


def neighbour(
    question: str, similarity: float = 0.95, answer: str = "a", principal: str = "p"
) -> Neighbour:
    alias = Alias(
        id=f"{abs(hash(question)):032x}"[:32],
        answer=CacheKey(answer),
        question=question,
        partition="c" * 16,
        principal=principal,
        created_us=0,
        expires_us=2**60,
    )
    return Neighbour(alias, 1.0 - similarity)


def label(
    *,
    is_right: bool = True,
    score: float = 0.5,
    weight: float = 1.0,
    source: Source = Source.MISS,
    answer: str = "a",
    alias: str = "b",
    is_proposed: bool = True,
) -> Label:
    """Return a label that tells more of being right the higher `score` is."""
    features = [float(is_proposed), score, *[0.0] * (MADE_OF - 2)]
    return Label(tuple(features), is_right, weight, source, alias, answer, score, 1)


def scored(count: int, seed: int = 0) -> list[Label]:
    """Return labels that are right with the probability of their score."""
    drawn = random.Random(seed)
    made = []
    for _ in range(count):
        score = drawn.random()
        made.append(label(is_right=drawn.random() < score**0.2, score=score))
    return made


def trained() -> Mind:
    mind = Mind()
    mind.learn(scored(1000))
    mind.model = fit(mind.snapshot())
    return mind


def sure(probability: float = 0.99) -> Model:
    """Return a model that finds everything right, and may serve it."""
    bias = float(np.log(probability / (1 - probability)))
    return Model([bias, *[0.0] * (MADE_OF - 1)], [Point(0.5, 10_000.0, 0.0)], 10_000)


def stream(topics: int, each: int, seed: int = 0, spread: float = 0.45) -> list[Asked]:
    """Return questions of several topics, each near the others of its topic, shuffled."""
    drawn = np.random.default_rng(seed)
    made = []
    for topic in range(topics):
        centre = drawn.standard_normal(DIMS)
        centre /= np.linalg.norm(centre)
        for phrase in range(each):
            vector = centre + spread * drawn.standard_normal(DIMS) / np.sqrt(DIMS)
            vector /= np.linalg.norm(vector)
            text = f"{_word(topic)} {_word(topic + 500)} {_word(1000 + phrase % 7)}"
            made.append(Asked(text, _word(topic), vector.astype(np.float32)))
    random.Random(seed).shuffle(made)
    return made


def wrong_share(outcomes: Sequence[Outcome]) -> float:
    hits = [outcome for outcome in outcomes if outcome.is_hit]
    return sum(hit.is_wrong for hit in hits) / max(1, len(hits))


def _word(number: int) -> str:
    return "".join("bdfgklmnprst"[number // 12**at % 12] + "aeiou"[number % 5] for at in range(3))
