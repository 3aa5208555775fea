"""What translation costs: budgets of issue 4, in CPU time. `scripts/test -m bench`."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from asgi_llmgate.core.json import dumps, loads
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import TargetInfo
from asgi_llmgate.providers.translate import Translation
from tests.providers.test_streams import BODIES, HELLO, MATRIX, started
from tests.providers.test_thinking import MODELS, TURNS

CALL_BUDGET_US = 150.0
EVENT_BUDGET_US = 25.0

pytestmark = pytest.mark.bench


def best_us(run: Callable[[], object], times: int) -> float:
    """Return microseconds of CPU per run, the best of seven rounds."""
    rounds = []
    for _ in range(7):
        before = time.process_time()
        for _ in range(times):
            run()
        rounds.append((time.process_time() - before) / times * 1e6)
    return min(rounds)


@pytest.mark.parametrize(("source", "target"), [pair for pair in MATRIX if pair[1] in TURNS])
def test_a_small_call_is_cheap(source: str, target: str) -> None:
    raw, model = dumps(TURNS[target]), MODELS[target]

    def call() -> None:
        translation = Translation(source, target, call_id="0198-aa", created=1700000000)
        to = TargetInfo(model, "someone", capabilities_of(model))
        dumps(translation.request(BODIES[source], to, model="m").body)
        dumps(translation.response(loads(raw)))

    assert best_us(call, 200) < CALL_BUDGET_US


@pytest.mark.parametrize(("source", "target"), MATRIX)
def test_a_stream_event_is_cheap(source: str, target: str) -> None:
    stream = started(source, target)
    stream.feed(HELLO[target][0])
    stream.feed(HELLO[target][1])

    assert best_us(lambda: stream.feed(HELLO[target][2]), 200) < EVENT_BUDGET_US
