"""Read the trace that a request belongs to: `traceparent` and `baggage`.

Sources: W3C Trace Context 1, §3.2; W3C Baggage, §3. Both are best effort: what is malformed is
not there, for the caller may only be passing on what somebody else wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

__all__ = ["DEFAULT_BAGGAGE", "Trace", "read_trace"]

DEFAULT_BAGGAGE = ("service.name", "service.version", "deployment.environment.name")
"""OpenTelemetry's names for where a call comes from."""

# Whoever has a property to send along names it so.
PREFIX = "llmgate."
SESSION = "session.id"

# The limits that the specification asks everybody to propagate at least.
MAX_BAGGAGE_BYTES = 8192
MAX_MEMBERS = 64
MAX_PROPERTIES = 16
MAX_VALUE_CHARS = 256

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-.{2}")
_NAME = re.compile(r"[a-z0-9_.-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a call belongs to. `id` are 32 hexadecimal digits."""

    id: str | None = None
    session_id: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


def read_trace(headers: Mapping[bytes, bytes], keys: Collection[str]) -> Trace | None:
    """Return the trace of a request; None if it tells none.

    Args:
        headers: Names in lower case.
        keys: Names in the baggage that become properties, in lower case. `llmgate.<name>` always
            becomes the property `<name>`, and `session.id` the session.
    """
    parent, baggage = headers.get(b"traceparent"), headers.get(b"baggage")
    if parent is None and baggage is None:
        return None
    trace_id = None
    if parent is not None and len(parent) <= 128 and (match := _TRACEPARENT.match(parent)):
        trace_id = match[1].decode()
    if baggage is None or len(baggage) > MAX_BAGGAGE_BYTES:
        return Trace(trace_id)
    session: str | None = None
    properties: dict[str, str] = {}
    for member in baggage.decode("latin-1").split(",")[:MAX_MEMBERS]:
        name, equals, rest = member.partition("=")
        name = name.strip().lower()
        is_ours = name.startswith(PREFIX)
        if not equals or not (is_ours or name == SESSION or name in keys):
            continue
        value = unquote(rest.partition(";")[0].strip())
        if not 0 < len(value) <= MAX_VALUE_CHARS or _CONTROL.search(value):
            continue
        short = name.removeprefix(PREFIX)
        if name == SESSION:
            session = value
        elif _NAME.fullmatch(short) and len(properties) < MAX_PROPERTIES:
            properties[short] = value
    return Trace(trace_id, session, properties)
