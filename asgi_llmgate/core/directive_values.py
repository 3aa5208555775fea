"""Read the values of `LLMGate-*` and `Helicone-*` headers, strictly and in bounded time."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.limits import (
    MAX_POLICIES,
    BadPolicyError,
    Policy,
    parse_helicone_policy,
    parse_policies,
)

__all__ = [
    "MAX_PROPERTY_BYTES",
    "MalformedError",
    "boolean",
    "decimal",
    "fallbacks",
    "helicone_rate_limits",
    "identifier",
    "integer",
    "json_object",
    "omission",
    "one_of",
    "property_name",
    "property_value",
    "question",
    "rate_limits",
    "request_id",
    "text_of",
    "url",
    "words",
]

# An identifier goes into every record, every cache key and many dashboards.
MAX_ID_CHARS = 256
MAX_PROPERTY_BYTES = 256
MAX_URL_CHARS = 2048
MAX_QUESTION_CHARS = 1000
MAX_WORDS = 32
MAX_FALLBACKS = 8
MAX_POLICY_CHARS = 4096

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,12})?|\.[0-9]{1,12}")


class MalformedError(ValueError):
    """A value that does not parse. The message says what would, and never shows the value."""


def text_of(value: bytes) -> str:
    """Decode a header value as latin-1, without the blanks around it."""
    text = value.decode("latin-1").strip(" \t")
    if _CONTROL.search(text):
        raise MalformedError("no control characters")
    return text


def identifier(text: str) -> str:
    if len(text) > MAX_ID_CHARS:
        raise MalformedError(f"at most {MAX_ID_CHARS} characters")
    return text


def url(text: str) -> str:
    if len(text) > MAX_URL_CHARS:
        raise MalformedError(f"at most {MAX_URL_CHARS} characters")
    return text


def question(text: str) -> str:
    """Read a sentence: percent-encoded where it is not ASCII, as header values have to be."""
    told = unquote(text.encode("latin-1").decode("utf-8", "replace"))
    if not told.strip() or len(told) > MAX_QUESTION_CHARS or _CONTROL.search(told):
        raise MalformedError(f"a question of 1 to {MAX_QUESTION_CHARS} characters")
    return told


def boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered not in {"true", "false"}:
        raise MalformedError("true or false")
    return lowered == "true"


def omission(text: str) -> bool:
    """Read Helicone's omit switches as its gateway does: anything but `false` omits."""
    return text.lower() != "false"


def request_id(text: str) -> str:
    if not _REQUEST_ID.fullmatch(text):
        raise MalformedError("1 to 128 of A-Z a-z 0-9 . _ : -")
    return text


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # `int()` takes signs, underscores and digits of other scripts, and is quadratic.
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise MalformedError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def decimal(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not (_DECIMAL.fullmatch(text) and low <= float(text) <= high):
            raise MalformedError(f"a number from {low:g} to {high:g}")
        return float(text)

    return parse


def one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise MalformedError(" or ".join(allowed))
        return text.lower()

    return parse


def words(text: str) -> tuple[str, ...]:
    """Read `a, b`, and Helicone's `"a","b"`."""
    found = tuple(word.strip().strip('"') for word in text.split(","))
    if not all(found) or len(found) > MAX_WORDS:
        raise MalformedError(f"1 to {MAX_WORDS} names, separated by commas")
    return found


def fallbacks(text: str) -> tuple[Any, ...]:
    value = _json(text)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_FALLBACKS:
        raise MalformedError(f"a JSON list of 1 to {MAX_FALLBACKS}")
    if not all(isinstance(entry, str | dict) and entry for entry in value):
        raise MalformedError("a JSON list of strings or objects")
    return tuple(value)


def json_object(text: str) -> Mapping[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise MalformedError("a JSON object")
    return MappingProxyType(value)


def _json(text: str) -> Any:
    try:
        # Header bytes are latin-1 to us, but JSON in them is UTF-8.
        return loads(text.encode("latin-1"))
    except JSONError:
        raise MalformedError("JSON") from None


@functools.lru_cache(maxsize=1024)  # Callers send the same few with every call.
def rate_limits(text: str) -> tuple[Policy, ...]:
    if len(text) > MAX_POLICY_CHARS:
        raise MalformedError(f"at most {MAX_POLICY_CHARS} characters")
    try:
        return parse_policies(text)
    except BadPolicyError as error:
        raise MalformedError(str(error)) from None


@functools.lru_cache(maxsize=1024)
def helicone_rate_limits(text: str) -> tuple[Policy, ...]:
    written = text.split(",")
    policies = [parse_helicone_policy(each) for each in written]
    if None in policies or len(written) > MAX_POLICIES:
        raise MalformedError(
            "[quota];w=[60 to 31536000];u=[request|token|cents];s=[user|property], "
            f"or up to {MAX_POLICIES} of them, separated by commas"
        )
    return tuple(policy for policy in policies if policy is not None)


def property_name(name: str) -> str:
    if not 0 < len(name) <= MAX_PROPERTY_BYTES or _CONTROL.search(name):
        raise MalformedError(f"a name of 1 to {MAX_PROPERTY_BYTES} bytes")
    return name.lower()


def property_value(value: bytes) -> str:
    text = text_of(value)
    if len(text) > MAX_PROPERTY_BYTES:
        raise MalformedError(f"at most {MAX_PROPERTY_BYTES} bytes")
    return text
