"""Find a decoded path in the path as it was sent.

Decisions are made on the decoded path alone (rule R1). The one that was sent is only copied
from, and only where it decodes to exactly the path that was decided on: then an encoded slash
inside an id stays encoded on its way to the provider.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

__all__ = ["as_sent"]

# What RFC 3986 §3.3 allows in a path, and slashes between its segments.
_SAFE = "/:@!$&'()*+,;=~"


def as_sent(path: str, raw_path: bytes | None, fixed: int) -> str:
    """Return `path` with the percent-encoding it was sent with.

    Args:
        path: Decoded, below the mount point.
        raw_path: As sent, in whole; None if the server does not tell.
        fixed: How many characters of `path` are words of a table. If those were sent encoded,
            or nothing fits, all is encoded anew.
    """
    if raw_path is not None:
        raw = _below_mount(path, raw_path.partition(b"?")[0].decode("latin-1"))
        if raw is not None and raw.startswith(path[:fixed]):
            # Servers let some bytes through that may not stand in a request line.
            return quote(raw, safe=_SAFE + "%", encoding="latin-1")
    return quote(path, safe=_SAFE)


def _below_mount(path: str, raw: str) -> str | None:
    """Return the end of `raw` that decodes to `path`, cut at a slash as it was sent."""
    decoded = unquote(raw)
    if not decoded.endswith(path):
        return None
    mount = len(decoded) - len(path)
    at = 0
    while mount > 0:
        end = raw.find("/", at + 1)
        if end < 0:
            return None
        mount -= len(unquote(raw[at:end]))
        at = end
    return raw[at:] if mount == 0 else None
