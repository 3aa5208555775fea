"""A user id that somebody signed who has the signing key: `<id>;ts=<time>;sig=<signature>`.

`id` is percent-encoded, `ts` are seconds since the epoch, `sig` is the hexadecimal HMAC-SHA256 of
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

__all__ = ["FRESH_S", "MIN_SIGNING_KEY_BYTES", "SIGNED_USER", "SignedUser", "read", "sign_user"]

SIGNED_USER = "LLMGate-User"
FRESH_S = 300
MIN_SIGNING_KEY_BYTES = 32
MAX_ID_CHARS = 256

_FORM = re.compile(
    rb"(?P<id>[A-Za-z0-9._~%@+:-]{1,1024});ts=(?P<ts>[0-9]{1,12})"
    rb"(?:;nonce=(?P<nonce>[A-Za-z0-9_-]{8,64}))?;sig=(?P<sig>[0-9a-fA-F]{64})"
)
# What an id may hold as it is: nothing that separates, nothing that a second reader decodes.
_PLAIN = "@+:"


class SignedUser(NamedTuple):
    user_id: str
    signed_at_s: int
    nonce: str | None


def sign_user(user_id: str, key: str | bytes | Secret, *, now_s: float, nonce: str = "") -> str:
    """Return the value of `LLMGate-User` for `user_id`.

    Args:
        key: At least 32 bytes, the one of the gateway's settings.
        now_s: Seconds since the epoch.
        nonce: 8 to 64 of `A-Z a-z 0-9 _ -`: makes the value good for one call.

    Raises:
        ValueError: the id or the key is unfit.
    """
    if not 0 < len(user_id) <= MAX_ID_CHARS:
        raise ValueError(f"a user id has 1 to {MAX_ID_CHARS} characters")
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
        raise InvalidRequestError(
            f"{SIGNED_USER} is malformed: expected <id>;ts=<seconds>;sig=<signature>. A user id "
            "that nobody signed goes into LLMGate-User-Id.",
            code="invalid_header",
            param=SIGNED_USER,
        )
    nonce = match["nonce"] or b""
    expected = _signature(key, match["id"], match["ts"], nonce)
    is_right = hmac.compare_digest(expected.encode(), match["sig"].lower())
    user_id = unquote(match["id"].decode())
    if not is_right or not 0 < len(user_id) <= MAX_ID_CHARS:
        raise _refused("is wrong: it was not made with the signing key of this gateway")
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


def _refused(why: str) -> AuthenticationError:
    return AuthenticationError(f"The signature in {SIGNED_USER} {why}.", param=SIGNED_USER)
