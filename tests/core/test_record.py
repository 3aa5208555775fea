from __future__ import annotations

import json
import unicodedata

import pytest

from asgi_llmgate.core.record import (
    PUBLIC_FIELDS,
    escape_controls,
    json_line,
    public_record,
    rfc3339,
    usd,
)
from asgi_llmgate.types import CallRecord
from tests.backends.records import make_record

NOTHING = CallRecord(*[None] * len(CallRecord._fields))._replace(  # type: ignore[arg-type]
    id="x", started_at_us=0, duration_ms=0.0, attempts=(), request_bytes=0, response_bytes=0
)


def test_the_public_object_is_the_one_of_the_documentation() -> None:
    record = make_record(id="call-1", request_body=b'{"a":1}', response_body=b"\xffok")

    assert public_record(record) == {
        "id": "call-1",
        "tenant": "acme",
        "principal_kind": "key",
        "started_at": "2027-01-15T08:00:00.000000Z",
        "duration_ms": 120.5,
        "first_byte_ms": 80.25,
        "dialect": "openai",
        "route": "/v1/chat/completions",
        "provider": "openai",
        "model_requested": "gpt-4o-mini",
        "model": "gpt-4o-mini-2024-07-18",
        "status": 200,
        "error_code": None,
        "is_stream": True,
        "complete": True,
        "client_left": False,
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_read_tokens": 10,
        "cache_write_tokens": 0,
        "reasoning_tokens": 5,
        "usage_estimated": False,
        "cost_nanousd": 1234567,
        "cost_usd": "0.001234567",
        "cache": None,
        "attempts": [
            {
                "provider": "openai",
                "key_id": "main",
                "model": "gpt-4o-mini",
                "status": 200,
                "reason": None,
                "duration_ms": 99.5,
            }
        ],
        "user_id": "ann",
        "user_source": "header",
        "user_trust": "asserted",
        "session_id": "s1",
        "session_path": "/a/b",
        "session_name": "trip",
        "properties": {"env": "prod"},
        "request_bytes": 17,
        "response_bytes": 2,
        "request_body": '{"a":1}',
        "response_body": "\ufffdok",
        "request_truncated": False,
        "response_truncated": False,
        "cache_reason": None,
        "saved_nanousd": None,
        "saved_ms": None,
        "original_id": None,
        "trace_id": None,
    }


def test_absent_is_null_and_never_missing() -> None:
    public = public_record(NOTHING)

    assert tuple(public) == PUBLIC_FIELDS
    assert public["first_byte_ms"] is None
    assert public["cost_usd"] is None
    assert public["request_body"] is None
    assert (public["attempts"], public["properties"]) == ([], {})


def test_a_field_that_is_not_on_the_list_is_not_published() -> None:
    text = json_line(make_record(principal_id="who-it-was")).decode()

    assert "who-it-was" not in text


def test_a_line_holds_no_control_and_means_the_same() -> None:
    nasty = "".join(map(chr, [*range(0xA0), *range(0x2000, 0x2070), 0xFEFF])) + "=cmd()日本"
    line = json_line(make_record(user_id=nasty, response_body=nasty.encode()))
    text = line.decode()

    assert json.loads(line)["user_id"] == nasty
    assert json.loads(line)["response_body"] == nasty
    assert text.endswith("}\n")
    assert len(text.splitlines()) == 1
    assert not [c for c in text[:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp")]
    assert not set("\u200e\u200f\u202a\u202e\u2066\u2069\ufeff") & set(text)


def test_lone_surrogates_still_make_a_line() -> None:
    line = json_line(make_record(model_requested="\ud800"))

    assert json.loads(line)["model_requested"] == "\ud800"


def test_controls_are_shown_and_not_obeyed() -> None:
    shown = escape_controls("a\x1b[31m\r\n\x9b\u202ez\ud800é日")

    assert shown == r"a\x1b[31m\x0d\x0a\x9b\u202ez\ud800é日"


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (None, None),
        (0, "0"),
        (1, "0.000000001"),
        (120, "0.00000012"),
        (1_500_000_000, "1.5"),
        (12_000_000_000, "12"),
        (-1_500_000_000, "-1.5"),
        (2**63, "9223372036.854775808"),
    ],
)
def test_costs_are_exact_decimals(nanousd: int | None, text: str | None) -> None:
    assert usd(nanousd) == text


def test_times_keep_their_microseconds() -> None:
    assert rfc3339(1_700_000_000_123_456) == "2023-11-14T22:13:20.123456Z"
