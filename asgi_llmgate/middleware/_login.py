"""Ask the host application who is logged in."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Collection, Mapping, Sequence

from starlette.types import Scope

from asgi_llmgate.core.credentials import BYOK_PREFIX, Credentials, without_credentials
from asgi_llmgate.core.tags import SYNTHETIC
from asgi_llmgate.errors import (
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    GatewayError,
    OverloadedError,
)
from asgi_llmgate.protocols import Authenticate
from asgi_llmgate.types import CallerKey, Principal

__all__ = ["HostLogin"]

logger = logging.getLogger("asgi_llmgate.auth")


class HostLogin:
    """The host's `authenticate=`, made safe to ask.

    Args:
        logins: The first that returns a principal counts.
        allowed_origins: Other sites whose pages may use a login that came with a cookie.

    Raises:
        ConfigurationError: an origin is none.
    """

    def __init__(self, logins: Sequence[Authenticate], allowed_origins: Collection[str]) -> None:
        self._logins = logins
        self._origins = frozenset(_origin(origin) for origin in allowed_origins)

    async def find(
        self, scope: Scope, ours: list[CallerKey], found: Credentials
    ) -> tuple[Principal | None, bool]:
        """Ask the host; tell also whether its login was one of the keys in `found`.

        Args:
            ours: Those of `found` that can only be keys of this gateway.

        What authenticated here is never sent upstream. So the host is asked first without those
        keys: a login it still finds needs none of them. Keys of this gateway it never sees.
        """
        keys = (*found.own, *found.others)
        if not keys:
            return await self._ask(scope), False
        has_theirs = len(keys) > len(ours)
        try:
            principal = await self._ask(_hidden(scope, {key.header for key in keys}))
        except AuthenticationError:
            if not has_theirs:
                raise
            principal = None  # It may be about what was hidden, so the next answer counts.
        if principal is not None or not has_theirs:
            return principal, False
        return await self._ask(_hidden(scope, {key.header for key in ours})), True

    def check_site(self, principal: Principal, headers: Mapping[bytes, bytes]) -> None:
        """Refuse pages of other sites: a browser sends its cookies along with their requests.

        Raises:
            ForbiddenError: `principal` came from a cookie, and nothing proves that the page did
                from the same origin or an allowed one.
        """
        if not principal.from_cookie:
            return
        if headers.get(b"sec-fetch-site") in (b"same-origin", b"none"):
            return
        if headers.get(b"origin", b"").lower() in self._origins:
            return
        raise ForbiddenError(
            "A login by cookie works from pages of the same origin only. Send a gateway key, or "
            "have the operator allow this Origin."
        )

    async def ask(self, scope: Scope) -> Principal | None:
        """Return who is logged in, by all that a request of the host says."""
        return await self._ask(scope)

    async def _ask(self, scope: Scope) -> Principal | None:
        # Imported here, for it brings form parsers and takes longer to import than all of ours.
        from starlette.requests import HTTPConnection

        for login in self._logins:
            try:
                answer = login(HTTPConnection(scope))
                if answer is not None and not isinstance(answer, Principal):
                    answer = await answer if inspect.isawaitable(answer) else answer
            except GatewayError:
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, nobody is let in
                # Fails closed. The text of a foreign exception may hold the very key, so it is
                # neither shown nor logged; where it was raised is.
                where = "".join(traceback.format_tb(error.__traceback__))
                logger.error("authenticate= raised %s:\n%s", type(error).__qualname__, where)
                raise _unavailable() from None
            if answer is None:
                continue
            if not isinstance(answer, Principal) or answer.tenant.startswith(BYOK_PREFIX):
                logger.error("authenticate= returned no proper Principal: %s", type(answer))
                raise _unavailable()
            if answer.user_id is not None and answer.user_id.startswith(SYNTHETIC):
                # Else whoever may choose his own name could pass for a key that has no user.
                raise ForbiddenError(f"Names of users that begin with {SYNTHETIC} are reserved.")
            return answer
        return None


def _hidden(scope: Scope, names: Collection[bytes]) -> Scope:
    if not names:
        return scope
    headers, query = without_credentials(scope["headers"], scope.get("query_string", b""), names)
    return {**scope, "headers": headers, "query_string": query}


def _unavailable() -> OverloadedError:
    return OverloadedError("Authentication is unavailable. Try again later.", retry_after_s=1)


def _origin(text: str) -> bytes:
    origin = text.strip().lower().rstrip("/")
    if not origin.startswith(("https://", "http://")) or origin.count("/") != 2:
        raise ConfigurationError(
            f"AuthMiddleware: {text!r} is not an origin.\n"
            "HINT: write scheme, host and port as browsers do: https://app.example.com. A "
            "wildcard would let every site use the logins of its visitors."
        )
    return origin.encode()
