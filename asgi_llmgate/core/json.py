"""JSON in and out: fast, and as forgiving as Python's own."""

from __future__ import annotations

import json
from typing import Any

import orjson

__all__ = ["MAX_DEPTH", "JSONError", "dumps", "loads", "repeats_key"]

# Deeper than any real request; keeps hostile nesting away from every recursive walk (rule R13).
MAX_DEPTH = 64


class JSONError(ValueError):
    """The text is not JSON, or is nested deeper than `MAX_DEPTH`."""


def loads(text: bytes | bytearray | memoryview | str) -> Any:
    """Decode JSON.

    What orjson refuses and Python's decoder takes (lone surrogates, NaN) is tried again with
    Python's. Integers of more than 64 bits become floats, as they do in JavaScript.

    Raises:
        JSONError: not JSON, or nested too deeply.
    """
    try:
        value = orjson.loads(text)
    except ValueError as error:
        try:
            value = json.loads(bytes(text) if isinstance(text, memoryview) else text)
        except (ValueError, RecursionError):
            raise JSONError(str(error)) from None
    if too_deep(text):
        raise JSONError(f"nested more than {MAX_DEPTH} levels deep")
    return value


def dumps(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError):
        # Lone surrogates and big integers: escaped, as Python writes them.
        return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def too_deep(text: bytes | bytearray | memoryview | str) -> bool:
    """Tell whether brackets nest more than `MAX_DEPTH` deep; `text` is known to be valid JSON."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    # Most texts have fewer brackets than the limit, which settles it in two memchr-speed scans.
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    in_string = escaped = False
    for byte in raw:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"}]":
            depth -= 1
    return False


def repeats_key(text: bytes, name: str) -> bool:
    """Tell whether the object in `text`, which is valid JSON, has `name` twice, in any case.

    Decoders differ on which of the two counts, and some (Go's) on case.

    Args:
        name: ASCII letters in lower case.
    """
    quoted = b'"' + name.encode() + b'"'
    # Letters may also be written as \\u0061 … \\u007a; then, and only then, it takes a decoder.
    if text.lower().count(quoted) <= 1 and b"\\u006" not in text and b"\\u007" not in text:
        return False
    top: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        top[:] = pairs  # The outermost object comes last.

    json.loads(text, object_pairs_hook=keep)
    return sum(key.lower() == name for key, _ in top) > 1
