from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_llmgate.core.signed_user import (
    FRESH_S,
    MAX_ID_CHARS,
    MAX_SHOWN_BYTES,
    read,
    sign_user,
)
from asgi_llmgate.errors import AuthenticationError, InvalidRequestError

KEY = b"k" * 32
NOW = 1_790_000_000.0


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_ID_CHARS))
@example("\U0010ffff" * MAX_ID_CHARS)
def test_what_was_signed_is_read_again(user_id: str) -> None:
    value = sign_user(user_id, KEY, now_s=NOW)

    assert read(value.encode("ascii"), KEY, now_s=NOW).user_id == user_id


def signed(shown: str) -> bytes:
    """Sign as another program would, which knows no bounds."""
    message = f"llmgate-user/1\n{shown}\n{int(NOW)}\n".encode()
    return f"{shown};ts={int(NOW)};sig={hmac.new(KEY, message, 'sha256').hexdigest()}".encode()


def test_neither_side_takes_an_id_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="1 to 256 characters"):
        sign_user("a" * (MAX_ID_CHARS + 1), KEY, now_s=NOW)
    with pytest.raises(ValueError, match="1 to 256 characters"):
        sign_user("", KEY, now_s=NOW)
    for shown in ("a" * (MAX_ID_CHARS + 1), "a" * (MAX_SHOWN_BYTES + 1)):
        with pytest.raises(InvalidRequestError, match="more than 256 characters"):
            read(signed(shown), KEY, now_s=NOW)


@pytest.mark.parametrize("shown", ["%FF", "ada%C3", "%ED%A0%80"], ids=["byte", "cut", "surrogate"])
def test_bytes_that_are_no_text_are_nobodys_id(shown: str) -> None:
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        read(signed(shown), KEY, now_s=NOW)


@pytest.mark.parametrize("nonce", ["short", "with;semicolon", "x" * 65, "ends-in-newline\n"])
def test_a_nonce_that_would_not_be_read_is_not_signed(nonce: str) -> None:
    with pytest.raises(ValueError, match="8 to 64"):
        sign_user("ada", KEY, now_s=NOW, nonce=nonce)


def test_the_form_is_easy_to_make_in_any_language() -> None:
    signature = hmac.new(KEY, b"llmgate-user/1\nada%40example.com\n1790000000\n", hashlib.sha256)
    value = f"ada%40example.com;ts=1790000000;sig={signature.hexdigest()}"

    assert read(value.encode(), KEY, now_s=NOW).user_id == "ada@example.com"


@pytest.mark.parametrize("offset_s", [-FRESH_S, 0, FRESH_S])
def test_a_signature_of_now_counts(offset_s: int) -> None:
    value = sign_user("ada", KEY, now_s=NOW).encode()

    assert read(value, KEY, now_s=NOW + offset_s).user_id == "ada"


@pytest.mark.parametrize("offset_s", [-FRESH_S - 1, FRESH_S + 1])
def test_an_old_or_future_one_does_not(offset_s: int) -> None:
    value = sign_user("ada", KEY, now_s=NOW).encode()

    with pytest.raises(AuthenticationError, match="sign again"):
        read(value, KEY, now_s=NOW + offset_s)


@given(place=st.integers(0, 200), byte=st.integers(0x21, 0x7E))
def test_no_byte_can_be_changed(place: int, byte: int) -> None:
    value = bytearray(sign_user("ada", KEY, now_s=NOW, nonce="n" * 8).encode())
    place %= len(value)
    before, value[place] = value[place], byte
    signature_at = value.index(b";sig=") + 5 if b";sig=" in value else len(value)
    if before == byte or (place >= signature_at and chr(before).lower() == chr(byte).lower()):
        return  # Hexadecimal digits may be written in capitals.

    with pytest.raises((AuthenticationError, InvalidRequestError)):
        read(bytes(value), KEY, now_s=NOW)


def test_another_key_is_refused_and_a_short_one_is_none() -> None:
    with pytest.raises(AuthenticationError):
        read(sign_user("ada", KEY, now_s=NOW).encode(), b"x" * 32, now_s=NOW)
    with pytest.raises(ValueError, match="32 bytes"):
        sign_user("ada", "short", now_s=NOW)


def test_a_plain_id_is_told_where_it_belongs() -> None:
    with pytest.raises(InvalidRequestError, match="LLMGate-User-Id"):
        read(b"ada", KEY, now_s=NOW)
