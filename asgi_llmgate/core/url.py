"""Join a base URL, a path and a query without decoding anything.

A base URL includes its version path (`https://api.openai.com/v1`), and so may the path, for
callers were given a base URL of their own. A version is never written twice:

    base path               path                      joined
    /v1                     /chat/completions         /v1/chat/completions
    /v1                     /v1/chat/completions      /v1/chat/completions
    /api/paas/v4            /api/paas/v4/chat/…       /api/paas/v4/chat/…       (the same, longer)
    /v1beta                 /v1/models/m:verb         /v1/models/m:verb         (caller's wins)
    /v1beta/openai          /v1/chat/completions      /v1beta/openai/chat/completions
    /v1/projects/…          /v1beta/models/m:verb     /v1/projects/…/models/m:verb
    /v1/projects/…          /v1/projects/x            /v1/projects/x            (a path in full)
    (none)                  /v1/messages              /v1/messages
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

__all__ = ["join"]

_VERSION = re.compile(r"v[0-9]{1,2}(?:(?:alpha|beta)[0-9]{0,2})?")


@dataclass(frozen=True, slots=True)
class _Base:
    """A base URL, taken apart. `first` is its path up to the second word: `/v1/projects`."""

    origin: str
    path: str
    first: str
    ends_in_version: bool
    has_version: bool


@lru_cache(maxsize=1024)
def _taken_apart(base_url: str) -> _Base:
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    words = path.split("/")
    versions = [_VERSION.fullmatch(word) is not None for word in words]
    origin = f"{parts.scheme}://{parts.netloc}"
    return _Base(origin, path, "/".join(words[:3]), versions[-1], any(versions))


def join(base_url: str, path: str, query: bytes = b"") -> str:
    """Return the URL of `path` below `base_url`.

    Args:
        base_url: Without query.
        path: Begins with a slash; percent-encoded.
        query: As ASGI has it. Passed on as sent, but for `key`, which is a credential.
    """
    joined = _joined(_taken_apart(base_url), path)
    if query:
        kept = _without_key(query)
        if kept:
            joined += "?" + kept
    return joined


def _joined(base: _Base, path: str) -> str:
    if base.path and (path == base.path or path.startswith(base.path + "/")):
        return base.origin + path
    if not base.has_version or not _VERSION.fullmatch(first := path[1:].partition("/")[0]):
        return base.origin + base.path + path
    rest = path[1 + len(first) :]
    if base.ends_in_version:
        return base.origin + base.path[: base.path.rindex("/")] + path
    if base.first.count("/") == 2 and (path + "/").startswith(base.first + "/"):
        return base.origin + path
    return base.origin + base.path + rest


def _without_key(query: bytes) -> str:
    # What may not stand in a request line is escaped; what is escaped already stays as it is.
    text = quote(query, safe="/:@!$&'()*+,;=~?%[]")
    return "&".join(part for part in text.split("&") if unquote(part.partition("=")[0]) != "key")
