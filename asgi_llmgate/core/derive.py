"""Derive one key per purpose from the one secret, so that no key serves two.

Source: RFC 5869 (HKDF) with SHA-256.
"""

from __future__ import annotations

import hmac
from enum import StrEnum

__all__ = ["MIN_SECRET_BYTES", "Label", "derive", "hkdf_sha256", "secret_id"]

MIN_SECRET_BYTES = 32
_HASH_BYTES = 32


class Label(StrEnum):
    """What a derived key is for. A label is never given a second meaning."""

    GATEWAY_KEYS = "gateway-keys"
    """Digests by which gateway keys are looked up."""
    BYOK_TENANT = "byok-tenant"
    """Tenants of callers who are known by a provider key only."""
    CACHE = "cache"
    """Keys and codes of cache entries."""
    PROVIDER_KEYS = "provider-keys"
    """Envelopes around the operator's provider keys."""
    WEBHOOKS = "webhooks"
    """Signatures of what is posted."""
    KEY_NAME = "secret-id"
    """The name under which records say which secret they depend on."""


def derive(secret: bytes, label: Label, length: int = 32) -> bytes:
    """Return the key of `length` bytes that `secret` gives for `label`.

    Raises:
        ValueError: the secret is shorter than 32 bytes.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"a secret needs at least {MIN_SECRET_BYTES} bytes")
    return hkdf_sha256(secret, salt=b"", info=b"asgi_llmgate/" + label.encode(), length=length)


def secret_id(secret: bytes) -> str:
    """Return 16 hex digits by which a secret is told from others. No way back."""
    return derive(secret, Label.KEY_NAME, 8).hex()


def hkdf_sha256(ikm: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes (at most 8160) of HKDF-SHA256: extract, then expand."""
    if not 0 < length <= 255 * _HASH_BYTES:
        raise ValueError("HKDF-SHA256 gives 1 to 8160 bytes")
    pseudorandom = hmac.digest(salt or bytes(_HASH_BYTES), ikm, "sha256")
    block, output = b"", b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes((counter,)), "sha256")
        output += block
    return output[:length]
