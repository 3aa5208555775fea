"""Seal secrets that must be read again: the operator's provider keys.

AES-256-GCM with a random nonce of 96 bits. The key derives from the gateway's secret key, and what
the envelope is for, whose it is, its row and the row's version are authenticated along with it: an
envelope that was moved to another row, or an older one of the same row, does not open.

    format (1 byte) · id of the secret (8) · nonce (12) · ciphertext and tag

Source: NIST SP 800-38D. With random nonces a key is good for 2^32 envelopes; there are thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asgi_llmgate.core.derive import Label, derive, secret_id

__all__ = ["NONCE_BYTES", "EnvelopeError", "Envelopes", "Place"]

NONCE_BYTES = 12
_FORMAT = 1
_HEAD = 1 + 8


class EnvelopeError(Exception):
    """The envelope does not open: another secret, another place, or it was altered."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an envelope belongs. `version` grows whenever the row gets a new one."""

    purpose: str
    tenant: str
    row: str
    version: int

    def bytes(self) -> bytes:
        """Return the fields, each preceded by its length, so that none runs into the next."""
        fields = (self.purpose, self.tenant, self.row, str(self.version))
        encoded = [field.encode() for field in fields]
        return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)


class Envelopes:
    """Seals with the secret in force; opens what it or those before it sealed.

    Args:
        secrets: The one in force first. At least 32 bytes each.
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = {
            bytes.fromhex(secret_id(secret)): derive(secret, Label.PROVIDER_KEYS)
            for secret in secrets
        }
        self._current = next(iter(self._keys))

    def seal(self, text: str, place: Place, nonce: bytes) -> bytes:
        """Return the envelope of `text`. `nonce` is 12 random bytes, never used again."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
        head = bytes((_FORMAT,)) + self._current
        cipher = AESGCM(self._keys[self._current])
        return head + nonce + cipher.encrypt(nonce, text.encode(), head + place.bytes())

    def open(self, envelope: bytes, place: Place) -> str:
        """Return what was sealed.

        Raises:
            EnvelopeError: it does not open. Why is not told, for it cannot be known.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        head, nonce = envelope[:_HEAD], envelope[_HEAD : _HEAD + NONCE_BYTES]
        key = self._keys.get(head[1:])
        if key is None or head[:1] != bytes((_FORMAT,)) or len(nonce) != NONCE_BYTES:
            raise EnvelopeError("it was sealed with a secret key that is not there")
        sealed = envelope[_HEAD + NONCE_BYTES :]
        try:
            return AESGCM(key).decrypt(nonce, sealed, head + place.bytes()).decode()
        except InvalidTag:
            raise EnvelopeError("it belongs elsewhere or was altered") from None

    def is_current(self, envelope: bytes) -> bool:
        """Tell whether it was sealed with the secret in force."""
        return envelope[1:_HEAD] == self._current
