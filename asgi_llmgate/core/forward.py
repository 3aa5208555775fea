"""Decide which headers travel on, in both directions.

Source: RFC 9110 §7.6.1 (hop-by-hop), and rule R27 of docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from asgi_llmgate.types import Secret

__all__ = [
    "IDENTITY",
    "RATE_LIMIT_PREFIXES",
    "SIGNED",
    "answer_headers",
    "forward_all",
    "forward_allowed",
    "key_header",
]

RawHeaders = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
NEVER_FORWARDED = (
    HOP_BY_HOP
    | CREDENTIALS  # put back by `key_header`, if they are the provider's
    | {
        b"accept-encoding",  # a compressed event stream could not be metered
        b"content-length",  # the transport writes it
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"via",
        b"x-real-ip",
        # What belongs to an AWS signature, which covers the gateway's host.
        b"x-amz-content-sha256",
        b"x-amz-date",
        b"x-amz-security-token",
    }
)
NEVER_FORWARDED_PREFIXES = (b"llmgate-", b"helicone-", b"x-forwarded-", b"sec-fetch-", b"cf-")

# With a pooled key the call is the operator's, so only what the API itself defines goes along.
FORWARDED_WITH_POOLED_KEY = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"user-agent",
        b"x-goog-api-client",
    }
)

NEVER_ANSWERED = HOP_BY_HOP | {
    b"alt-svc",
    b"date",  # the server writes its own
    b"server",
    b"set-cookie",
    b"strict-transport-security",
}
RATE_LIMIT_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit")

IDENTITY = (b"accept-encoding", b"identity")


def forward_all(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Return what a caller who pays with a key of his own sends on: nearly everything."""
    kept = [IDENTITY]
    hop_by_hop: set[bytes] = set()
    for name, value in headers:
        if name.lower() == b"connection":
            hop_by_hop.update(token.strip().lower() for token in value.split(b","))
        elif (lower := _forwarded(name)) is not None:
            kept.append((lower, value))
    if hop_by_hop:
        kept = [header for header in kept if header[0] not in hop_by_hop]
    return kept


def forward_allowed(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Return what goes along with a pooled key: an allow-list."""
    kept = [IDENTITY]
    for name, value in headers:
        lower = name.lower()
        if lower in FORWARDED_WITH_POOLED_KEY:
            kept.append((lower, value))
    return kept


def answer_headers(headers: Iterable[tuple[bytes, bytes]], *, pooled: bool) -> RawHeaders:
    """Return the provider's headers that reach the caller; their names are in lower case.

    Rate limits of a pooled key would tell one tenant what the others use.
    """
    return [header for header in headers if _answered(header[0], pooled)]


# The same two dozen names come with every call, so each is looked at once. Bounded, for names
# are a stranger's to choose.
@lru_cache(maxsize=512)
def _forwarded(name: bytes) -> bytes | None:
    lower = name.lower()
    if lower in NEVER_FORWARDED or lower.startswith(NEVER_FORWARDED_PREFIXES):
        return None
    return lower


@lru_cache(maxsize=512)
def _answered(name: bytes, pooled: bool) -> bool:
    if name in NEVER_ANSWERED or name.startswith(b"llmgate-"):
        return False
    return not (pooled and (name.startswith(RATE_LIMIT_PREFIXES) or name == b"openai-organization"))


SIGNED = frozenset({"sigv4", "gcp-oauth"})
"""Styles that need more than a header: the request itself is signed, or a token got for it."""

AUTH_HEADERS: Mapping[str, tuple[bytes, bytes]] = {
    "bearer": (b"authorization", b"Bearer "),
    "x-api-key": (b"x-api-key", b""),
    "x-goog-api-key": (b"x-goog-api-key", b""),
    "api-key": (b"api-key", b""),
}


def key_header(auth: str, key: Secret) -> tuple[bytes, bytes] | None:
    """Return the header by which a provider with auth style `auth` is given `key`.

    None for styles that need more than a header (signatures, token exchange).
    """
    if auth.startswith("header:"):
        return auth[len("header:") :].encode(), key.reveal().encode()
    known = AUTH_HEADERS.get(auth)
    if known is None:
        return None
    name, prefix = known
    return name, prefix + key.reveal().encode()
