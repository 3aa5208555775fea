"""Let `LLMGate-Target-URL` select among hosts that are known, and do nothing else.

The header chooses; it does not say. Its host is compared as a whole with those of the registry
and of the operator's allow-list, and must be https at the default port. Of the rest only a plain
path is used, as the prefix of a base URL.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from asgi_llmgate.core.registry import Provider, Registry
from asgi_llmgate.errors import InvalidRequestError, UnknownProviderError
from asgi_llmgate.types import Dialect

__all__ = ["base_at", "row_at", "shown"]

_HEADER = "LLMGate-Target-URL"

# Dots, percent signs and double slashes are read differently by different servers.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~:@!$&'()*+,=-][A-Za-z0-9._~:@!$&'()*+,=-]*)*/?")

# Formats whose own paths begin with a version, or that have none.
_UNVERSIONED = ("gemini", "bedrock", "azure")

_AUTH: dict[Dialect, tuple[str, tuple[str, ...]]] = {
    Dialect.ANTHROPIC: ("x-api-key", ("bearer",)),
    Dialect.GEMINI: ("x-goog-api-key", ()),
    Dialect.AZURE: ("api-key", ("bearer",)),
}


def row_at(target_url: str, dialect: Dialect, registry: Registry) -> Provider:
    """Return the row at the URL's host: the one whose base path agrees with it furthest.

    A host of the allow-list has a row for this one call: without keys or peculiarities.

    Raises:
        InvalidRequestError: the URL cannot be selected by.
        UnknownProviderError: its host is not known.
    """
    host, path = _checked(target_url)
    rows = registry.at_host(host)
    if rows:
        return max(rows, key=lambda row: _agreement(row, host, path))
    if host in registry.allowed_hosts:
        auth, other_auth = _AUTH.get(dialect, ("bearer", ()))
        return Provider(host, host, auth=auth, other_auth=other_auth, confidence="operator")
    raise UnknownProviderError(
        f"{_HEADER} names {shown(host)}, which is no host of a known provider. "
        "An operator can allow it in `upstream.target_hosts`.",
        param=_HEADER,
    )


def base_at(target_url: str, row: Provider, wire_format: str | None) -> str | None:
    """Return the base URL that `target_url` selects at `row`, or None: `row` does not speak that.

    Raises:
        InvalidRequestError: the URL cannot be selected by, or names a host of somebody else, who
            would get a key of this row.
    """
    host, path = _checked(target_url)
    if not row.endpoints and row.id == host:
        if path or (wire_format or "gemini").startswith(_UNVERSIONED):
            return f"https://{host}{path}"
        return f"https://{host}/v1"
    if host not in row.names:
        raise InvalidRequestError(
            f"{_HEADER} names {shown(host)}, which is no host of {row.id}.",
            code="invalid_header",
            param=_HEADER,
        )
    own = row.base_url(wire_format) if wire_format is not None else None
    if own is None and wire_format is not None:
        return None
    if not path:
        return own
    if host not in row.hosts:
        # The operator has calls go elsewhere, and only he knows what other paths are there.
        if any(f"{urlsplit(url).path}/".startswith(f"{path}/") for url in row.moved.values()):
            return own
        raise _unusable(f"has a path that {row.id} does not have here; leave it out")
    if own is not None:
        parts = urlsplit(own)
        # `https://api.groq.com/openai` is short for what the row has in full.
        if parts.hostname == host and f"{parts.path}/".startswith(f"{path}/"):
            return own
    return f"https://{host}{path}"


def _agreement(row: Provider, host: str, path: str) -> int:
    return max(
        (
            len(base.path)
            for base in map(urlsplit, (*row.endpoints.values(), *row.moved.values()))
            if base.hostname == host and f"{path}/".startswith(f"{base.path}/")
        ),
        default=-1,
    )


def _checked(target_url: str) -> tuple[str, str]:
    """Return host and path of a URL that may be selected by; the path ends without a slash."""
    try:
        parts = urlsplit(target_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _unusable("is not a URL") from None
    if parts.scheme != "https":
        raise _unusable("must begin with https://")
    if "@" in parts.netloc:
        raise _unusable("must not hold a user name")
    if not host or port not in (None, 443):
        raise _unusable("must name a host and no port")
    if "?" in target_url or "#" in target_url or not _PLAIN_PATH.fullmatch(parts.path):
        raise _unusable("must have a plain path and no query")
    return host, parts.path.rstrip("/")


def _unusable(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{_HEADER} {what}.", code="invalid_header", param=_HEADER)


def shown(text: str) -> str:
    """Quote what a caller wrote, for a message: bounded and printable."""
    return ascii(text[:80])
