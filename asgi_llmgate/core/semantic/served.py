"""What was served to whom, as long as somebody may say that it was wrong.

A note is an entry of the cache like any other, signed under a key that follows from the call's id.
Ids that callers choose are unique within their tenant only, so that a key has several places.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from asgi_llmgate.core.cache_entry import Entry, decode_entry, encode_entry
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.json import JSONError, dumps, loads

__all__ = [
    "PLACES",
    "SERVED_S",
    "Served",
    "decode_served",
    "encode_served",
    "judged_key",
    "place_of",
    "served_key",
]

SERVED_S = 86_400.0
PLACES = 4

_FORM = "served"


class Served(NamedTuple):
    """One semantic hit.

    Args:
        tenant: Whose call it was; None for a caller that nobody knows.
        partition, scope: Where the phrasing is kept.
        alias: Id of the phrasing that led to the answer.
        answer: Key of the answer.
        features, similarity, look: As they were decided by.
    """

    tenant: str | None
    partition: str
    scope: str
    alias: str
    answer: CacheKey
    features: tuple[float, ...]
    similarity: float
    look: float


def served_key(secret: bytes, call_id: str) -> CacheKey:
    """Return under which key a note on a call is kept."""
    return _key(secret, "served", call_id)


def judged_key(secret: bytes, call_id: str, tenant: str | None) -> CacheKey:
    """Return the name of the lease that says that a call was judged."""
    return _key(secret, "judged", call_id, tenant or "")


def place_of(tenant: str | None) -> int:
    """Return the slot for notes of a tenant, below PLACES."""
    return hashlib.sha256((tenant or "").encode("utf-8", "replace")).digest()[0] % PLACES


def encode_served(secret: bytes, key: CacheKey, served: Served, *, now_us: int) -> bytes:
    entry = Entry(
        created_us=now_us,
        expires_us=now_us + int(SERVED_S * 1e6),
        generations={},
        form=_FORM,
        body=dumps(list(served)),
        wire_format=_FORM,
    )
    return encode_entry(secret, key, entry)


def decode_served(secret: bytes, key: CacheKey, value: bytes, *, now_us: int) -> Served | None:
    """Return the note; None if it is none, is of another call, or expired."""
    entry = decode_entry(secret, key, value)
    if entry is None or entry.form != _FORM or entry.expires_us <= now_us:
        return None
    try:
        tenant, partition, scope, alias, answer, features, similarity, look = loads(entry.body)
        numbers = tuple(float(value) for value in features)
    except (JSONError, TypeError, ValueError):
        return None
    return Served(
        tenant, partition, scope, alias, CacheKey(answer), numbers, float(similarity), float(look)
    )


def _key(secret: bytes, *parts: str) -> CacheKey:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return CacheKey(hmac.digest(secret, text, "sha256").hex())
