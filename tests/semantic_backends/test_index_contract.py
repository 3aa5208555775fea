"""What every vector index promises. A new one joins by a line in `conftest.py`."""

from __future__ import annotations

import numpy as np
import pytest

from asgi_llmgate.protocols import VectorIndex
from tests.semantic_backends.making import (
    OTHER,
    SCOPE,
    alias,
    answer,
    now_us,
    random_vectors,
    vector,
)


async def test_what_was_added_is_found_at_once_and_whole(index: VectorIndex) -> None:
    added = alias(1)
    await index.add(SCOPE, added, vector(1))

    [found] = await index.nearest(SCOPE, vector(1), limit=5)
    assert found.alias == added
    assert found.distance == pytest.approx(0, abs=1e-3)


async def test_nearest_come_first_and_no_more_than_asked_for(index: VectorIndex) -> None:
    vectors = random_vectors(60)
    for number, one in enumerate(vectors):
        await index.add(SCOPE, alias(number), one)
    asked = random_vectors(1, seed=1)[0]
    distances = [1 - float(np.dot(one, asked)) for one in vectors]

    for limit in (1, 10, 60, 100):
        found = await index.nearest(SCOPE, asked, limit=limit)
        expected = sorted(distances)[:limit]
        assert [one.distance for one in found] == pytest.approx(expected, abs=1e-3)
        for neighbour in found:
            exact = distances[int(neighbour.alias.id, 16)]
            assert neighbour.distance == pytest.approx(exact, abs=1e-3)


async def test_distances_go_from_0_to_2(index: VectorIndex) -> None:
    await index.add(SCOPE, alias(1), vector(1))
    await index.add(SCOPE, alias(2), vector(0, 1))
    await index.add(SCOPE, alias(3), vector(-1))

    found = await index.nearest(SCOPE, vector(1), limit=3)
    assert [one.distance for one in found] == pytest.approx([0, 1, 2], abs=1e-3)
    assert all(0 <= one.distance <= 2 for one in found)


async def test_nothing_of_another_scope_is_found(index: VectorIndex) -> None:
    await index.add(SCOPE, alias(1), vector(1))
    await index.add(OTHER, alias(2), vector(1))
    await index.add(OTHER, alias(1), vector(1, 0.1))

    assert [one.alias.id for one in await index.nearest(SCOPE, vector(1), limit=9)] == [alias(1).id]
    assert await index.nearest("c" * 64, vector(1), limit=9) == []


@pytest.mark.parametrize(
    "scope",
    ["", "*", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", f"{'a' * 64}|{'b' * 64}"],
    ids=["empty", "star", "short", "long", "upper", "no hex", "newline", "two"],
)
async def test_what_is_no_scope_is_refused_and_never_a_wider_search(
    index: VectorIndex, scope: str
) -> None:
    await index.add(SCOPE, alias(1), vector(1))

    with pytest.raises(ValueError, match="scope"):
        await index.nearest(scope, vector(1), limit=9)
    with pytest.raises(ValueError, match="scope"):
        await index.add(scope, alias(2), vector(1))
    with pytest.raises(ValueError, match="scope"):
        await index.remove(scope, [alias(1).id])
    with pytest.raises(ValueError, match="scope"):
        await index.remove_answer(scope, answer(1))
    assert len(await index.nearest(SCOPE, vector(1), limit=9)) == 1


async def test_what_has_expired_is_not_found(index: VectorIndex) -> None:
    began_us = now_us()
    await index.add(SCOPE, alias(1, expires_us=began_us - 1), vector(1))
    await index.add(SCOPE, alias(2, expires_us=began_us + 30_000), vector(1, 0.1))
    await index.add(SCOPE, alias(3), vector(1, 0.2))
    while now_us() < began_us + 40_000:
        found = await index.nearest(SCOPE, vector(1), limit=9)
        assert alias(1).id not in [one.alias.id for one in found]

    assert [one.alias.id for one in await index.nearest(SCOPE, vector(1), limit=9)] == [alias(3).id]


async def test_an_id_that_is_added_again_is_replaced(index: VectorIndex) -> None:
    await index.add(SCOPE, alias(1), vector(1))
    newer = alias(1, answer=answer(7), question="other words")
    await index.add(SCOPE, newer, vector(0, 1))

    [found] = await index.nearest(SCOPE, vector(0, 1), limit=9)
    assert found.alias == newer
    assert found.distance == pytest.approx(0, abs=1e-3)


async def test_what_was_removed_is_not_found(index: VectorIndex) -> None:
    for number in range(5):
        await index.add(SCOPE, alias(number), vector(1, number / 10))
    await index.add(OTHER, alias(1), vector(1))
    await index.remove(SCOPE, [alias(1).id, alias(3).id, alias(99).id])

    found = {int(one.alias.id, 16) for one in await index.nearest(SCOPE, vector(1), limit=9)}
    assert found == {0, 2, 4}
    assert len(await index.nearest(OTHER, vector(1), limit=9)) == 1


async def test_all_phrasings_of_an_answer_are_removed(index: VectorIndex) -> None:
    for number in range(6):
        made = alias(number, answer=answer(number % 2))
        await index.add(SCOPE, made, vector(1, number / 10))
        await index.add(OTHER, made, vector(1, number / 10))

    assert await index.remove_answer(SCOPE, answer(1)) == 3
    assert await index.remove_answer(SCOPE, answer(1)) == 0
    left = await index.nearest(SCOPE, vector(1), limit=9)
    assert {one.alias.answer for one in left} == {answer(0)}
    assert len(await index.nearest(OTHER, vector(1), limit=9)) == 6


async def test_a_purge_takes_what_all_criteria_hold_for(index: VectorIndex) -> None:
    for number in range(4):
        partition = ("e" if number % 2 else "f") * 16
        made = alias(number, partition=partition, created_us=1000 + number)
        await index.add(SCOPE if number < 2 else OTHER, made, vector(1, number / 10))

    assert await index.purge(partition="e" * 16, created_before_us=1002) == 1
    assert await index.purge(created_before_us=1001) == 1
    assert await index.nearest(SCOPE, vector(1), limit=9) == []
    assert await index.purge(partition="0" * 16) == 0
    assert await index.purge() == 2
    assert await index.nearest(OTHER, vector(1), limit=9) == []
    assert (await index.size()).aliases == 0


async def test_the_newest_are_listed_first(index: VectorIndex) -> None:
    for number in range(6):
        partition = ("e" if number % 2 else "f") * 16
        made = alias(number, partition=partition, created_us=1_700_000_000_000_000 + number)
        await index.add(SCOPE if number < 3 else OTHER, made, vector(1, number / 10))

    listed = await index.listed(limit=4)
    assert [int(one.id, 16) for _, one in listed] == [5, 4, 3, 2]
    assert [scope for scope, _ in listed] == [OTHER, OTHER, OTHER, SCOPE]
    assert [int(one.id, 16) for _, one in await index.listed(partition="e" * 16)] == [5, 3, 1]
    assert listed[0][1].question == alias(5).question


async def test_size_counts_phrasings_and_scopes(index: VectorIndex) -> None:
    assert (await index.size())[:2] == (0, 0)
    for number in range(3):
        await index.add(SCOPE, alias(number), vector(1, number / 10))
    await index.add(OTHER, alias(1), vector(1))

    size = await index.size()
    assert size[:2] == (4, 2)
    assert size.bytes is None or size.bytes > 0


async def test_a_closed_index_can_be_closed_again(index: VectorIndex) -> None:
    await index.add(SCOPE, alias(1), vector(1))
    await index.aclose()
    await index.aclose()
