"""Is this token the key that the store has, and what may it do?

Whatever the store answered, the same comparisons are made: an unknown id, a wrong secret and a
right one take the same work, so time tells nobody which ids there are.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asgi_llmgate.core.derive import Label, derive, secret_id
from asgi_llmgate.core.grants import intersection
from asgi_llmgate.types import KeySecret, Principal, PrincipalKind, StoredKey

__all__ = ["SLOTS", "KnownKey", "TokenDigests", "known_key"]

# A key has a secret, and for a while the one that it replaced.
SLOTS = 2
_NOTHING = KeySecret("", bytes(32), "")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A token that was found to be a key.

    Args:
        kids: The key and all above it: it falls with any of them.
        expires_at_s: The earliest of all that expire.
        is_revoked: It, or a key above it, was.
        matched: The stored secret it was.
    """

    principal: Principal
    kids: frozenset[str]
    expires_at_s: float | None
    is_revoked: bool
    matched: KeySecret


class TokenDigests:
    """Digests of tokens under the secret key in force and those before it.

    Args:
        secrets: The one in force first.

    Raises:
        ValueError: one is shorter than 32 bytes, or there is none.
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets:
            raise ValueError("a secret is needed")
        self._keys = [(secret_id(secret), derive(secret, Label.GATEWAY_KEYS)) for secret in secrets]
        self.current_id = self._keys[0][0]
        self._current = self._keys[0][1]

    def current(self, token: str) -> bytes:
        return hmac.digest(self._current, token.encode(), "sha256")

    def all(self, token: str) -> dict[str, bytes]:
        """Return the digests of `token` by the id of the secret."""
        text = token.encode()
        return {name: hmac.digest(key, text, "sha256") for name, key in self._keys}


def known_key(chain: Sequence[StoredKey], digests: Mapping[str, bytes]) -> KnownKey | None:
    """Return what a token is good for, or None if it is not the key that was found.

    Args:
        chain: What the store has under the token's handle, and its ancestors; may be empty.
        digests: Of the token, by the id of the secret.
    """
    slots = chain[0].secrets if chain else ()
    any_digest = next(iter(digests.values()))
    matched = None
    for place in range(SLOTS):
        slot = slots[place] if place < len(slots) else _NOTHING
        digest = digests.get(slot.secret_id)
        is_same = hmac.compare_digest(slot.digest, any_digest if digest is None else digest)
        if is_same and digest is not None and matched is None:
            matched = slot
    if matched is None:
        return None
    key = chain[0]
    grants = key.grants
    is_broken = len({link.tenant for link in chain}) > 1 or chain[-1].parent is not None
    for above in chain[1:]:
        grants = intersection(grants, above.grants)
        is_broken = is_broken or above.user_id not in (None, key.user_id)
    ends = [link.expires_at_s for link in chain] + [matched.expires_at_s]
    return KnownKey(
        principal=Principal(
            tenant=key.tenant,
            kind=PrincipalKind.KEY,
            id=key.kid,
            user_id=key.user_id,
            grants=grants,
            rates=tuple((link.kid, link.rates) for link in chain if link.rates),
        ),
        kids=frozenset(link.kid for link in chain),
        expires_at_s=min((end for end in ends if end is not None), default=None),
        # A chain that is not as it was issued grants nothing.
        is_revoked=is_broken or any(link.revoked_at_s is not None for link in chain),
        matched=matched,
    )
