"""Errors of providers: every shape is read, and every dialect's own SDK can read ours."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers.provider_errors import ErrorType, ProviderError, decode_error
from asgi_llmgate.providers.translate import INBOUND, Translation

RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}
SHAPES: list[tuple[str, int, Any, ErrorType, str, str | None]] = [
    (
        "OpenAI",
        429,
        {"error": {"message": "Slow", "type": "requests", "code": "rate_limit_exceeded"}},
        "rate_limit",
        "Slow",
        "rate_limit_exceeded",
    ),
    (
        "OpenAI without money",
        429,
        {"error": {"message": "Pay", "type": "insufficient_quota", "code": "insufficient_quota"}},
        "quota",
        "Pay",
        "insufficient_quota",
    ),
    (
        "OpenAI, too long",
        400,
        {"error": {"message": "This model's maximum context length is 9", "code": None}},
        "context_overflow",
        "This model's maximum context length is 9",
        "context_length_exceeded",
    ),
    (
        "OpenAI, no such model",
        404,
        {"error": {"message": "No", "code": "model_not_found", "param": None}},
        "not_found",
        "No",
        "model_not_found",
    ),
    (
        "Azure content filter",
        400,
        {"error": {"message": "Filtered", "code": "content_filter", "innererror": {}}},
        "content_filter",
        "Filtered",
        "content_filter",
    ),
    ("Azure", 401, {"error": {"code": "401", "message": "Key"}}, "authentication", "Key", "401"),
    (
        "Anthropic, too long",
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"},
        },
        "context_overflow",
        "prompt is too long: 9 > 8",
        "context_length_exceeded",
    ),
    (
        "Anthropic overloaded",
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}},
        "overloaded",
        "Busy",
        "overloaded_error",
    ),
    (
        "Anthropic billing",
        402,
        {"type": "error", "error": {"type": "billing_error", "message": "Pay"}},
        "billing",
        "Pay",
        "billing_error",
    ),
    (
        "Gemini",
        429,
        {
            "error": {
                "code": 429,
                "message": "Slow",
                "status": "RESOURCE_EXHAUSTED",
                "details": [RETRY_INFO],
            }
        },
        "rate_limit",
        "Slow",
        "RESOURCE_EXHAUSTED",
    ),
    (
        "Gemini bad key",
        400,
        {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}},
        "authentication",
        "API key not valid.",
        "INVALID_ARGUMENT",
    ),
    (
        "Gemini, too long",
        400,
        {
            "error": {
                "code": 400,
                "message": "The input token count (9) exceeds the maximum number of tokens (8).",
                "status": "INVALID_ARGUMENT",
            }
        },
        "context_overflow",
        "The input token count (9) exceeds the maximum number of tokens (8).",
        "context_length_exceeded",
    ),
    (
        "Gemini in a list",
        503,
        [{"error": {"code": 503, "message": "Busy", "status": "UNAVAILABLE"}}],
        "overloaded",
        "Busy",
        "UNAVAILABLE",
    ),
    (
        "Bedrock",
        400,
        {"message": "Input is too long"},
        "context_overflow",
        "Input is too long",
        "context_length_exceeded",
    ),
    ("Bedrock model error", 424, {"message": "Model"}, "server", "Model", None),
    ("Cohere", 422, {"id": "1", "message": "Bad"}, "invalid_request", "Bad", None),
    ("Mistral detail", 422, {"detail": [{"msg": "x"}]}, "invalid_request", "[{'msg': 'x'}]", None),
    (
        "Mistral",
        401,
        {"object": "error", "message": "Key", "type": "invalid_request_error", "code": None},
        "authentication",
        "Key",
        "invalid_request_error",
    ),
    ("xAI", 403, {"code": "no", "error": "Denied"}, "permission", "Denied", "no"),
    (
        "OpenRouter",
        429,
        {"error": {"code": 429, "message": "Provider returned error", "metadata": {"raw": "x"}}},
        "rate_limit",
        "Provider returned error: x",
        None,
    ),
    ("Voyage", 400, {"detail": "Bad"}, "invalid_request", "Bad", None),
    ("no JSON", 502, "<html>Bad gateway</html>", "server", "<html>Bad gateway</html>", None),
    ("nothing", 500, "", "server", "The provider answered with an error and no message.", None),
    ("timeout", 504, {"message": "Late"}, "timeout", "Late", None),
    ("too large", 413, {"message": "Big"}, "too_large", "Big", None),
]


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "code"),
    [shape[1:] for shape in SHAPES],
    ids=[shape[0] for shape in SHAPES],
)
def test_every_shape_is_read(
    status: int, body: Any, kind: ErrorType, message: str, code: str | None
) -> None:
    raw = body.encode() if isinstance(body, str) else dumps(body)
    error = decode_error(status, [], raw)

    assert (error.status, error.type, error.message, error.code) == (status, kind, message, code)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"20")], 20.0),
        ([(b"retry-after", b"0.5")], 0.5),
        ([(b"retry-after-ms", b"1500"), (b"retry-after", b"2")], 1.5),
        (
            [
                (b"retry-after", b"Mon, 23 Nov 2026 10:00:30 GMT"),
                (b"date", b"Mon, 23 Nov 2026 10:00:00 GMT"),
            ],
            30.0,
        ),
        ([(b"retry-after", b"Mon, 23 Nov 2026 10:00:30 GMT")], None),
        ([(b"retry-after", b"soon"), (b"date", b"today")], None),
        ([(b"retry-after", b"-3")], 0.0),
        ([], None),
    ],
    ids=["seconds", "fraction", "milliseconds", "date", "no clock", "nonsense", "past", "none"],
)
def test_retry_after_is_read_from_headers(
    headers: list[tuple[bytes, bytes]], seconds: float | None
) -> None:
    assert decode_error(429, headers, b"{}").retry_after_s == seconds


def test_retry_info_of_gemini_is_read_from_the_body() -> None:
    body = dumps({"error": {"code": 429, "message": "Slow", "details": [RETRY_INFO]}})

    assert decode_error(429, [], body).retry_after_s == 34.4
    assert decode_error(429, [(b"retry-after", b"1")], body).retry_after_s == 1.0


def test_bedrock_names_its_error_in_a_header() -> None:
    headers = [(b"x-amzn-errortype", b"ModelNotReadyException:http://internal/")]
    error = decode_error(429, headers, b'{"message":"Wait"}')

    assert (error.type, error.code) == ("overloaded", "ModelNotReadyException")


def test_context_overflow_is_worded_so_that_claude_code_compacts() -> None:
    error = ProviderError(400, "context_overflow", "Too long", "context_length_exceeded")
    body = INBOUND["anthropic-messages"].encode_error(error, "id-1")

    assert body["error"]["message"] == "prompt is too long: Too long"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["request_id"] == "id-1"


def test_gemini_callers_get_retry_info() -> None:
    error = ProviderError(429, "rate_limit", "Slow", retry_after_s=2.5)
    body = INBOUND["gemini"].encode_error(error, "id-1")

    assert body["error"]["code"] == 429
    assert body["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert body["error"]["details"][0]["retryDelay"] == "2.5s"


@pytest.mark.parametrize("source", INBOUND)
@pytest.mark.parametrize(
    ("status", "body"), [shape[1:3] for shape in SHAPES], ids=[shape[0] for shape in SHAPES]
)
def test_every_error_can_be_told_in_every_dialect(source: str, status: int, body: Any) -> None:
    target = "bedrock-converse" if source != "bedrock-converse" else "cohere-v2"
    translation = Translation(source, target, call_id="id-1", created=1)
    raw = body.encode() if isinstance(body, str) else dumps(body)
    error, told = translation.error(status, [], raw)

    assert error.status == status
    assert error.message in told["error"]["message"]
