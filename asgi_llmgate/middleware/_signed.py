"""Look at the signed user of a request once, whoever asks first."""

from __future__ import annotations

import time
from collections.abc import Callable

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.signed_user import SIGNED_USER, Nonces, key_bytes, read
from asgi_llmgate.core.tags import SYNTHETIC
from asgi_llmgate.errors import ConfigurationError, InvalidRequestError
from asgi_llmgate.types import Secret

__all__ = ["SignedUsers", "SigningKey", "signed_users"]

_HEADER = SIGNED_USER.lower().encode()


class SignedUsers:
    """Verifies `LLMGate-User`, and takes each nonce once per process.

    Args:
        key: None refuses the header, for nobody can tell who made it.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: the key is too short.
    """

    def __init__(
        self, key: str | bytes | Secret | None, clock: Callable[[], float] = time.time
    ) -> None:
        try:
            self._key = None if key is None else key_bytes(key)
        except ValueError as error:
            raise ConfigurationError(
                f"The signing key is unfit: {error}.\nHINT: make one with `openssl rand -hex 32`."
            ) from None
        self._clock = clock
        self._nonces = Nonces()

    def find(self, context: GatewayContext) -> str | None:
        """Return the user whom the request proves by signature; None if it does not try.

        Raises:
            InvalidRequestError, AuthenticationError: it tries, and fails.
        """
        if context.signed_user is None:
            context.signed_user = self._look(context.headers.get(_HEADER), context) or ""
        return context.signed_user or None

    def _look(self, value: bytes | None, context: GatewayContext) -> str | None:
        if value is None:
            return None
        if self._key is None:
            if context.principal is not None and context.principal.user_id is not None:
                return None  # It was for `authenticate=`, or does not matter.
            raise InvalidRequestError(
                f"{SIGNED_USER} cannot be verified: this gateway has no signing key. The operator "
                "sets LLMGATE_AUTH__SIGNING_KEY.",
                code="invalid_header",
                param=SIGNED_USER,
            )
        now_s = self._clock()
        signed = read(value, self._key, now_s=now_s)
        self._nonces.use(signed.nonce, now_s)
        if signed.user_id.startswith(SYNTHETIC):
            raise InvalidRequestError(
                f"{SIGNED_USER}: names of users that begin with {SYNTHETIC} are reserved.",
                code="invalid_header",
                param=SIGNED_USER,
            )
        return signed.user_id


SigningKey = str | bytes | Secret | SignedUsers | None


def signed_users(key: SigningKey) -> SignedUsers:
    """Return what verifies with `key`; several middlewares may share one."""
    return key if isinstance(key, SignedUsers) else SignedUsers(key)
