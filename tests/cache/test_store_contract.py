"""What every cache store promises. A new store joins by a line in `conftest.py`."""

from __future__ import annotations

import struct
import time

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.protocols import CacheStore

KEY = CacheKey("0" * 64)
OTHER = CacheKey("f" * 64)


def value_of(text: bytes, created_us: int = 1) -> bytes:
    return b"LGC1" + struct.pack(">Q", created_us) + text


async def put(store: CacheStore, key: CacheKey = KEY, slot: int = 0, text: bytes = b"a") -> None:
    await store.write(key, slot, value_of(text), partition="p", ttl_s=100)


async def test_what_was_written_is_read_exactly_at_once(store: CacheStore) -> None:
    for value in (b"", b"\0\xff", b"x" * 100_000):
        await store.write(KEY, 0, value, partition="p", ttl_s=100)

        assert (await store.read(KEY, slots=1, names=())).values == [value]


async def test_keys_and_slots_are_apart(store: CacheStore) -> None:
    await put(store, slot=2, text=b"two")
    await put(store, OTHER, text=b"other")

    values = (await store.read(KEY, slots=4, names=())).values
    assert values == [None, None, value_of(b"two"), None]
    assert (await store.read(KEY, slots=2, names=())).values == [None, None]


async def test_an_expired_value_is_never_returned(store: CacheStore) -> None:
    await store.write(KEY, 0, b"a", partition="p", ttl_s=0)
    await store.write(KEY, 1, b"b", partition="p", ttl_s=-1)

    assert (await store.read(KEY, slots=2, names=())).values == [None, None]


async def test_generations_are_the_same_until_they_are_moved(store: CacheStore) -> None:
    before = await store.generations(["a", "b"])
    read = await store.read(KEY, slots=1, names=["a", "b"])
    await store.bump(["a"])
    after = await store.generations(["a", "b"])

    assert before == read.generations
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]


async def test_generations_take_values_they_never_had(store: CacheStore) -> None:
    seen = [(await store.generations(["a"]))["a"]]
    for turn in range(5):
        if turn % 2:
            await store.bump(["a", "b"])
        else:
            store.bump_blocking(["a"])
        seen.append((await store.generations(["a"]))["a"])

    assert len(set(seen)) == len(seen)


async def test_a_lease_has_one_holder_until_he_gives_it_back(store: CacheStore) -> None:
    assert await store.acquire(KEY, "me", ttl_s=100)
    assert await store.acquire(KEY, "me", ttl_s=100)
    assert not await store.acquire(KEY, "you", ttl_s=100)
    assert await store.acquire(OTHER, "you", ttl_s=100)

    await store.release(KEY, "you")
    assert not await store.acquire(KEY, "you", ttl_s=100)

    await store.release(KEY, "me")
    assert await store.acquire(KEY, "you", ttl_s=100)


async def test_an_expired_lease_is_anybodys(store: CacheStore) -> None:
    assert await store.acquire(KEY, "dead", ttl_s=0.001)
    deadline = time.monotonic() + 5
    while not await store.acquire(KEY, "me", ttl_s=100):
        assert time.monotonic() < deadline


async def test_entries_are_deleted_by_key_and_by_age(store: CacheStore) -> None:
    await store.write(KEY, 0, value_of(b"old", 10), partition="p", ttl_s=100)
    await store.write(OTHER, 0, value_of(b"young", 20), partition="q", ttl_s=100)

    assert await store.delete_older(15, partition="q") == 0
    assert await store.delete_older(15) == 1
    assert (await store.read(KEY, slots=1, names=())).values == [None]
    assert await store.delete(OTHER)
    assert not await store.delete(OTHER)
    assert (await store.read(OTHER, slots=1, names=())).values == [None]


async def test_size_counts_entries(store: CacheStore) -> None:
    assert (await store.size()).entries == 0
    await put(store)
    await put(store, OTHER)

    size = await store.size()
    assert size.entries == 2
    assert size.bytes > 0


async def test_a_closed_store_can_be_closed_again(store: CacheStore) -> None:
    await put(store)
    await store.aclose()
    await store.aclose()
