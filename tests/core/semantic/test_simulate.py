from __future__ import annotations

import random

import numpy as np
import pytest

from asgi_llmgate.core.semantic.simulate import Asked, LearnedPolicy, Outcome, Replay, Shelf
from tests.core.semantic.making import DIMS, stream, wrong_share


def replay(
    asked: list[Asked], max_error: float = 0.05, *, noise: float = 0.0
) -> tuple[LearnedPolicy, list[Outcome]]:
    drawn = random.Random(1)
    policy = LearnedPolicy(max_error)
    run = Replay(
        policy,
        dims=DIMS,
        judge=lambda one, other: (one == other) != (drawn.random() < noise),
        seed=1,
    )
    return policy, [run.ask(one) for one in asked]


def test_what_is_asked_often_is_served_more_and_more() -> None:
    policy, outcomes = replay(stream(topics=12, each=60))
    half = len(outcomes) // 2
    first, second = outcomes[:half], outcomes[half:]

    assert sum(one.is_hit for one in second) > sum(one.is_hit for one in first)
    assert sum(one.is_hit for one in second) > half / 2
    assert policy.mind.labels >= 100


@pytest.mark.parametrize("noise", [0.0, 0.02], ids=["a judge that is right", "one that errs"])
def test_wrong_hits_stay_under_the_bound(noise: float) -> None:
    shares = []
    for seed in range(3):
        _, outcomes = replay(stream(topics=12, each=50, seed=seed, spread=1.2), noise=noise)
        shares.append(wrong_share(outcomes))

    assert sum(shares) / len(shares) <= 0.05


def test_nothing_is_served_before_anything_is_known() -> None:
    _, outcomes = replay(stream(topics=5, each=18))

    assert not any(one.is_hit for one in outcomes)


def test_the_same_stream_gives_the_same_outcomes() -> None:
    asked = stream(topics=6, each=40)

    assert replay(asked)[1] == replay(asked)[1]


def test_some_hits_are_looked_at() -> None:
    _, outcomes = replay(stream(topics=12, each=60))
    hits = [one for one in outcomes if one.is_hit]

    assert 0 < sum(one.is_looked_at for one in hits) < len(hits)


def test_answers_that_change_are_found_out() -> None:
    """From the middle on all answers are others; hits that are looked at say so."""
    asked = stream(topics=10, each=70)
    half = len(asked) // 2
    changed = [one._replace(answer=f"new {one.answer}") for one in asked[half:]]
    _, outcomes = replay([*asked[:half], *changed])
    late = outcomes[half + half // 2 :]

    assert wrong_share(outcomes[half : half + 60]) > 0.5
    assert sum(one.is_wrong for one in late) < 0.1 * len(late)


def test_questions_that_are_unfit_have_no_part() -> None:
    vector = np.eye(DIMS, dtype=np.float32)[0]
    policy, outcomes = replay([Asked("What is the weather today?", "rain", vector)] * 3)

    assert [one.reason for one in outcomes] == ["volatile"] * 3
    assert policy.mind.labels == 0


def test_a_shelf_returns_the_nearest_first_and_forgets_what_is_removed() -> None:
    vectors = np.eye(DIMS, dtype=np.float32)
    shelf = Shelf(DIMS)
    one = shelf.add("one", "a", vectors[0])
    shelf.add("two", "a", (vectors[0] + vectors[1]) / np.float32(2**0.5))
    shelf.add("three", "b", vectors[1])

    assert [near.alias.question for near in shelf.nearest(vectors[0], 2)] == ["one", "two"]
    shelf.remove(one.id)
    shelf.remove(one.id)
    assert shelf.nearest(vectors[0], 1)[0].alias.question == "two"
    shelf.remove_answer("a")
    assert [near.alias.question for near in shelf.nearest(vectors[0], 9)] == ["three"]
    assert len(shelf) == 1


def test_a_shelf_grows() -> None:
    shelf = Shelf(DIMS)
    vectors = np.eye(DIMS, dtype=np.float32)
    for number in range(600):
        shelf.add(str(number), str(number), vectors[number % DIMS])

    assert len(shelf) == 600
    assert len(shelf.nearest(vectors[3], 10)) == 10
