"""What every store of labels promises. A new one joins by a line in `conftest.py`."""

from __future__ import annotations

import asyncio

from asgi_llmgate.protocols import LabelStore

P, Q = "a" * 16, "b" * 16


def texts(first: int, end: int) -> list[bytes]:
    return [b"label \0 %d" % number for number in range(first, end)]


async def test_labels_come_in_order_and_each_once(labels: LabelStore) -> None:
    await labels.append(P, texts(0, 3))
    first = await labels.since(P, after=0, model_version=0)
    await labels.append(P, texts(3, 5))
    await labels.append(P, texts(5, 6))
    second = await labels.since(P, after=first.last, model_version=0)
    third = await labels.since(P, after=second.last, model_version=0)

    assert first.labels == texts(0, 3)
    assert second.labels == texts(3, 6)
    assert third.labels == []
    assert third.last == second.last
    assert first.epoch == third.epoch


async def test_partitions_are_apart(labels: LabelStore) -> None:
    await labels.append(P, texts(0, 1))
    read = await labels.since(Q, after=0, model_version=0)
    await labels.append(Q, texts(1, 2))
    await labels.append(P, texts(2, 3))

    assert read.labels == []
    assert (await labels.since(Q, after=read.last, model_version=0)).labels == texts(1, 2)
    assert (await labels.since(P, after=0, model_version=0)).labels == texts(0, 1) + texts(2, 3)
    assert await labels.partitions() == [P, Q]


async def test_at_least_the_newest_of_a_window_are_kept_and_not_all(labels: LabelStore) -> None:
    for start in range(0, 1000, 50):
        await labels.append(P, texts(start, start + 50))
    kept = (await labels.since(P, after=0, model_version=0)).labels

    assert kept[-100:] == texts(900, 1000)
    assert len(kept) < 400
    assert kept == texts(1000 - len(kept), 1000)


async def test_nothing_is_lost_where_two_append_at_once(labels: LabelStore) -> None:
    read, last, ends = [], 0, asyncio.Event()

    async def append(start: int) -> None:
        for number in range(start, start + 20):
            await labels.append(P, texts(number, number + 1))

    async def look() -> None:
        nonlocal last
        while True:
            ended = ends.is_set()
            found = await labels.since(P, after=last, model_version=0)
            read.extend(found.labels)
            last = found.last
            if ended:
                return
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await asyncio.gather(append(0), append(20), append(40))
    ends.set()
    await looking

    assert sorted(read) == sorted(texts(0, 60))


async def test_a_model_is_given_to_whoever_has_another(labels: LabelStore) -> None:
    assert (await labels.since(P, after=0, model_version=0)).model is None
    first = await labels.set_model(P, b"one")
    second = await labels.set_model(P, b"two \0\xff")

    assert second > first > 0
    assert (await labels.since(P, after=0, model_version=first)).model == (second, b"two \0\xff")
    assert (await labels.since(P, after=0, model_version=0)).model == (second, b"two \0\xff")
    assert (await labels.since(P, after=0, model_version=second)).model is None
    assert (await labels.since(Q, after=0, model_version=0)).model is None


async def test_a_reset_forgets_and_says_so(labels: LabelStore) -> None:
    await labels.append(P, texts(0, 3))
    await labels.append(Q, texts(0, 3))
    version = await labels.set_model(P, b"one")
    before = await labels.since(P, after=0, model_version=0)
    other = await labels.since(Q, after=0, model_version=0)
    await labels.reset(P)
    after = await labels.since(P, after=0, model_version=0)
    partitions = await labels.partitions()
    await labels.append(P, texts(3, 4))

    assert after.epoch != before.epoch
    assert (after.labels, after.model) == ([], None)
    assert partitions == [Q]
    assert await labels.set_model(P, b"two") > version
    # Also to one that did not begin anew.
    assert (await labels.since(P, after=before.last, model_version=0)).labels == texts(3, 4)
    assert (await labels.since(Q, after=0, model_version=0)) == other


async def test_each_reset_begins_another_epoch(labels: LabelStore) -> None:
    epochs = set()
    for _ in range(5):
        await labels.reset(P)
        epochs.add((await labels.since(P, after=0, model_version=0)).epoch)

    assert len(epochs) == 5


async def test_a_closed_store_can_be_closed_again(labels: LabelStore) -> None:
    await labels.append(P, texts(0, 1))
    await labels.aclose()
    await labels.aclose()
