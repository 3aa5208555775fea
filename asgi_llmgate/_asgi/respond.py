"""Answer a request from inside the gateway, in the caller's dialect.

The only place that writes error bodies. Shapes are those of the providers' own APIs, so that
official SDKs raise the exceptions their users expect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from starlette.types import Send

from asgi_llmgate.core.eventstream import encode_message
from asgi_llmgate.core.hygiene import likely_dialect
from asgi_llmgate.core.ids import new_id
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.meter import StreamForm
from asgi_llmgate.errors import GatewayError
from asgi_llmgate.types import Dialect

if TYPE_CHECKING:  # The context needs the directives; this needs the context only by name.
    from asgi_llmgate.context import GatewayContext

__all__ = [
    "error_body",
    "error_event",
    "error_headers",
    "send_error",
    "send_json",
    "send_plain_error",
]

OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
GEMINI_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
BEDROCK_TYPES = {
    400: "ValidationException",
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
}


def error_body(
    dialect: Dialect, *, status: int, code: str, message: str, param: str | None, request_id: str
) -> dict[str, Any]:
    """Return the JSON body of an error as the provider of `dialect` would write it."""
    match dialect:
        case Dialect.OPENAI:
            fallback = "server_error" if status >= 500 else "invalid_request_error"
            kind = OPENAI_TYPES.get(status, fallback)
            return {"error": {"message": message, "type": kind, "param": param, "code": code}}
        case Dialect.AZURE:
            return {"error": {"code": code, "message": message, "param": param}}
        case Dialect.ANTHROPIC:
            error = {
                "type": ANTHROPIC_TYPES.get(status, "api_error"),
                "message": message,
                "details": {"error_code": code},
            }
            return {"type": "error", "error": error, "request_id": request_id}
        case Dialect.GEMINI:
            reason = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": code.upper(),
                "domain": "llmgate",
            }
            return {
                "error": {
                    "code": status,
                    "message": message,
                    "status": GEMINI_STATUSES.get(status, "INTERNAL"),
                    "details": [reason],
                }
            }
        case Dialect.BEDROCK:
            return {"message": message}


def error_event(
    dialect: Dialect,
    wire_format: str | None,
    *,
    code: str,
    message: str,
    request_id: str,
    form: StreamForm = "events",
) -> bytes:
    """Return the event that ends a broken stream, so that no SDK takes it for a whole one."""
    body = error_body(
        dialect, status=502, code=code, message=message, param=None, request_id=request_id
    )
    if form == "array":
        return dumps(body) + b"]"
    if form == "frames":
        # The one exception that both of Bedrock's streams have for this.
        kind = "modelStreamErrorException"
        headers = {":message-type": "exception", ":exception-type": kind}
        headers[":content-type"] = "application/json"
        return encode_message(headers, dumps({"message": message}))
    if wire_format == "openai-responses":
        # `error` is what the SDKs raise for; the rest is the event as the API defines it.
        event = {"type": "error", "code": code, "message": message, "param": None, **body}
        return b"event: error\ndata: " + dumps(event) + b"\n\n"
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + dumps(body) + b"\n\n"
    return b"data: " + dumps(body) + b"\n\n"


async def send_error(error: GatewayError, context: GatewayContext, send: Send) -> None:
    """Send `error` in the caller's dialect and note its code in `context`."""
    context.error_code = error.code
    await _send(error, context.route.dialect, context.id, send, [])


async def send_plain_error(
    error: GatewayError,
    path: str,
    header_names: Iterable[bytes],
    send: Send,
    *,
    closes: bool = False,
) -> None:
    """Send `error` for a request that has no context, in the dialect its head suggests.

    Args:
        header_names: In any case; a mapping of headers will do.
        closes: Ask the server to close the connection, for what follows on it is not a request
            or not to be trusted as one. HTTP/1 only.
    """
    dialect = likely_dialect(path, header_names)
    headers = [(b"connection", b"close")] if closes else []
    await _send(error, dialect, _new_id(), send, headers)


def error_headers(request_id: str | None = None) -> list[tuple[bytes, bytes]]:
    """Return the headers of every error that the gateway made; without an id, with a new one."""
    shown = request_id or _new_id()
    return [(b"llmgate-error", b"gateway"), (b"llmgate-id", shown.encode())]


def _new_id() -> str:
    return new_id(time.time_ns() // 1_000_000)


async def _send(
    error: GatewayError,
    dialect: Dialect,
    request_id: str,
    send: Send,
    headers: list[tuple[bytes, bytes]],
) -> None:
    body = error_body(
        dialect,
        status=error.status,
        code=error.code,
        message=str(error),
        param=error.param,
        request_id=request_id,
    )
    headers += error_headers(request_id)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if error.headers is not None:
        headers += error.headers
    if dialect is Dialect.BEDROCK:
        kind = BEDROCK_TYPES.get(error.status, "InternalServerException")
        headers.append((b"x-amzn-errortype", kind.encode()))
    await send_json(send, error.status, body, headers)


async def send_json(
    send: Send, status: int, body: Any, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send `body` as JSON, with `headers` beside content type and length."""
    content = dumps(body)
    start_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *(headers or ()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": start_headers})
    await send({"type": "http.response.body", "body": content})
