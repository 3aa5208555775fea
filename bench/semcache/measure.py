"""Streams through policies, several times each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from asgi_llmgate.core.semantic.mind import Mind
from asgi_llmgate.core.semantic.simulate import Asked, LearnedPolicy, Outcome, Replay, Shelf
from asgi_llmgate.core.semantic.wording import unfit
from bench.semcache import baselines

__all__ = ["Figures", "figures", "noisy", "ours", "served_swaps", "theirs"]


class Figures(NamedTuple):
    """Of one or several runs.

    Args:
        hits: Share of all requests; mean of the runs.
        wrong: Share of hits; mean of the runs.
        least_hits, most_wrong: Of the worst run.
        looked_at: Share of hits behind which the provider was asked.
        warm: Share of hits in the second half.
    """

    hits: float
    wrong: float
    least_hits: float
    most_wrong: float
    looked_at: float
    warm: float


def figures(runs: Sequence[Sequence[Outcome]]) -> Figures:
    hits = [sum(one.is_hit for one in run) / len(run) for run in runs]
    wrong = [sum(one.is_wrong for one in run) / max(1, sum(o.is_hit for o in run)) for run in runs]
    looked = [
        sum(one.is_looked_at for one in run) / max(1, sum(o.is_hit for o in run)) for run in runs
    ]
    warm = [sum(one.is_hit for one in run[len(run) // 2 :]) / (len(run) / 2) for run in runs]
    return Figures(_mean(hits), _mean(wrong), min(hits), max(wrong), _mean(looked), _mean(warm))


def ours(
    stream: Sequence[Asked],
    max_error: float,
    *,
    seed: int,
    noise: float = 0.0,
    wording: bool = True,
    step: Callable[[], None] = lambda: None,
) -> tuple[Replay, Mind, list[Outcome]]:
    """Replay a stream through what the cache does. `noise` is how often a judge errs."""
    policy = LearnedPolicy(max_error)
    replay = Replay(
        policy,
        dims=len(stream[0].vector),
        judge=noisy(noise, seed) if noise else None,
        seed=seed,
        unfit=unfit if wording else lambda question: None,
    )
    outcomes = []
    for asked in stream:
        outcomes.append(replay.ask(asked))
        step()
    return replay, policy.mind, outcomes


def theirs(policy: baselines.Baseline, stream: Sequence[Asked]) -> list[Outcome]:
    return baselines.run(policy, stream)


def noisy(share: float, seed: int) -> Callable[[str, str], bool]:
    """Return a judge that says the opposite in `share` of the cases, whichever they are."""
    chosen = random.Random(seed)
    return lambda one, other: (one == other) != (chosen.random() < share)


def served_swaps(
    mind: Mind, pairs: Sequence[tuple[Asked, Asked]], beside: Sequence[Asked], max_error: float
) -> int:
    """Return for how many pairs the answer to the first is served to the second.

    The shelf holds the first of every pair and what else is given, each with an answer of its own.
    """
    shelf = Shelf(len(pairs[0][0].vector)) if pairs else Shelf(1)
    for number, asked in enumerate([*(one for one, _ in pairs), *beside]):
        shelf.add(asked.question, str(number), asked.vector)
    return sum(
        mind.decide(
            other.question, shelf.nearest(other.vector, 10), max_error=max_error, principal=""
        ).serves
        for _, other in pairs
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
