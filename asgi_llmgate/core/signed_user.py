"""A user id that somebody signed who has the signing key: `<id>;ts=<time>;sig=<signature>`.

`id` is percent-encoded UTF-8 of 1 to 256 characters, so in the header it takes 3072 bytes at most.
`ts` are seconds since the epoch, `sig` is the hexadecimal HMAC-SHA256 of
`llmgate-user/1\\n<id>\\n<ts>\\n<nonce>` as they stand in the header. It is good for five minutes
to both sides of `ts`, and in them as often as it is sent, unless it has a `nonce=`: that is taken
once.
"""

from __future__ import annotations

import hmac
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from asgi_llmgate.errors import AuthenticationError, InvalidRequestError
from asgi_llmgate.types import Secret

__all__ = [
    "FRESH_S",
    "MAX_ID_CHARS",
    "MAX_SHOWN_BYTES",
    "MIN_SIGNING_KEY_BYTES",
    "SIGNED_USER",
    "Nonces",
    "SignedUser",
    "read",
    "sign_user",
]

SIGNED_USER = "LLMGate-User"
FRESH_S = 300
MIN_SIGNING_KEY_BYTES = 32
MAX_ID_CHARS = 256
# A character is at most four bytes of UTF-8, each of which is three as `%F0`.
MAX_SHOWN_BYTES = 12 * MAX_ID_CHARS

_NONCE = "[A-Za-z0-9_-]{8,64}"
_FORM = re.compile(
    rb"(?P<id>[A-Za-z0-9._~%%@+:-]+);ts=(?P<ts>[0-9]{1,12})"
    rb"(?:;nonce=(?P<nonce>%b))?;sig=(?P<sig>[0-9a-fA-F]{64})" % _NONCE.encode()
)
# What an id may hold as it is: nothing that separates, nothing that a second reader decodes.
_PLAIN = "@+:"


# Twice the time in which a signature is good, at 150 signed calls a second.
MAX_NONCES = 100_000


class SignedUser(NamedTuple):
    user_id: str
    signed_at_s: int
    nonce: str | None


class Nonces:
    """Takes each nonce once, for as long as its signature is good."""

    def __init__(self) -> None:
        self._used_at_s: dict[str, float] = {}

    def use(self, nonce: str | None, now_s: float) -> None:
        """Take `nonce`; None is no nonce.

        Raises:
            AuthenticationError: it was used, or there are too many.
        """
        if nonce is None:
            return
        if nonce in self._used_at_s:
            raise AuthenticationError(
                f"The nonce in {SIGNED_USER} was used before. Sign each call anew.",
                param=SIGNED_USER,
            )
        if len(self._used_at_s) >= MAX_NONCES:
            old = now_s - 2 * FRESH_S
            self._used_at_s = {kept: at for kept, at in self._used_at_s.items() if at > old}
            if len(self._used_at_s) >= MAX_NONCES:
                raise AuthenticationError(
                    f"Too many calls with a nonce in {SIGNED_USER}; try again in a minute.",
                    param=SIGNED_USER,
                )
        self._used_at_s[nonce] = now_s


def sign_user(user_id: str, key: str | bytes | Secret, *, now_s: float, nonce: str = "") -> str:
    """Return the value of `LLMGate-User` for `user_id`.

    Args:
        key: At least 32 bytes, the one of the gateway's settings.
        now_s: Seconds since the epoch.
        nonce: 8 to 64 of `A-Z a-z 0-9 _ -`: makes the value good for one call.

    Raises:
        ValueError: the id, the key or the nonce is unfit.
    """
    if not 0 < len(user_id) <= MAX_ID_CHARS:
        raise ValueError(f"a user id has 1 to {MAX_ID_CHARS} characters")
    if nonce and not re.fullmatch(_NONCE, nonce):
        raise ValueError("a nonce has 8 to 64 of A-Z a-z 0-9 _ -")
    shown, moment = quote(user_id, safe=_PLAIN), str(int(now_s))
    once = f";nonce={nonce}" if nonce else ""
    signature = _signature(key_bytes(key), shown.encode(), moment.encode(), nonce.encode())
    return f"{shown};ts={moment}{once};sig={signature}"


def read(value: bytes, key: bytes, *, now_s: float) -> SignedUser:
    """Return whom `value` names, if the signature is right and fresh.

    Raises:
        InvalidRequestError: it has not the form.
        AuthenticationError: it is wrong or old.
    """
    match = _FORM.fullmatch(value.strip())
    if match is None:
        raise _malformed(
            "expected <id>;ts=<seconds>;sig=<signature>. A user id that nobody signed goes into "
            "LLMGate-User-Id"
        )
    if len(match["id"]) > MAX_SHOWN_BYTES:
        raise _malformed(f"the id has more than {MAX_ID_CHARS} characters")
    nonce = match["nonce"] or b""
    expected = _signature(key, match["id"], match["ts"], nonce)
    is_right = hmac.compare_digest(expected.encode(), match["sig"].lower())
    if not is_right:
        raise _refused("is wrong: it was not made with the signing key of this gateway")
    try:
        user_id = unquote(match["id"].decode(), errors="strict")
    except UnicodeDecodeError:
        # Replaced by one character for all of them, two users would become one.
        raise _malformed("the id is not percent-encoded UTF-8") from None
    if len(user_id) > MAX_ID_CHARS:
        raise _malformed(f"the id has more than {MAX_ID_CHARS} characters")
    signed_at_s = int(match["ts"])
    if abs(now_s - signed_at_s) > FRESH_S:
        raise _refused(f"is not of now: sign again, at most {FRESH_S} s before each call")
    return SignedUser(user_id, signed_at_s, nonce.decode() or None)


def key_bytes(key: str | bytes | Secret) -> bytes:
    """Return a signing key as bytes.

    Raises:
        ValueError: it is too short to be a secret.
    """
    text = key.reveal() if isinstance(key, Secret) else key
    raw = text.encode() if isinstance(text, str) else text
    if len(raw) < MIN_SIGNING_KEY_BYTES:
        raise ValueError(f"a signing key needs at least {MIN_SIGNING_KEY_BYTES} bytes")
    return raw


def _signature(key: bytes, shown: bytes, moment: bytes, nonce: bytes) -> str:
    message = b"\n".join((b"llmgate-user/1", shown, moment, nonce))
    return hmac.digest(key, message, "sha256").hex()


def _malformed(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{SIGNED_USER} is malformed: {why}.", code="invalid_header", param=SIGNED_USER
    )


def _refused(why: str) -> AuthenticationError:
    return AuthenticationError(f"The signature in {SIGNED_USER} {why}.", param=SIGNED_USER)
