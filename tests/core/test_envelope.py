from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.envelope import EnvelopeError, Envelopes, Place

OLD, NEW = b"o" * 32, b"n" * 32
NONCE = b"123456789012"
PLACE = Place("provider-key/openai", "acme", "pk_1", 1)
KEY = "sk-canary-0123456789"


@given(st.text(), st.binary(min_size=12, max_size=12))
def test_what_was_sealed_is_opened(text: str, nonce: bytes) -> None:
    envelopes = Envelopes([NEW])

    assert envelopes.open(envelopes.seal(text, PLACE, nonce), PLACE) == text


def test_an_envelope_does_not_show_what_is_in_it() -> None:
    assert b"canary" not in Envelopes([NEW]).seal(KEY, PLACE, NONCE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"purpose": "provider-key/anthropic"},
        {"tenant": "*"},
        {"row": "pk_2"},
        {"version": 2},
        {"tenant": "acmep", "row": "k_1"},  # the same text in a row
    ],
    ids=lambda change: "-".join(change),
)
def test_an_envelope_opens_in_its_place_only(elsewhere: dict[str, Any]) -> None:
    envelopes = Envelopes([NEW])
    envelope = envelopes.seal(KEY, PLACE, NONCE)

    with pytest.raises(EnvelopeError, match="elsewhere"):
        envelopes.open(envelope, dataclasses.replace(PLACE, **elsewhere))


def test_no_byte_can_be_changed() -> None:
    envelopes = Envelopes([NEW])
    envelope = envelopes.seal(KEY, PLACE, NONCE)
    for place in range(len(envelope)):
        changed = bytearray(envelope)
        changed[place] ^= 1
        with pytest.raises(EnvelopeError):
            envelopes.open(bytes(changed), PLACE)
    for length in range(len(envelope)):
        with pytest.raises(EnvelopeError):
            envelopes.open(envelope[:length], PLACE)


def test_a_secret_can_be_replaced_step_by_step() -> None:
    before, both, after = Envelopes([OLD]), Envelopes([NEW, OLD]), Envelopes([NEW])
    envelope = before.seal(KEY, PLACE, NONCE)

    assert both.open(envelope, PLACE) == KEY
    assert not both.is_current(envelope)
    with pytest.raises(EnvelopeError, match="not there"):
        after.open(envelope, PLACE)
    anew = both.seal(both.open(envelope, PLACE), PLACE, NONCE)
    assert both.is_current(anew)
    assert after.open(anew, PLACE) == KEY


@pytest.mark.parametrize("length", [0, 11, 16])
def test_a_nonce_has_twelve_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="nonce"):
        Envelopes([NEW]).seal(KEY, PLACE, bytes(length))
