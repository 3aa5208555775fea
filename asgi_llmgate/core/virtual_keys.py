"""The form of virtual keys: `lg_<kid>_<secret>_<checksum>`.

    lg_  4f9k2m7q1z  _  43 characters, 256 bits  _  6 characters
         │              │                           └ CRC-32 of all before it
         │              └ random; kept nowhere
         └ random, the key's id; safe to show

The checksum refuses what was made up or cut off without a look-up, and lets scanners that search
code for leaked keys be certain. It is no secret: what proves a key is its digest.

Keys made elsewhere (`sk-helicone-…`, LiteLLM's `sk-…`) have no id in them, so they are looked up
by their digest. They must have been random: a digest of a guessable key is a guess away.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Sequence

__all__ = [
    "KID_BYTES",
    "MIN_IMPORTED_BITS",
    "SECRET_BYTES",
    "hint_of",
    "kid_in",
    "mint",
    "new_kid",
    "weakness",
]

KID_BYTES = 8
SECRET_BYTES = 32
_KID_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 10, 43, 6
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# No character beyond these, so that a double click selects the whole of it.
_FORM = re.compile(
    rf"(lg_([0-9a-z]{{{_KID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}})"
    rf"_([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
)

# LiteLLM's keys have 128 bits, Helicone's 145; below 2^112 NIST SP 800-131A calls it weak.
MIN_IMPORTED_BITS = 112
# Of 32 random hex digits, fewer than 8 different ones are seen once in a million times.
_MIN_DISTINCT = 8
_KNOWN_PREFIX = re.compile(r"(?:sk-)?(?:helicone-|litellm-|llm-)?(?:proxy-|eu-|proj-|or-|v1-)*")
_CLASSES = ((re.compile("[a-z]"), 26), (re.compile("[A-Z]"), 26), (re.compile("[0-9]"), 10))
_HEX = re.compile("[0-9a-f]*|[0-9A-F]*")


def new_kid(entropy: bytes) -> str:
    """Return a key id made of 8 random bytes."""
    _check_length(entropy, KID_BYTES)
    return _written(int.from_bytes(entropy) % 36**_KID_LENGTH, _BASE36, _KID_LENGTH)


def mint(kid: str, entropy: bytes) -> str:
    """Return a token for the key `kid` made of 32 random bytes. Whoever has it has the key."""
    _check_length(entropy, SECRET_BYTES)
    body = f"lg_{kid}_{_written(int.from_bytes(entropy), _BASE62, _SECRET_LENGTH)}"
    token = f"{body}_{_checksum(body)}"
    if kid_in(token) != kid:
        raise ValueError(f"{kid!r} is not the id of a key")
    return token


def kid_in(token: str) -> str | None:
    """Return the id in `token`, or None if it is no token: wrong form or wrong checksum."""
    match = _FORM.fullmatch(token)
    if match is None or _checksum(match[1]) != match[3]:
        return None
    return match[2]


def hint_of(token: str) -> str:
    """Return what may be shown of a token to tell it from others: four characters of 43."""
    return token[-_CHECKSUM_LENGTH - 5 : -_CHECKSUM_LENGTH - 1] if kid_in(token) else token[-4:]


def weakness(token: str) -> str | None:
    """Say why `token`, which was made elsewhere, is not fit to be a key; None if it is."""
    if token.startswith("lg_"):
        return "it begins with lg_, which keys of this gateway do; create one instead"
    if not token.isascii() or not token.isprintable() or set(token) & set(" ,"):
        return "a key is visible ASCII without blanks and commas"
    if len(token) > 512:
        return "it is longer than 512 characters"
    prefix = _KNOWN_PREFIX.match(token)
    random = token[prefix.end() if prefix else 0 :].replace("-", "").replace("_", "")
    bits = _most_bits(random)
    if bits < MIN_IMPORTED_BITS:
        return f"it has at most {bits:.0f} bits of randomness; {MIN_IMPORTED_BITS} are needed"
    if len(set(random)) < _MIN_DISTINCT or _is_regular(random):
        return "it does not look random"
    return None


def _most_bits(text: str) -> float:
    """Return how much randomness `text` can hold at most, by the characters it uses."""
    if _HEX.fullmatch(text):
        return 4.0 * len(text)
    classes = [size for pattern, size in _CLASSES if pattern.search(text)]
    if len(classes) < 2:
        return 0.0  # Words, or a number: a random key of one sort only is one in forty, at most.
    return len(text) * math.log2(sum(classes))


def _is_regular(text: str) -> bool:
    """Tell whether half of `text` repeats or counts on, or it is one piece again and again."""
    steps = sum(abs(ord(a) - ord(b)) <= 1 for a, b in itertools.pairwise(text))
    return steps * 2 > len(text) or text in (text + text)[1:-1]


def _checksum(body: str) -> str:
    return _written(zlib.crc32(body.encode()), _BASE62, _CHECKSUM_LENGTH)


def _written(number: int, digits: Sequence[str], length: int) -> str:
    """Return `number` in as many `digits`, padded on the left."""
    text = ""
    for _ in range(length):
        number, rest = divmod(number, len(digits))
        text = digits[rest] + text
    return text


def _check_length(entropy: bytes, length: int) -> None:
    if len(entropy) != length:
        raise ValueError(f"{length} random bytes are needed")
