from __future__ import annotations

import base64
import random
import secrets
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.virtual_keys import (
    KID_BYTES,
    SECRET_BYTES,
    hint_of,
    kid_in,
    mint,
    new_kid,
    weakness,
)

TOKEN = mint("0123456789", bytes(range(32)))


@given(st.binary(min_size=KID_BYTES, max_size=KID_BYTES), st.binary(min_size=32, max_size=32))
def test_a_token_tells_its_id_and_nobody_elses(kid_bytes: bytes, secret: bytes) -> None:
    kid = new_kid(kid_bytes)

    assert kid_in(mint(kid, secret)) == kid


def test_a_token_has_one_form() -> None:
    """Written down once, because keys that were given out must go on working."""
    assert TOKEN == "lg_0123456789_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf_45fKbc"
    assert len(TOKEN) == 64


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from(string.printable))
def test_one_wrong_character_is_noticed(place: int, character: str) -> None:
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]

    assert (kid_in(changed) is not None) == (changed == TOKEN)


@pytest.mark.parametrize(
    "text",
    ["", "lg_", TOKEN[:-1], TOKEN + "0", TOKEN + "\n", " " + TOKEN, TOKEN.upper(), "é" * 64],
)
def test_what_has_not_the_form_is_no_token(text: str) -> None:
    assert kid_in(text) is None


def test_twenty_thousand_made_up_tokens_are_all_refused() -> None:
    letters = string.ascii_letters + string.digits
    draw = random.Random(7)

    def piece(length: int) -> str:
        return "".join(draw.choices(letters, k=length))

    made_up = [f"lg_{piece(10).lower()}_{piece(43)}_{piece(6)}" for _ in range(20_000)]
    assert [text for text in made_up if kid_in(text)] == []


def test_different_randomness_makes_different_tokens() -> None:
    one = {mint("0123456789", number.to_bytes(SECRET_BYTES)) for number in range(1000)}

    assert len(one) == 1000
    assert len({new_kid(number.to_bytes(KID_BYTES)) for number in range(1000)}) == 1000


def test_a_hint_is_the_end_of_the_secret() -> None:
    assert hint_of(TOKEN) == "IDlf"
    assert hint_of("sk-somebody-elses-1234") == "1234"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_too_little_randomness_is_a_mistake(length: int) -> None:
    with pytest.raises(ValueError, match="random bytes"):
        mint("0123456789", bytes(length))


@pytest.mark.parametrize("kid", ["", "0123", "ABCDEFGHIJ", "012345678_"])
def test_a_token_is_made_for_a_proper_id_only(kid: str) -> None:
    with pytest.raises(ValueError, match="id of a key"):
        mint(kid, bytes(32))


def groups() -> str:
    letters = string.ascii_lowercase + string.digits
    return "-".join("".join(secrets.choice(letters) for _ in range(7)) for _ in range(4))


@pytest.mark.parametrize(
    "made",
    [
        lambda: "sk-helicone-" + groups(),
        lambda: "sk-helicone-eu-" + groups(),
        lambda: "sk-" + secrets.token_urlsafe(16).replace("_", "x").replace("-", "y"),
        lambda: "sk-" + secrets.token_urlsafe(32),
        lambda: secrets.token_hex(16),
        lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
    ],
    ids=["helicone", "helicone-eu", "litellm", "long", "hex", "base64"],
)
def test_keys_that_others_made_at_random_are_taken(made: object) -> None:
    assert callable(made)
    for _ in range(200):
        assert weakness(made()) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sk-1234", "bits"),
        ("sk-helicone-test", "bits"),
        ("password", "bits"),
        ("sk-" + "a1" * 20, "random"),
        ("sk-" + "abcdefgh12345678" * 2, "random"),
        ("sk-abcdefghijklmnopqrstuvwxyz0123456789", "random"),
        ("sk-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "random"),
        ("correct-horse-battery-staple-and-then-some", "bits"),
        ("0" * 32, "random"),
        ("lg_something", "lg_"),
        ("sk-with blank" + "x7Yq" * 8, "blanks"),
        ("sk-, " + "x7Yq" * 8, "blanks"),
        ("sk-é" + "x7Yq" * 8, "ASCII"),
        ("sk-" + secrets.token_hex(300), "512"),
    ],
)
def test_keys_that_could_be_guessed_are_not(text: str, why: str) -> None:
    assert why in (weakness(text) or "")
