"""A stored answer as bytes, which nobody is trusted to have left as they were.

    magic 4 │ created_us 8 │ mac 16 │ length of meta 4 │ meta (JSON) │ body as it came

The code of 16 bytes is keyed and covers everything, and the key of the question with it: an entry
that was changed, cut, or copied to the key of another question is no entry. `created_us` stands in
front so that a store can find old entries without reading them whole.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import replace
from typing import Any, NamedTuple

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.types import Usage

__all__ = ["Entry", "created_us_of", "decode_entry", "encode_entry"]

_MAGIC = b"LGC1"
_HEAD = struct.Struct(">4sQ16sI")
_MAC_BYTES = 16


class Entry(NamedTuple):
    """One answer, paid for once. A tuple, for one is made on every hit.

    Args:
        created_us: When the call began that it answers: microseconds since the epoch, as all.
        expires_us: From then on it is not given any more.
        generations: What it depends on: names, with the values they had before the call began.
        form: `json`, `events`, or `array` (Gemini without `alt=sse`).
        body: As the caller got it.
        wire_format: Of the body.
        usage: What the provider counted; None if it did not say.
        original_id: The call that paid.
        cost_nanousd: What it cost; None if the price is unknown.
        duration_ms: How long it took.
        provider, model: Who answered.
        is_fallback: Another model answered than was asked first.
    """

    created_us: int
    expires_us: int
    generations: dict[str, int]
    form: str
    body: bytes
    wire_format: str
    usage: Usage | None = None
    original_id: str = ""
    cost_nanousd: int | None = None
    duration_ms: float = 0.0
    provider: str | None = None
    model: str | None = None
    is_fallback: bool = False


def encode_entry(secret: bytes, key: CacheKey, entry: Entry) -> bytes:
    usage = entry.usage
    meta = dumps(
        [
            entry.expires_us,
            entry.generations,
            entry.form,
            entry.wire_format,
            entry.original_id,
            entry.cost_nanousd,
            entry.duration_ms,
            entry.provider,
            entry.model,
            entry.is_fallback,
            None if usage is None else _usage_row(usage),
        ]
    )
    rest = meta + entry.body
    mac = _mac(secret, key, entry.created_us, len(meta), rest)
    return _HEAD.pack(_MAGIC, entry.created_us, mac, len(meta)) + rest


def decode_entry(secret: bytes, key: CacheKey, value: bytes) -> Entry | None:
    """Return the entry, or None if `value` is not one that was stored under `key`."""
    if len(value) < _HEAD.size:
        return None
    magic, created_us, mac, meta_length = _HEAD.unpack_from(value)
    rest = value[_HEAD.size :]
    if magic != _MAGIC or meta_length > len(rest):
        return None
    if not hmac.compare_digest(mac, _mac(secret, key, created_us, meta_length, rest)):
        return None
    try:
        row = loads(rest[:meta_length])
        return _entry_of(row, created_us, rest[meta_length:])
    except (JSONError, TypeError, ValueError):
        return None  # Of another version that forgot to say so.


def created_us_of(head: bytes) -> int | None:
    """Return when the entry was made whose first 12 bytes these are; None if it is none."""
    if len(head) < 12 or head[:4] != _MAGIC:
        return None
    return int.from_bytes(head[4:12], "big")


def _mac(secret: bytes, key: CacheKey, created_us: int, meta_length: int, rest: bytes) -> bytes:
    # The key has 64 bytes always, so that nothing can move from one field to the next.
    head = b"%s%016x%08x" % (key.encode(), created_us, meta_length)
    return hmac.digest(secret, head + rest, "sha256")[:_MAC_BYTES]


def _entry_of(row: Any, created_us: int, body: bytes) -> Entry:
    (
        expires_us,
        generations,
        form,
        wire_format,
        original_id,
        cost_nanousd,
        duration_ms,
        provider,
        model,
        is_fallback,
        usage,
    ) = row
    return Entry(
        created_us,
        expires_us,
        generations,
        form,
        body,
        wire_format,
        None if usage is None else _usage_of(usage),
        original_id,
        cost_nanousd,
        duration_ms,
        provider,
        model,
        is_fallback,
    )


def _usage_row(usage: Usage) -> list[Any]:
    return [
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
        usage.input_audio_tokens,
        usage.output_audio_tokens,
        usage.estimated,
        usage.others,
    ]


def _usage_of(row: list[Any]) -> Usage:
    *counts, others = row
    return replace(Usage(*counts), others=tuple((name, number) for name, number in others))
