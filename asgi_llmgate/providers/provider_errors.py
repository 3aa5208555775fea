"""Errors of providers, read into one shape and written in the caller's dialect.

Providers that claim one format differ most in their errors, so one reader knows all shapes:
OpenAI, Azure, Anthropic, Gemini (also wrapped in a list), Bedrock, Cohere, Mistral, xAI,
OpenRouter, Voyage. Statuses are kept: a client library decides by them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from asgi_llmgate.core.json import JSONError, loads

__all__ = [
    "ErrorType",
    "ProviderError",
    "anthropic_error",
    "decode_error",
    "gemini_error",
    "incomplete_stream",
    "openai_error",
    "read_error",
    "unreadable_stream",
]

ErrorType = Literal[
    "invalid_request",
    "context_overflow",
    "content_filter",
    "authentication",
    "billing",
    "permission",
    "not_found",
    "conflict",
    "too_large",
    "rate_limit",
    "quota",
    "timeout",
    "overloaded",
    "server",
]


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider refused, normalised.

    Args:
        status: HTTP status as sent; for errors inside a stream, the one that would have been.
        type: What happened, whatever the provider calls it. `context_overflow` (the prompt is too
            long for the model) and `quota` (no money left, so no retry helps) are told apart
            from `invalid_request` and `rate_limit`.
        message: The provider's words.
        code: The provider's own code, or OpenAI's where there is an equal.
        param: The field at fault, in the provider's words.
        retry_after_s: Seconds, from `retry-after-ms`, `retry-after` or Gemini's RetryInfo.
    """

    status: int
    type: ErrorType
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None


_BY_STATUS: Mapping[int, ErrorType] = {
    401: "authentication",
    402: "billing",
    403: "permission",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    429: "rate_limit",
    499: "timeout",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
# Words of OpenAI (and its imitators), Anthropic, Gemini, Bedrock, Cohere, Mistral, vLLM.
_OVERFLOW = re.compile(
    r"context[ _]length|context window|prompt is too long|input is too long|too many tokens"
    r"|input token count.*exceed|maximum number of tokens|exceeds? the maximum.*tokens",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(r"api key not valid|invalid.{0,9}api.?key|api key expired", re.IGNORECASE)
_CODES: Mapping[str, ErrorType] = {
    "context_length_exceeded": "context_overflow",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
    "insufficient_quota": "quota",
    "billing_error": "billing",
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limit",
    "rate_limit_exceeded": "rate_limit",
    "authentication_error": "authentication",
    "permission_error": "permission",
    "not_found_error": "not_found",
    "request_too_large": "too_large",
    "timeout_error": "timeout",
    "invalid_request_error": "invalid_request",
    "api_error": "server",
    "server_error": "server",
    "throttlingException": "rate_limit",
    "serviceUnavailableException": "overloaded",
    "modelStreamErrorException": "server",
    "internalServerException": "server",
    "validationException": "invalid_request",
    "RESOURCE_EXHAUSTED": "rate_limit",
    "UNAVAILABLE": "overloaded",
    "DEADLINE_EXCEEDED": "timeout",
    "INVALID_ARGUMENT": "invalid_request",
    "INTERNAL": "server",
}
# Inside a stream there is no status: what the type would have been sent with.
_STATUS_OF: Mapping[ErrorType, int] = {
    "invalid_request": 400,
    "context_overflow": 400,
    "content_filter": 400,
    "authentication": 401,
    "billing": 402,
    "permission": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "rate_limit": 429,
    "quota": 429,
    "timeout": 504,
    "overloaded": 503,
    "server": 500,
}


def decode_error(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> ProviderError:
    """Read a response with status >= 400. `headers` have names in lower case."""
    try:
        parsed = loads(body)
    except JSONError:
        parsed = {"message": body[:500].decode("utf-8", "replace").strip()}
    named = {name: value.decode("latin-1") for name, value in headers}
    kind = named.get(b"x-amzn-errortype", "").partition(":")[0] or None
    return read_error(parsed, status, retry_after_s=_retry_after(named), code=kind)


def read_error(
    parsed: Any, status: int | None, *, retry_after_s: float | None = None, code: str | None = None
) -> ProviderError:
    """Read the JSON of an error; `status` is None for one that came inside a stream."""
    if isinstance(parsed, list):  # Gemini wraps errors of JSON-array streams.
        parsed = parsed[0] if parsed else {}
    outer: Mapping[str, Any] = parsed if isinstance(parsed, Mapping) else {"message": str(parsed)}
    inner = outer.get("error")
    error: Mapping[str, Any] = inner if isinstance(inner, Mapping) else outer
    message = _message(error, outer)
    words = [
        word
        for word in (error.get("code"), error.get("status"), error.get("type"), code)
        if isinstance(word, str) and word
    ]
    number = error.get("code")
    if status is None and isinstance(number, int) and 400 <= number < 600:
        status = number
    kind = _type(status, words, message)
    if retry_after_s is None:
        retry_after_s = _retry_info(error.get("details"))
    param = error.get("param")
    own_code = error.get("code") if isinstance(error.get("code"), str) else None
    if kind == "context_overflow":
        own_code = "context_length_exceeded"
    return ProviderError(
        status=status if status is not None else _STATUS_OF[kind],
        type=kind,
        message=message,
        code=own_code or (words[0] if words else None),
        param=param if isinstance(param, str) else None,
        retry_after_s=retry_after_s,
    )


def incomplete_stream() -> ProviderError:
    """Return the error of a stream that ended before the provider said it was finished."""
    return ProviderError(
        status=502,
        type="server",
        message="The provider ended the stream before it was complete.",
        code="upstream_connect",
    )


def unreadable_stream() -> ProviderError:
    """Return the error of a stream whose events are not those of its format."""
    return ProviderError(
        status=502,
        type="server",
        message="The provider's stream cannot be read; it is not in the provider's own format.",
        code="upstream_unreadable",
    )


def openai_error(error: ProviderError) -> dict[str, Any]:
    """Return OpenAI's error body."""
    kind = {
        "authentication": "authentication_error",
        "permission": "permission_error",
        "rate_limit": "rate_limit_error",
        "quota": "insufficient_quota",
        "server": "server_error",
        "overloaded": "server_error",
        "timeout": "server_error",
    }.get(error.type, "invalid_request_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code or error.type,
        }
    }


def anthropic_error(error: ProviderError, call_id: str) -> dict[str, Any]:
    """Return Anthropic's error body; `call_id` is shown as its `request_id`."""
    kind = {
        "authentication": "authentication_error",
        "billing": "billing_error",
        "quota": "billing_error",
        "permission": "permission_error",
        "not_found": "not_found_error",
        "conflict": "conflict_error",
        "too_large": "request_too_large",
        "rate_limit": "rate_limit_error",
        "timeout": "timeout_error",
        "overloaded": "overloaded_error",
        "server": "api_error",
    }.get(error.type, "invalid_request_error")
    message = error.message
    # Claude Code compacts the conversation when it reads these words, and only then.
    if error.type == "context_overflow" and "prompt is too long" not in message.lower():
        message = f"prompt is too long: {message}"
    body: dict[str, Any] = {"type": kind, "message": message}
    if error.code:
        body["details"] = {"error_code": error.code}
    return {"type": "error", "error": body, "request_id": call_id}


def gemini_error(error: ProviderError) -> dict[str, Any]:
    """Return Gemini's error body, with RetryInfo where a retry time is known."""
    status = {
        "authentication": "UNAUTHENTICATED",
        "billing": "FAILED_PRECONDITION",
        "permission": "PERMISSION_DENIED",
        "not_found": "NOT_FOUND",
        "conflict": "ABORTED",
        "rate_limit": "RESOURCE_EXHAUSTED",
        "quota": "RESOURCE_EXHAUSTED",
        "timeout": "DEADLINE_EXCEEDED",
        "overloaded": "UNAVAILABLE",
        "server": "INTERNAL",
    }.get(error.type, "INVALID_ARGUMENT")
    body: dict[str, Any] = {"code": error.status, "message": error.message, "status": status}
    if error.retry_after_s is not None:
        body["details"] = [
            {
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": f"{error.retry_after_s:g}s",
            }
        ]
    return {"error": body}


def _message(error: Mapping[str, Any], outer: Mapping[str, Any]) -> str:
    metadata = error.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(metadata.get("raw"), str):
        return f"{error.get('message')}: {metadata['raw']}"  # OpenRouter hides the cause there.
    for value in (
        error.get("message"),
        outer.get("message"),
        outer.get("Message"),
        outer.get("detail"),
        outer.get("error"),
        outer.get("originalMessage"),
    ):
        if isinstance(value, str) and value:
            return value
        if value and not isinstance(value, str):
            return str(value)
    return "The provider answered with an error and no message."


def _type(status: int | None, words: Sequence[str], message: str) -> ErrorType:
    if (status is None or status in {400, 413, 422}) and _OVERFLOW.search(message):
        return "context_overflow"
    if status in {400, 401, 403} and _BAD_KEY.search(message):
        return "authentication"  # Gemini sends 400 for a bad key.
    told = next((_CODES[word] for word in words if word in _CODES), None)
    if told is not None and (status is None or told in {"quota", "content_filter"}):
        return told
    if status == 429 and "ModelNotReady" in "".join(words):
        return "overloaded"
    if status is None:
        return "server"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if told is not None and status == 400:
        return told
    return "server" if status >= 500 or status == 424 else "invalid_request"


def _retry_after(headers: Mapping[bytes, str]) -> float | None:
    try:
        if b"retry-after-ms" in headers:
            return max(0.0, float(headers[b"retry-after-ms"]) / 1000)
        if b"retry-after" in headers:
            return max(0.0, float(headers[b"retry-after"]))
    except ValueError:
        pass
    # A date is measured against the provider's own clock, which is the one that wrote it.
    if b"retry-after" in headers and b"date" in headers:
        try:
            until = parsedate_to_datetime(headers[b"retry-after"])
            return max(0.0, (until - parsedate_to_datetime(headers[b"date"])).total_seconds())
        except (TypeError, ValueError):
            return None
    return None


def _retry_info(details: Any) -> float | None:
    if not isinstance(details, list):
        return None
    for detail in details:
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                return float(delay[:-1])
            except ValueError:
                return None
    return None
