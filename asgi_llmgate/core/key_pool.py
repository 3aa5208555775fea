"""Which keys a call may use, and how one attempt is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asgi_llmgate.core.registry import Provider, ProviderKey
from asgi_llmgate.core.targets import Target
from asgi_llmgate.errors import AuthenticationError
from asgi_llmgate.types import CallerKey, Principal, PrincipalKind

__all__ = ["Chosen", "missing_key", "usable_keys"]


@dataclass(slots=True)
class Chosen:
    """How an attempt is made: decided by `FallbackMiddleware`, obeyed by dispatch.

    Args:
        key: The operator's key; None for the caller's, or for none at all.
        caller_key: A provider key of the caller's own.
        headers: Sent to this target only, beside those of the request. Names in lower case.
        override: Top-level body fields that are others for this target.
        timeout_ms: What is left of the time that the caller gave.
        answer_headers: Written by dispatch: the provider's headers as they came.
    """

    target: Target
    key: ProviderKey | None = None
    caller_key: CallerKey | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    override: Mapping[str, Any] | None = None
    timeout_ms: int | None = None
    answer_headers: Sequence[tuple[bytes, bytes]] = ()
    is_over: bool = False
    """The attempt has ended and is among `context.attempts`."""

    @property
    def key_id(self) -> str | None:
        return None if self.key is None else self.key.id


def usable_keys(
    provider: Provider, stored: Sequence[ProviderKey], principal: Principal | None
) -> Sequence[ProviderKey]:
    """Return the operator's keys that a call of `principal` may use.

    They are for verified principals only. Those kept for the principal's tenant go before those for
    everybody.

    Args:
        stored: Keys of the provider beside those of its row.
    """
    if principal is None or principal.kind is PrincipalKind.BYOK:
        return ()
    keys: Sequence[ProviderKey] = (*provider.keys, *stored) if stored else provider.keys
    if all(key.tenant is None for key in keys):
        return keys
    own = [key for key in keys if key.tenant == principal.tenant]
    return own or [key for key in keys if key.tenant is None]


def missing_key(
    provider: Provider, stored: Sequence[ProviderKey], principal: Principal | None
) -> AuthenticationError:
    """Return what to tell a caller for whose call there is no key."""
    is_known = principal is not None and principal.kind is not PrincipalKind.BYOK
    if (provider.keys or stored) and not is_known:
        return AuthenticationError(
            f"The gateway has a key for {provider.id!r}, but only for callers it knows. Send a "
            "gateway key, or a provider key of your own.",
            code="provider_key_missing",
        )
    return AuthenticationError(
        f"No key for the provider {provider.id!r}: send your own, or let the operator set "
        f"{provider.api_key_variable}.",
        code="provider_key_missing",
    )
