"""Join a base URL, a path and a query without decoding anything.

A base URL includes its version path (`https://api.openai.com/v1`), and so may the path, for
callers were given a base URL of their own. A version is never written twice:

    base path               path                      joined
    /v1                     /chat/completions         /v1/chat/completions
    /v1                     /v1/chat/completions      /v1/chat/completions
    /api/paas/v4            /api/paas/v4/chat/…       /api/paas/v4/chat/…       (the same, longer)
    /v1beta                 /v1/models/m:verb         /v1/models/m:verb         (caller's wins)
    /v1/…/publishers/google /v1beta/models/m:verb     /v1/…/publishers/google/models/m:verb
    (none)                  /v1/messages              /v1/messages
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

__all__ = ["join"]

_VERSION = re.compile(r"v[0-9]{1,2}(?:(?:alpha|beta)[0-9]{0,2})?")


@lru_cache(maxsize=1024)
def _taken_apart(base_url: str) -> tuple[str, str, bool, bool]:
    """Return origin, path, and whether a version ends the path or stands anywhere in it."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    versions = [_VERSION.fullmatch(word) is not None for word in path.split("/")]
    return f"{parts.scheme}://{parts.netloc}", path, versions[-1], any(versions)


def join(base_url: str, path: str, query: bytes = b"") -> str:
    """Return the URL of `path` below `base_url`.

    Args:
        base_url: Without query.
        path: Begins with a slash; percent-encoded.
        query: As ASGI has it. Passed on as sent, but for `key`, which is a credential.
    """
    origin, base_path, ends_in_version, has_version = _taken_apart(base_url)
    if base_path and (path.startswith(base_path + "/") or path == base_path):
        joined = origin + path
    else:
        first, _, rest = path[1:].partition("/")
        if has_version and rest and _VERSION.fullmatch(first):
            if ends_in_version:
                base_path = base_path[: base_path.rindex("/")]
            else:
                path = "/" + rest
        joined = origin + base_path + path
    if query:
        kept = _without_key(query)
        if kept:
            joined += "?" + kept
    return joined


def _without_key(query: bytes) -> str:
    # What may not stand in a request line is escaped; what is escaped already stays as it is.
    text = quote(query, safe="/:@!$&'()*+,;=~?%[]")
    return "&".join(part for part in text.split("&") if unquote(part.partition("=")[0]) != "key")
