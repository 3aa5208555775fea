"""Make stored values smaller: zstandard, or zlib where that is not installed.

Which one was used stands in the first byte, so that machines with and without share a store.
"""

from __future__ import annotations

import threading
import zlib

try:
    import zstandard
except ImportError:  # pragma: no cover -- without the extra; tested in a process of its own
    zstandard = None  # type: ignore[assignment]  # there is no such module then

__all__ = ["MAX_UNPACKED_BYTES", "pack", "unpack"]

# An answer of 1 KB loses half of itself; below that, hardly anything.
PACK_FROM_BYTES = 1024
LEVEL = 1
"""The fastest that compresses at all. JSON shrinks to a third."""

# What is larger was not written by us: a few bytes can spell gigabytes.
MAX_UNPACKED_BYTES = 64 * 1024 * 1024

_ERRORS = (zlib.error,) if zstandard is None else (zlib.error, zstandard.ZstdError)
_PLAIN, _ZSTD, _ZLIB = b"0", b"Z", b"z"


class _Local(threading.local):
    """One compressor per thread, for they are not to be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_local = None if zstandard is None else _Local()


def pack(value: bytes) -> bytes:
    if len(value) < PACK_FROM_BYTES:
        return _PLAIN + value
    if _local is None:
        return _ZLIB + zlib.compress(value, LEVEL)
    return _ZSTD + _local.compressor.compress(value)


def unpack(packed: bytes) -> bytes | None:
    """Return what was packed; None for anything else, and where the means are missing."""
    kind, rest = packed[:1], packed[1:]
    if kind == _PLAIN:
        return rest
    try:
        if kind == _ZSTD and _local is not None:
            size = zstandard.frame_content_size(rest)
            if not 0 <= size <= MAX_UNPACKED_BYTES:
                return None
            return _local.decompressor.decompress(rest, max_output_size=MAX_UNPACKED_BYTES)
        if kind == _ZLIB:
            inflater = zlib.decompressobj()
            value = inflater.decompress(rest, MAX_UNPACKED_BYTES)
            return value if inflater.eof else None
    except _ERRORS:
        return None
    return None
