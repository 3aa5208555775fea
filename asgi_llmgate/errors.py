"""Everything this package raises.

GatewayError                     the client may read it; has an HTTP status and a code
├── InvalidRequestError          400  invalid_json, missing_model, invalid_header …
│   ├── UnknownRouteError        404  unknown_route
│   ├── UnknownProviderError     400  unknown_provider
│   ├── TranslationError         400  translation_unavailable
│   └── BodyTooLargeError        413  body_too_large
├── AuthenticationError          401  invalid_key, key_expired, key_revoked, provider_key_missing
├── ForbiddenError               403  forbidden, policy_violation
├── LimitExceededError           429  rate_limited, budget_exceeded
├── OverloadedError              503  overloaded
├── NotCachedError               504  not_cached
└── UpstreamError                502  upstream_connect, upstream_auth
    ├── UpstreamConnectError     502  upstream_connect
    └── UpstreamTimeoutError     504  upstream_timeout
UpstreamBrokenError              the provider broke off inside a body; ends in an error event
ConfigurationError               a wiring mistake; shown to the developer only
BackendError                     a store failed; callers degrade, clients never see it
ClientDisconnectedError          nobody is left to answer; never leaves the package
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "BackendError",
    "BodyTooLargeError",
    "ClientDisconnectedError",
    "ConfigurationError",
    "ForbiddenError",
    "GatewayError",
    "InvalidRequestError",
    "LimitExceededError",
    "NotCachedError",
    "OverloadedError",
    "TranslationError",
    "UnknownProviderError",
    "UnknownRouteError",
    "UpstreamBrokenError",
    "UpstreamConnectError",
    "UpstreamError",
    "UpstreamTimeoutError",
]


class GatewayError(Exception):
    """A failure the client may read. The message is for the client: no secret, no host of ours.

    Args:
        message: What is wrong and, where there is one, the remedy.
        code: One of the codes of the public contract; defaults to the class's own.
        param: The body field or header that is wrong, as the client wrote it.
        retry_after_s: Seconds after which a retry makes sense; None sends no `Retry-After`.
        should_retry: Sent as `x-should-retry`; None sends nothing.
        headers: Further headers of the answer, names in lower case.
    """

    status: int = 500
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.headers = headers


class InvalidRequestError(GatewayError):
    status = 400
    code = "invalid_request"


class UnknownRouteError(InvalidRequestError):
    status = 404
    code = "unknown_route"


class UnknownProviderError(InvalidRequestError):
    code = "unknown_provider"


class TranslationError(InvalidRequestError):
    code = "translation_unavailable"


class BodyTooLargeError(InvalidRequestError):
    status = 413
    code = "body_too_large"


class AuthenticationError(GatewayError):
    status = 401
    code = "invalid_key"


class ForbiddenError(GatewayError):
    status = 403
    code = "forbidden"


class LimitExceededError(GatewayError):
    status = 429
    code = "rate_limited"


class OverloadedError(GatewayError):
    status = 503
    code = "overloaded"


class NotCachedError(GatewayError):
    """`only-if-cached` was asked for, and nothing is stored. Source: RFC 9111, §5.2.1.7."""

    status = 504
    code = "not_cached"


class UpstreamError(GatewayError):
    status = 502
    code = "upstream_connect"


class UpstreamConnectError(UpstreamError):
    """No connection, or it ended before the response head arrived."""


class UpstreamTimeoutError(UpstreamError):
    status = 504
    code = "upstream_timeout"


class UpstreamBrokenError(Exception):
    """The provider's body ended before it was complete. Bytes may have been relayed."""


class ConfigurationError(Exception):
    """The stack is wired wrongly. The message ends with a `HINT:` line."""


class BackendError(Exception):
    """A store could not answer. Middlewares degrade; they do not re-raise it."""


class ClientDisconnectedError(Exception):
    """The client left before its answer was complete."""
