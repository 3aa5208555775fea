"""Request ids: UUIDv7, so that they sort by time and need no coordination.

Source: RFC 9562 §5.7.
"""

from __future__ import annotations

from random import getrandbits

__all__ = ["new_id"]


def new_id(unix_ms: int) -> str:
    """Return a new UUIDv7 in its usual text form: 48 bits of time, 74 random bits."""
    # Unique, not secret: the operating system's randomness costs a system call per id.
    random = getrandbits(80)
    value = (
        (unix_ms & 0xFFFFFFFFFFFF) << 80
        | 0x7 << 76
        | (random >> 64 & 0xFFF) << 64
        | 0b10 << 62
        | random & 0x3FFFFFFFFFFFFFFF
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
