"""The admin API: a table of routes, each with the permission it needs.

A request is first asked who it is, then what it wants: strangers get 401 for every path, so they
learn nothing about which there are. A route without a permission stops the start (rule R4).

Answers are JSON; errors are `{"error": {"code", "message", "param"}}`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from asgi_llmgate._asgi.body import RequestBody
from asgi_llmgate._asgi.respond import error_headers, send_json
from asgi_llmgate.context import first_headers
from asgi_llmgate.control.errors import ControlError
from asgi_llmgate.core.credentials import StaticKeys, admin_token_digest, check_admin_token
from asgi_llmgate.core.permissions import Permission, permissions_of
from asgi_llmgate.errors import (
    AuthenticationError,
    BackendError,
    ClientDisconnectedError,
    ConfigurationError,
    ForbiddenError,
    GatewayError,
    InvalidRequestError,
    OverloadedError,
    UnknownRouteError,
)
from asgi_llmgate.middleware._keyring import Keyring
from asgi_llmgate.types import Principal

__all__ = ["API_PREFIX", "AdminApi", "AdminCall", "AdminRoute"]

API_PREFIX = "/llmgate/api/v1"

# A key with a hundred patterns in each list is 60 KB.
MAX_BODY_BYTES = 128 * 1024

STATIC_KEYS = frozenset({Permission.LOG_INGEST, Permission.CACHE_FEEDBACK})

_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class AdminCall:
    """A request that may be answered.

    Args:
        principal: The virtual key it came with; None is the admin token.
        permissions: What it may do.
        path: The parameters of the path.
        query: Those of the query, the last of each.
        body: As the route declares it, checked.
    """

    principal: Principal | None
    permissions: frozenset[Permission]
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One method of one path.

    Args:
        path: Below the prefix; `{name}` is one segment.
        permission: What the caller needs. None is a mistake that stops the start.
        request: What the body must be; None for no body.
        response: What `answer` returns.
        query: Names of query parameters, with what they mean.
    """

    method: str
    path: str
    permission: Permission | None
    answer: Callable[[AdminCall], Awaitable[BaseModel | dict[str, Any]]]
    summary: str
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    status: int = 200
    query: Mapping[str, str] | None = None


class AdminApi:
    """Answers what is below `/llmgate/api/v1`.

    Args:
        routes: The table.
        token: The admin token, which may do everything.
        keyring: Knows virtual keys, which may do what their scopes say.
        static_keys: Those of the settings, which may hand in records and judge their answers.

    Raises:
        ConfigurationError: a route declares no permission, or is there twice.
    """

    def __init__(
        self,
        routes: Sequence[AdminRoute],
        *,
        token: str,
        keyring: Keyring | None,
        static_keys: StaticKeys | None = None,
    ) -> None:
        self.routes = tuple(routes)
        self._token_digest = admin_token_digest(token)
        self._keyring = keyring
        self._static_keys = static_keys
        self._table: list[tuple[re.Pattern[str], dict[str, AdminRoute]]] = []
        by_path: dict[str, dict[str, AdminRoute]] = {}
        for route in self.routes:
            name = f"{route.method} {API_PREFIX}{route.path}"
            if not isinstance(route.permission, Permission):
                raise ConfigurationError(
                    f"The admin route {name} declares no permission.\n"
                    "HINT: name one of `core/permissions.py`, or everybody could call it."
                )
            methods = by_path.setdefault(route.path, {})
            if route.method in methods:
                raise ConfigurationError(f"{name} is there twice.\nHINT: remove one.")
            methods[route.method] = route
        for path, methods in by_path.items():
            pattern = _PARAMETER.sub(r"(?P<\1>[^/]+)", re.sub(r"[.]", r"\\.", path))
            self._table.append((re.compile(pattern), methods))

    def serves(self, path: str) -> bool:
        return path.startswith(API_PREFIX + "/") or path == API_PREFIX

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        try:
            status, answer = await self._answer(scope, receive, path)
        except ClientDisconnectedError:
            return
        except (GatewayError, ControlError, BackendError) as error:
            await _send_error(error, send)
            return
        await send_json(send, status, answer, [(b"cache-control", b"no-store")])

    async def _answer(self, scope: Scope, receive: Receive, path: str) -> tuple[int, Any]:
        headers = first_headers(scope)
        principal, permissions = await self._caller(headers)
        route, parameters = self._find(scope["method"], path[len(API_PREFIX) :])
        if route.permission not in permissions:
            raise ForbiddenError(f"This needs the permission {route.permission}.")
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        if unknown := set(query) - set(route.query or ()):
            raise InvalidRequestError(f"Unknown in the query: {', '.join(sorted(unknown))}.")
        body = None
        if route.request is not None:
            reader = RequestBody(receive, MAX_BODY_BYTES)
            given = await reader.json() if await reader.read() else {}
            body = _checked(route.request, given)
        answer = await route.answer(AdminCall(principal, permissions, parameters, query, body))
        if isinstance(answer, BaseModel):
            return route.status, answer.model_dump(mode="json")
        return route.status, answer

    async def _caller(
        self, headers: Mapping[bytes, bytes]
    ) -> tuple[Principal | None, frozenset[Permission]]:
        if check_admin_token(headers, self._token_digest):
            return None, frozenset(Permission)
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        if self._keyring is not None and scheme.lower() == b"bearer" and token.strip():
            await self._keyring.refresh()
            principal = await self._keyring.find(token.strip().decode("latin-1"))
            if principal is not None and principal.grants is not None:
                return principal, permissions_of(principal.grants.scopes)
        if self._static_keys is not None and scheme.lower() == b"bearer" and token.strip():
            principal = self._static_keys.find(token.strip().decode("latin-1"))
            if principal is not None:
                return principal, STATIC_KEYS
        raise AuthenticationError(
            "Send the admin token, or a virtual key, as `Authorization: Bearer …`. "
            "`llmgate admin-token` prints the former."
        )

    def _find(self, method: str, path: str) -> tuple[AdminRoute, dict[str, str]]:
        for pattern, methods in self._table:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            route = methods.get(method)
            if route is None:
                raise _MethodError(f"Use {' or '.join(sorted(methods))} here.", methods)
            return route, match.groupdict()
        raise UnknownRouteError(f"There is nothing here; see {API_PREFIX}/openapi.json.")


class _MethodError(InvalidRequestError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, methods: Mapping[str, AdminRoute]) -> None:
        super().__init__(message)
        self.allow = ", ".join(sorted(methods)).encode()


class _UnfitBodyError(InvalidRequestError):
    status = 422
    code = "invalid_request"


def _checked(model: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        # Names and reasons only: what was sent may be a secret in the wrong place.
        mistakes = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
        text = "; ".join(f"`{name[:80]}`: {message}" for name, message in mistakes[:5])
        raise _UnfitBodyError(f"{text}.", param=mistakes[0][0][:80]) from None


async def _send_error(error: GatewayError | ControlError | BackendError, send: Send) -> None:
    headers = [(b"cache-control", b"no-store"), *error_headers()]
    param = None
    if isinstance(error, BackendError):
        error = OverloadedError("The control store is unavailable. Try again later.")
    if isinstance(error, ControlError):
        code = {404: "not_found", 409: "conflict"}.get(error.status, "invalid_request")
    else:
        code, param = error.code, error.param
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if isinstance(error, _MethodError):
            headers.append((b"allow", error.allow))
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(int(error.retry_after_s)).encode()))
    content = {"error": {"code": code, "message": str(error), "param": param}}
    await send_json(send, error.status, content, headers)
