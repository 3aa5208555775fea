"""A call record as the public JSON object: what `llmgate logs tail --json` prints.

Built from an allow-list of fields, so that nothing new of `CallRecord` is published by accident
(rule R14). Absent is null, never missing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from asgi_llmgate.core.json import dumps
from asgi_llmgate.types import AttemptRecord, CallRecord

__all__ = ["PUBLIC_FIELDS", "escape_controls", "json_line", "public_record", "rfc3339", "usd"]

PUBLIC_FIELDS = (
    "id",
    "tenant",
    "principal_kind",
    "started_at",
    "duration_ms",
    "first_byte_ms",
    "dialect",
    "route",
    "provider",
    "model_requested",
    "model",
    "status",
    "error_code",
    "is_stream",
    "complete",
    "client_left",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "usage_estimated",
    "cost_nanousd",
    "cost_usd",
    "cache",
    "attempts",
    "user_id",
    "user_source",
    "user_trust",
    "session_id",
    "session_path",
    "session_name",
    "properties",
    "request_bytes",
    "response_bytes",
    "request_body",
    "response_body",
    "request_truncated",
    "response_truncated",
    "cache_reason",
    "saved_nanousd",
    "saved_ms",
    "original_id",
    "trace_id",
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANO = 1_000_000_000

# What a terminal or an editor acts on instead of showing: C1 controls (0x9b starts an escape
# sequence as ESC [ does), line and paragraph separators, marks that reverse the reading order,
# the byte order mark. JSON itself escapes only what is below U+0020.
ACTIVE = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
_ACTIVE = re.compile(f"[{ACTIVE}]")
_CONTROL = re.compile(f"[\x00-\x1f{ACTIVE}\ud800-\udfff]")


def public_record(record: CallRecord) -> dict[str, Any]:
    """Return the JSON object of `record`; bodies are text, what is not UTF-8 in them U+FFFD."""
    derived = {
        "started_at": rfc3339(record.started_at_us),
        "cost_usd": usd(record.cost_nanousd),
        "attempts": [_attempt(attempt) for attempt in record.attempts],
        "properties": record.properties or {},
        "request_body": _text(record.request_body),
        "response_body": _text(record.response_body),
    }
    return {
        name: derived[name] if name in derived else getattr(record, name) for name in PUBLIC_FIELDS
    }


def json_line(record: CallRecord) -> bytes:
    """Return the public object as one line of JSON, newline included.

    Safe to print: every control character of the data is escaped, losslessly.
    """
    text = dumps(public_record(record)).decode()
    return _ACTIVE.sub(_json_escape, text).encode() + b"\n"


def escape_controls(text: str) -> str:
    r"""Return `text` for a terminal: controls are shown as `\x1b` or `\u202e`, not obeyed."""
    return _CONTROL.sub(_visible_escape, text)


def rfc3339(unix_us: int) -> str:
    """Return a time in microseconds since the epoch as `2026-01-31T12:00:00.123456Z`."""
    moment = EPOCH + timedelta(microseconds=unix_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def usd(nanousd: int | None) -> str | None:
    """Return nano-dollars as a decimal string without an exponent, exactly."""
    if nanousd is None:
        return None
    whole, fraction = divmod(abs(nanousd), NANO)
    text = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if nanousd < 0 else text


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "provider": attempt.provider,
        "key_id": attempt.key_id,
        "model": attempt.model,
        "status": attempt.status,
        "reason": attempt.reason,
        "duration_ms": attempt.duration_ms,
    }


def _text(body: bytes | None) -> str | None:
    return None if body is None else body.decode("utf-8", "replace")


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _visible_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
