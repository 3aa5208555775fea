"""Logins of host applications, ready to be given as `authenticate=`.

    LLMGate(authenticate=jwt(secret=..., audience="shop"))
    LLMGate(authenticate=[django_session(), signed_header(KEY)])

Each returns an `Authenticate`: it answers with a `Principal`, or with None if the request has no
such login, and raises `AuthenticationError` if it has one that is wrong. Nothing is imported or
fetched before the first call that needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from asgi_llmgate.acting import HostRequestMiddleware, acting_as
from asgi_llmgate.core.signed_user import SIGNED_USER, Nonces, key_bytes, read, sign_user
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.jwt_login import jwt
from asgi_llmgate.protocols import Authenticate
from asgi_llmgate.types import Principal, PrincipalKind, Secret

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

__all__ = [
    "HostRequestMiddleware",
    "acting_as",
    "django_session",
    "jwt",
    "sign_user_header",
    "signed_header",
    "starlette_user",
]


def starlette_user(
    *,
    tenant: str = "app",
    user_id: Callable[[Any], str] | None = None,
    from_cookie: bool | None = None,
) -> Authenticate:
    """Take the user whom Starlette's `AuthenticationMiddleware` found.

    Args:
        tenant: Of all users of this application.
        user_id: Returns the id of a user; defaults to `identity`, else `display_name`.
        from_cookie: Whether the login comes from a cookie, so that pages of other sites are
            refused. None takes it for one if the request has any cookie.
    """

    def login(request: HTTPConnection, /) -> Principal | None:
        user = request.scope.get("user")
        if user is None or not user.is_authenticated:
            return None
        name = user_id(user) if user_id is not None else _identity(user)
        by_cookie = "cookie" in request.headers if from_cookie is None else from_cookie
        return _person(tenant, name, from_cookie=by_cookie)

    return login


def django_session(
    *, tenant: str = "app", user_id: Callable[[Any], str] = lambda user: str(user.pk)
) -> Authenticate:
    """Take the user who is logged in to Django, by the session cookie.

    Asks the session store and the user table, in a thread, on each call: a logout counts at once.
    Needs no Django middleware, for the gateway is mounted beside them.

    Args:
        tenant: Of all users of this application.
        user_id: Returns the id of a user; must not query the database asynchronously.
    """

    async def login(request: HTTPConnection, /) -> Principal | None:
        from asgiref.sync import sync_to_async
        from django.conf import settings

        cookie = request.cookies.get(settings.SESSION_COOKIE_NAME)
        if not cookie:
            return None
        # Not in the one thread of all sync views: calls would wait for them, and a view that
        # waits for a call would wait for ever.
        look = sync_to_async(_django_user, thread_sensitive=False)
        name = await look(cookie, user_id)
        return None if name is None else _person(tenant, name, from_cookie=True)

    return login


def signed_header(
    key: str | bytes | Secret,
    *,
    tenant: str = "app",
    header: str = SIGNED_USER,
    clock: Callable[[], float] = time.time,
) -> Authenticate:
    """Take the user whom a server of one's own names in `LLMGate-User`, signed with `key`.

    A signature with a nonce counts for one request, as far as this process knows.

    Raises:
        ConfigurationError: the key is too short.
    """
    try:
        raw = key_bytes(key)
    except ValueError as error:
        raise ConfigurationError(
            f"signed_header: {error}.\nHINT: make one with `openssl rand -hex 32`."
        ) from None
    nonces = Nonces()

    def login(request: HTTPConnection, /) -> Principal | None:
        value = request.headers.get(header)
        if value is None:
            return None
        # One request may be asked about several times: by each call that the host's own code
        # makes while it answers. Its nonce is taken once.
        proven = request.scope.setdefault("llmgate.proven", {})
        if nonces not in proven:
            now_s = clock()
            signed = read(value.encode("latin-1"), raw, now_s=now_s)
            nonces.use(signed.nonce, now_s)
            proven[nonces] = _person(tenant, signed.user_id, from_cookie=False)
        principal: Principal = proven[nonces]
        return principal

    return login


def sign_user_header(user_id: str, key: str | bytes | Secret, *, nonce: str = "") -> dict[str, str]:
    """Return the header that proves to a gateway with the same key who the user is.

    Good for five minutes, so make one per call: `extra_headers=sign_user_header(user, KEY)`.

    Args:
        nonce: 8 to 64 of `A-Z a-z 0-9 _ -`: makes the header good for one call.

    Raises:
        ValueError: the id or the key is unfit.
    """
    return {SIGNED_USER: sign_user(user_id, key, now_s=time.time(), nonce=nonce)}


def _person(tenant: str, name: str, *, from_cookie: bool) -> Principal:
    return Principal(tenant, PrincipalKind.HOST, name, user_id=name, from_cookie=from_cookie)


def _identity(user: Any) -> str:
    try:
        return str(user.identity)
    except NotImplementedError:  # Starlette's own `SimpleUser` has only a name.
        return str(user.display_name)


def _django_user(cookie: str, user_id: Callable[[Any], str]) -> str | None:
    """Return the id of the user of a session, as `django.contrib.auth` decides it."""
    from django.conf import settings
    from django.contrib.auth import get_user
    from django.db import close_old_connections
    from django.http import HttpRequest

    # Django does this at both ends of a request of its own.
    close_old_connections()
    try:
        request = HttpRequest()
        request.session = import_module(settings.SESSION_ENGINE).SessionStore(cookie)
        user = get_user(request)
        return user_id(user) if user.is_authenticated else None
    finally:
        close_old_connections()
