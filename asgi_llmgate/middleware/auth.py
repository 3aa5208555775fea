"""Say whose call it is. The rule, cell by cell, is the table in docs/auth.md."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.context import ACTING, GatewayContext
from asgi_llmgate.core.credentials import (
    Credentials,
    StaticKeys,
    byok_tenant,
    find_credentials,
    has_gateway_prefix,
    home_of,
    looks_like_jwt,
)
from asgi_llmgate.core.derive import Label, derive
from asgi_llmgate.core.routes import find_route
from asgi_llmgate.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    OverloadedError,
)
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware._grants import TargetsOf, check_grants
from asgi_llmgate.middleware._keyring import Keyring, unavailable
from asgi_llmgate.middleware._login import HostLogin
from asgi_llmgate.protocols import Authenticate, KeyStore
from asgi_llmgate.types import CallerKey, Dialect, Principal, PrincipalKind, Route, Secret

__all__ = ["AuthMiddleware"]

_USUAL_HEADER = {
    Dialect.OPENAI: "Authorization: Bearer …",
    Dialect.ANTHROPIC: "x-api-key",
    Dialect.GEMINI: "x-goog-api-key",
    Dialect.AZURE: "api-key",
    Dialect.BEDROCK: "Authorization: Bearer …",
}


class AuthMiddleware(GatewayMiddleware):
    """Set `context.principal` and `context.caller_key`, or answer 400, 401 or 403.

    Alone: guards the LLM calls of an app that has no keys of its own. Stacked: gives policy,
    cache, limits and log the tenant they work for, and dispatch the caller's own provider key.

    In pass-through a call without any key has no principal. It can share nothing with anybody,
    so caches and limits pass it by, and dispatch lets it go only to providers that need no key.

    Args:
        app: The application inside.
        keys: Gateway keys by name; the tenant is the name.
        authenticate: The host application's own login, or several: the first that returns a
            principal counts. Called with a connection from which keys of provider APIs may be
            hidden, to see whether the login needs them. A sync one must not block.
        mode: `required` refuses callers without a gateway key or login; `passthrough` takes
            them by their provider key; `auto` is `required` if there are keys or a login.
        secret: At least 32 bytes, from which the keys for digests derive. The same on all
            machines, else a byok caller has another tenant on each. None makes one, for this
            process only.
        allowed_origins: Other sites whose pages may use a login that came with a cookie:
            `https://app.example.com`.
        store: Where virtual keys are kept. Yours to close. `mode="auto"` is `required` as soon as
            there is one.
        previous_secrets: What `secret` was before, while keys still depend on it.
        targets: Where a call goes, told before it goes there: what keys that are restricted to
            some models or providers are held to. None takes the model of the request by its name,
            and refuses keys that are restricted to some providers.
        login_headers: Headers in which the login arrives where `authenticate` cannot be seen to
            read them, because some part of the host did before. They never hold a provider key.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.

    Raises:
        ConfigurationError: a key, the secret or an origin is unfit.
    """

    must_be_inside = ("LoggingMiddleware",)

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Mapping[str, str | Secret] | None = None,
        authenticate: Authenticate | Sequence[Authenticate] | None = None,
        mode: Literal["auto", "required", "passthrough"] = "auto",
        secret: bytes | None = None,
        allowed_origins: Collection[str] = (),
        store: KeyStore | None = None,
        previous_secrets: Sequence[bytes] = (),
        targets: TargetsOf | None = None,
        login_headers: Collection[str] = (),
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        secret = os.urandom(32) if secret is None else secret
        try:
            self._keys = StaticKeys(keys or {}, secret)
            self._byok_key = derive(secret, Label.BYOK_TENANT)
            secrets = (secret, *previous_secrets)
            self.keyring = Keyring(store, secrets) if store is not None else None
        except ValueError as error:
            raise ConfigurationError(
                f"AuthMiddleware: {error}.\nHINT: see `keys=` and `secret=` in docs/auth.md."
            ) from None
        logins = authenticate if isinstance(authenticate, Sequence) else [authenticate]
        logins = [login for login in logins if login is not None]
        self._login = HostLogin(logins, allowed_origins) if logins else None
        self._mode = mode
        self._has_ways_in = bool(self._keys or logins)
        self._targets = targets
        self._login_headers = frozenset(name.lower().encode() for name in login_headers)

    @property
    def is_required(self) -> bool:
        """Whether callers need a gateway key or login, as far as is known by now."""
        if self._mode != "auto":
            return self._mode == "required"
        return self._has_ways_in or (self.keyring is not None and self.keyring.has_keys)

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        is_blind = False
        if self.keyring is not None:
            try:
                await self.keyring.refresh()
            except OverloadedError:
                is_blind = True  # Static keys and logins need no store.
        found = find_credentials(
            context.headers,
            scope.get("query_string", b""),
            context.route.dialect,
            ignored=self._login_headers,
        )
        principal, context.caller_key = await self._identify(context, scope, found, is_blind)
        context.principal = principal
        if principal is not None and principal.grants is not None:
            await check_grants(principal.grants, context, self._targets)
            receive = context.body.replay(receive)
        await self.app(scope, receive, send)

    async def _identify(
        self, context: GatewayContext, scope: Scope, found: Credentials, is_blind: bool
    ) -> tuple[Principal | None, CallerKey | None]:
        """Return who calls, and with which provider key of his own.

        Args:
            is_blind: Nobody knows which virtual keys there are.
        """
        acting: Principal | None = scope.get(ACTING)
        if acting is not None:
            return acting, None
        is_ours = self._is_ours
        ours = [key for key in (*found.own, *found.others) if is_ours(key)]
        # The key of another dialect's header counts if there is none in the caller's.
        theirs = [key for key in found.own if key not in ours] or [
            key for key in found.others if key not in ours
        ]

        if is_blind and theirs:
            raise unavailable()  # One of them may be a key that was imported here.
        if found.explicit is not None:
            principal = await self._holder(found.explicit.reveal())
            if principal is not None:
                return principal, _only(theirs)
            if self.is_required or not found.is_helicone:
                header = "Helicone-Auth" if found.is_helicone else "LLMGate-Auth"
                raise AuthenticationError(f"The key in {header} is not a key of this gateway.")
            # Helicone's users need only change the host: their key for it means nothing here.
            context.warn("Helicone-Auth is not a key of this gateway and was ignored")

        if self._login is not None:
            principal, used_key = await self._login.find(scope, ours, found)
            if principal is not None:
                self._login.check_site(principal, context.headers)
                key = None if used_key else _only(theirs)
                return principal, _unless_login(key, principal, context)

        if (key := _only(ours)) is not None:
            principal = await self._holder(key.key.reveal())
            if principal is None:
                raise AuthenticationError("This key has the form of a gateway key, but is not one.")
            return principal, _only(theirs)

        if is_blind:
            raise unavailable()
        if self.is_required:
            raise AuthenticationError(self._remedy(context, sent_key=bool(theirs)))
        if (key := _only(theirs)) is None:
            return None, None
        provider = home_of(context.headers, context.route)
        tenant = byok_tenant(self._byok_key, provider, key.key.reveal())
        return Principal(tenant=tenant, kind=PrincipalKind.BYOK, id=tenant), key

    async def _holder(self, key: str) -> Principal | None:
        """Return whose gateway key it is, if it is one."""
        principal = self._keys.find(key)
        if principal is None and self.keyring is not None:
            principal = await self.keyring.find(key)
        return principal

    def _is_ours(self, key: CallerKey) -> bool:
        text = key.key.reveal()
        if has_gateway_prefix(text) or self._keys.find(text) is not None:
            return True
        return self.keyring is not None and self.keyring.may_be(text)

    def _remedy(self, context: GatewayContext, *, sent_key: bool) -> str:
        header = _USUAL_HEADER[context.route.dialect]
        login = " or log in to the application it belongs to" if self._login else ""
        if sent_key:
            return (
                "The key that was sent is not a key of this gateway. Send one in LLMGate-Auth "
                f"(a provider key of your own may stay where it is) or in {header}{login}."
            )
        return f"No key was sent. Send a key of this gateway in {header} or LLMGate-Auth{login}."

    def _route(self, scope: Scope) -> Route | None:
        """Match more paths than others do: a guard that overlooks one guards nothing.

        The app inside may be lenient about case, trailing or doubled slashes, and methods.
        """
        route = super()._route(scope)
        if route is not None:
            return route
        path: str = scope["path"]
        for loose in (_loosened(path), _loosened(path).lower()):
            route = self._own_paths.get(loose) or find_route("POST", loose)
            if route is not None:
                return route
        return None


def _only(keys: list[CallerKey]) -> CallerKey | None:
    """Return the first of `keys`, which must all be the same; None if there are none.

    Raises:
        InvalidRequestError: they differ, and which one counts would be a guess.
    """
    if not keys:
        return None
    if any(key.key != keys[0].key for key in keys[1:]):
        names = " and ".join(key.header.decode() for key in keys)
        raise InvalidRequestError(
            f"{names} hold different keys. Send one of them.", code="invalid_header"
        )
    return keys[0]


def _unless_login(
    key: CallerKey | None, principal: Principal, context: GatewayContext
) -> CallerKey | None:
    """Return `key` unless it looks like the token by which the host logged `principal` in.

    Some part of the host may have read it before this gateway ran, and left only the user behind.
    """
    if (
        key is not None
        and key.header == b"authorization"
        and not principal.from_cookie
        and looks_like_jwt(key.key.reveal())
    ):
        context.warn("Authorization held the token of a login and was not sent to the provider")
        return None
    return key


def _loosened(path: str) -> str:
    return "/" + "/".join(segment for segment in path.split("/") if segment)
