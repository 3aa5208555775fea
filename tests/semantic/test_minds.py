"""How processes share what they have learned."""

from __future__ import annotations

import asyncio
import random

import pytest

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.labels_memory import MemoryLabelStore
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.codec import encode_label
from asgi_llmgate.core.semantic.features import MADE_OF
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware import _minds
from asgi_llmgate.middleware._minds import Minds
from asgi_llmgate.protocols import LabelsRead

SHOP = "5" * 16


def some_labels(count: int, seed: int = 0) -> list[Label]:
    """Right where the second feature is large."""
    chance = random.Random(seed)
    labels = []
    for number in range(count):
        features = [1.0, *(chance.random() for _ in range(MADE_OF - 1))]
        labels.append(
            Label(
                tuple(features),
                features[1] > 0.5,
                1.0,
                Source.MISS,
                f"{number:032x}",
                f"{number % 9:064x}",
                0.8,
                number,
            )
        )
    return labels


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_minds, "FOLLOW_EVERY_S", 0.0)
    monkeypatch.setattr(_minds, "FIRST_WAIT_S", 5.0)


class World:
    def __init__(self) -> None:
        self.labels = MemoryLabelStore()
        self.leases = MemoryCacheStore()

    def process(self, name: str) -> Minds:
        return Minds(self.labels, self.leases, holder=name)


async def caught_up(minds: Minds) -> int:
    """Return how many labels a process knows once it has looked."""
    await minds.of(SHOP)
    following = minds._minds[SHOP].following
    if following is not None:
        await following
    return (await minds.of(SHOP)).labels


async def test_what_one_process_learns_all_know() -> None:
    world = World()
    one, other = world.process("one"), world.process("other")
    await one.of(SHOP)
    await other.of(SHOP)
    await one.add(SHOP, some_labels(30))

    assert (await one.of(SHOP)).labels == 30
    assert await caught_up(other) == 30
    # Each label once.
    assert await caught_up(other) == 30


async def test_many_at_once_are_learned_once_each() -> None:
    world = World()
    minds = world.process("one")
    await minds.of(SHOP)
    await asyncio.gather(*(minds.add(SHOP, [label]) for label in some_labels(40)))

    assert await caught_up(minds) == 40


async def test_a_process_that_comes_later_reads_all() -> None:
    world = World()
    await world.labels.append(SHOP, [encode_label(label) for label in some_labels(400)])

    assert (await world.process("late").of(SHOP)).labels == 400


async def test_one_makes_the_model_and_all_use_it() -> None:
    world = World()
    one, other = world.process("one"), world.process("other")
    await one.of(SHOP)
    await one.add(SHOP, some_labels(400))
    mine = (await one.of(SHOP)).model
    await caught_up(other)
    theirs = (await other.of(SHOP)).model

    assert mine is not None
    assert theirs is not None
    assert theirs.encode() == mine.encode()


async def test_who_does_not_get_the_lease_makes_no_model() -> None:
    world = World()
    await world.leases.acquire(CacheKey(f"fit:{SHOP}"), "somebody", ttl_s=60)
    minds = world.process("one")
    await minds.of(SHOP)
    await minds.add(SHOP, some_labels(400))

    assert (await minds.of(SHOP)).model is None
    assert (await world.labels.since(SHOP, after=0, model_version=0)).model is None


async def test_what_was_reset_is_forgotten_everywhere() -> None:
    world = World()
    one, other = world.process("one"), world.process("other")
    await one.of(SHOP)
    await one.add(SHOP, some_labels(400))
    assert await caught_up(other) == 400
    await world.labels.reset(SHOP)

    assert await caught_up(other) == 0
    assert (await other.of(SHOP)).model is None
    await one.add(SHOP, some_labels(7))
    assert await caught_up(one) == await caught_up(other) == 7


async def test_garbage_in_the_store_is_passed_over() -> None:
    world = World()
    labels = [encode_label(label) for label in some_labels(3)]
    await world.labels.append(SHOP, [b"", b"\xff" * 50, *labels])
    await world.labels.set_model(SHOP, b"no model")
    mind = await world.process("one").of(SHOP)

    assert mind.labels == 3
    assert mind.model is None


async def test_a_store_that_fails_leaves_what_is_known() -> None:
    world = World()
    minds = world.process("one")
    await minds.of(SHOP)
    await minds.add(SHOP, some_labels(5))

    async def fails(*_: object, **__: object) -> LabelsRead:
        raise BackendError("gone")

    world.labels.since = fails  # type: ignore[method-assign]  # from now on

    assert await caught_up(minds) == 5


async def test_the_least_used_is_forgotten_here_and_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_minds, "MAX_MINDS", 2)
    world = World()
    minds = world.process("one")
    await minds.of(SHOP)
    await minds.add(SHOP, some_labels(5))
    for other in ("6" * 16, "7" * 16):
        await minds.of(other)

    assert SHOP not in minds._minds
    assert (await minds.of(SHOP)).labels == 5
