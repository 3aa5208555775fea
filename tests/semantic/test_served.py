"""Notes on what was served."""

from __future__ import annotations

import pytest

from asgi_llmgate.core.cache_entry import Entry, encode_entry
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.served import (
    PLACES,
    SERVED_S,
    Served,
    decode_served,
    encode_served,
    judged_key,
    place_of,
    served_key,
)

SECRET = b"s" * 32
NOW_US = 1_700_000_000_000_000
KEY = served_key(SECRET, "call-1")
NOTE = Served("acme", "p" * 16, "a" * 64, "b" * 32, CacheKey("c" * 64), (1.0, 0.5), 0.9, 0.1)


def test_a_note_is_read_as_it_was_written() -> None:
    encoded = encode_served(SECRET, KEY, NOTE, now_us=NOW_US)

    assert decode_served(SECRET, KEY, encoded, now_us=NOW_US) == NOTE


def test_a_note_counts_for_a_day() -> None:
    encoded = encode_served(SECRET, KEY, NOTE, now_us=NOW_US)
    last_us = NOW_US + int(SERVED_S * 1e6)

    assert decode_served(SECRET, KEY, encoded, now_us=last_us - 1) is not None
    assert decode_served(SECRET, KEY, encoded, now_us=last_us) is None


@pytest.mark.parametrize("at", [0, 5, 20, 60, -1])
def test_an_altered_note_is_none(at: int) -> None:
    encoded = bytearray(encode_served(SECRET, KEY, NOTE, now_us=NOW_US))
    encoded[at] ^= 1

    assert decode_served(SECRET, KEY, bytes(encoded), now_us=NOW_US) is None


def test_a_note_counts_under_its_own_key_only() -> None:
    encoded = encode_served(SECRET, KEY, NOTE, now_us=NOW_US)

    assert decode_served(SECRET, served_key(SECRET, "call-2"), encoded, now_us=NOW_US) is None
    assert decode_served(b"t" * 32, KEY, encoded, now_us=NOW_US) is None


def test_an_answer_is_no_note() -> None:
    entry = Entry(NOW_US, NOW_US * 2, {}, "json", b"[]", "openai-chat")

    assert decode_served(SECRET, KEY, encode_entry(SECRET, KEY, entry), now_us=NOW_US) is None


def test_keys_tell_calls_and_purposes_apart() -> None:
    keys = {
        served_key(SECRET, "a"),
        served_key(SECRET, "b"),
        judged_key(SECRET, "a", None),
        judged_key(SECRET, "a", "acme"),
        judged_key(SECRET, "a", "other"),
    }

    assert len(keys) == 5
    assert all(len(key) == 64 for key in keys)


@pytest.mark.parametrize("tenant", [None, "", "acme", "byok:0123", "é\udce9"])
def test_every_tenant_has_a_place(tenant: str | None) -> None:
    assert 0 <= place_of(tenant) < PLACES
