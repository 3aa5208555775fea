"""Call records for tests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from asgi_llmgate.core.ids import new_id
from asgi_llmgate.types import AttemptRecord, CallRecord

_counter = itertools.count()

ATTEMPT = AttemptRecord(
    provider="openai", key_id="main", model="gpt-4o-mini", status=200, reason=None, duration_ms=99.5
)

PLAIN = CallRecord(
    id="",
    tenant="acme",
    principal_kind="key",
    principal_id="ci",
    started_at_us=1_800_000_000_000_000,
    duration_ms=120.5,
    first_byte_ms=80.25,
    dialect="openai",
    format="openai-chat",
    route="/v1/chat/completions",
    provider="openai",
    model_requested="gpt-4o-mini",
    model="gpt-4o-mini-2024-07-18",
    status=200,
    error_code=None,
    is_stream=True,
    complete=True,
    client_left=False,
    input_tokens=100,
    output_tokens=20,
    cache_read_tokens=10,
    cache_write_tokens=0,
    cache_write_1h_tokens=0,
    reasoning_tokens=5,
    input_audio_tokens=0,
    output_audio_tokens=0,
    usage_estimated=False,
    cost_nanousd=1_234_567,
    cache=None,
    attempts=(ATTEMPT,),
    user_id="ann",
    user_source="header",
    user_trust="asserted",
    session_id="s1",
    session_path="/a/b",
    session_name="trip",
    properties={"env": "prod"},
    request_bytes=17,
    response_bytes=2,
    request_body=None,
    response_body=None,
    request_truncated=False,
    response_truncated=False,
)


def make_record(**changes: Any) -> CallRecord:
    """Return a record with an id of its own, and these changes."""
    number = next(_counter)
    return PLAIN._replace(**{"id": new_id(1_800_000_000_000 + number), **changes})


def wait_until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> float:
    """Return how many seconds it took until `condition()`; fail after `timeout_s`."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < timeout_s, "it did not happen in time"
        time.sleep(0.002)
    return time.perf_counter() - started
