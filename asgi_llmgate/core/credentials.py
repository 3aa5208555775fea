"""Find the keys in a request, and know one's own. What is done about them is auth's business.

Where keys may be, in order:

1. `LLMGate-Auth`, else `Helicone-Auth`: a key of this gateway, `Bearer k` or `k`.
2. The headers of the providers' APIs: either a key of this gateway, known by its prefix `lg_` or
   because it is configured, or a key of the caller's own for the provider.

Keys are compared by keyed digests of their whole length, never by themselves or a part, so that
neither time nor a shared beginning tells anything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from asgi_llmgate.core.derive import Label, derive
from asgi_llmgate.errors import AuthenticationError, InvalidRequestError
from asgi_llmgate.types import CallerKey, Dialect, Principal, PrincipalKind, Route, Secret

__all__ = [
    "BYOK_PREFIX",
    "KEY_PARAMETER",
    "Credentials",
    "StaticKeys",
    "admin_token_digest",
    "byok_tenant",
    "check_admin_token",
    "find_credentials",
    "has_gateway_prefix",
    "home_of",
    "looks_like_jwt",
    "without_credentials",
]

BYOK_PREFIX = "byok:"
GATEWAY_PREFIX = "lg_"
KEY_PARAMETER = b"key"
"""Stands for `?key=` where others are header names."""

# What a provider's own API reads, the usual one first. The key of another provider's header is
# taken only if none of these was sent: `x-api-key` on an OpenAI call is the host's more often.
_OWN: dict[Dialect, tuple[bytes, ...]] = {
    Dialect.OPENAI: (b"authorization",),
    Dialect.ANTHROPIC: (b"x-api-key", b"authorization"),
    Dialect.GEMINI: (b"x-goog-api-key", KEY_PARAMETER, b"authorization"),
    Dialect.AZURE: (b"api-key", b"authorization"),
    Dialect.BEDROCK: (b"authorization",),
}
_HEADERS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")

_HOMES: dict[Dialect, str] = {
    Dialect.OPENAI: "openai",
    Dialect.ANTHROPIC: "anthropic",
    Dialect.GEMINI: "google",
    Dialect.AZURE: "azure",
    Dialect.BEDROCK: "bedrock",
}

_AWS_SIGNATURE = b"AWS4-"

# Visible ASCII but the comma, by which some servers join what was sent twice.
_KEY_BYTES = bytes(range(0x21, 0x7F)).replace(b",", b"")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The keys of one request. No string of theirs shows in a repr.

    Args:
        explicit: From `LLMGate-Auth` or `Helicone-Auth`; empty if the header is. None without.
        is_helicone: It came from `Helicone-Auth`.
        own: From the headers of the caller's dialect, the usual one first.
        others: From other dialects' headers.
    """

    explicit: Secret | None
    is_helicone: bool
    own: tuple[CallerKey, ...]
    others: tuple[CallerKey, ...]


def find_credentials(
    headers: Mapping[bytes, bytes],
    query_string: bytes,
    dialect: Dialect,
    *,
    ignored: Collection[bytes] = (),
) -> Credentials:
    """Return the keys of a request.

    `Authorization` counts as `Bearer k` or bare `k`; other schemes are somebody else's business.

    Args:
        headers: Names in lower case.
        query_string: Its `key` counts in Gemini's dialect only.
        ignored: Headers in lower case that hold no key for us or a provider.

    Raises:
        InvalidRequestError: a header holds something that cannot be one key.
        AuthenticationError: all there is, is a signature of AWS.
    """
    explicit = headers.get(b"llmgate-auth")
    is_helicone = explicit is None
    if is_helicone:
        explicit = headers.get(b"helicone-auth")
    if explicit is None and headers.get(b"authorization", b"").startswith(_AWS_SIGNATURE):
        raise AuthenticationError(
            "An AWS signature covers the host it was made for, which is this gateway and not "
            "Bedrock, so it cannot be passed on. Send a key of this gateway or of Bedrock as "
            "`Authorization: Bearer`: AWS's SDKs do if AWS_BEARER_TOKEN_BEDROCK holds it."
        )
    own_names = _OWN[dialect]
    own: tuple[CallerKey, ...] = ()
    others: tuple[CallerKey, ...] = ()
    for name in own_names:
        if name is KEY_PARAMETER:
            value = _key_parameter(query_string) if query_string else None
        else:
            value = headers.get(name)
        if value is not None and name not in ignored and (key := _key(name, value)):
            own += (key,)
    for name in _HEADERS:
        if name in headers and name not in own_names and name not in ignored:
            key = _key(name, headers[name])
            if key is not None:
                others += (key,)
    return Credentials(
        None if explicit is None else Secret(_after_bearer(explicit).decode("latin-1")),
        is_helicone and explicit is not None,
        own,
        others,
    )


def without_credentials(
    headers: list[tuple[bytes, bytes]], query_string: bytes, names: Collection[bytes]
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and query without the keys that came in by `names`."""
    kept = [header for header in headers if header[0].lower() not in names]
    if KEY_PARAMETER in names:
        parts = query_string.split(b"&")
        query_string = b"&".join(part for part in parts if not _key_parameter(part))
    return kept, query_string


class StaticKeys:
    """The gateway keys of the settings: name → key. The tenant is the name.

    Raises:
        ValueError: a name or key is empty or unfit, or two names have the same key. The message
            names the key, never shows it.
    """

    def __init__(self, keys: Mapping[str, str | Secret], secret: bytes) -> None:
        self._hmac_key = derive(secret, Label.GATEWAY_KEYS)
        self._principals: dict[bytes, tuple[bytes, Principal]] = {}
        for name, key in keys.items():
            text = key.reveal() if isinstance(key, Secret) else key
            if not name or name.startswith(BYOK_PREFIX):
                raise ValueError(f"the key name {name!r} is empty or begins with {BYOK_PREFIX!r}")
            if not text or text.encode().translate(None, _KEY_BYTES):
                raise ValueError(f"the key {name!r} is empty, or not visible ASCII without commas")
            digest = self._digest(text)
            if digest in self._principals:
                other = self._principals[digest][1].id
                raise ValueError(f"the keys {other!r} and {name!r} are the same")
            principal = Principal(tenant=name, kind=PrincipalKind.KEY, id=name)
            self._principals[digest] = (digest, principal)
        # Compared with where there is none, so that an unknown key costs what a known one does.
        self._nobody: tuple[bytes, Principal | None] = (bytes(32), None)

    def __bool__(self) -> bool:
        return bool(self._principals)

    def find(self, key: str) -> Principal | None:
        """Return whose key it is, if it is one of ours."""
        if not self._principals:
            return None
        digest = self._digest(key)
        known, principal = self._principals.get(digest, self._nobody)
        return principal if hmac.compare_digest(known, digest) else None

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._hmac_key, key.encode(), "sha256")


def has_gateway_prefix(key: str) -> bool:
    """Tell whether `key` can only be meant for this gateway."""
    return key.startswith(GATEWAY_PREFIX)


def looks_like_jwt(key: str) -> bool:
    """Tell whether `key` has the shape of a signed JSON Web Token."""
    return key.startswith("eyJ") and key.count(".") == 2


def home_of(headers: Mapping[bytes, bytes], route: Route) -> str:
    """Return the provider a caller's key is taken to be for, without looking at the body.

    The path's, else the first of `LLMGate-Provider`, else the home of the dialect. A provider
    that only the model names is not seen here: the key alone decides then, and it is the same
    for every call that is made in the same way.
    """
    if route.provider is not None:
        return route.provider
    chosen = headers.get(b"llmgate-provider", b"").partition(b",")[0].strip().lower()
    return chosen.decode("latin-1") or _HOMES[route.dialect]


def byok_tenant(hmac_key: bytes, provider: str, key: str) -> str:
    """Return the tenant of callers who have only `key`: stable, and no way back to the key."""
    name = provider.encode()
    message = len(name).to_bytes(4, "big") + name + key.encode()
    return BYOK_PREFIX + hmac.digest(hmac_key, message, "sha256")[:8].hex()


def admin_token_digest(token: str | Secret) -> bytes:
    """Return what `check_admin_token` compares with, so that the token need not be kept."""
    text = token.reveal() if isinstance(token, Secret) else token
    return hashlib.sha256(b"asgi_llmgate/admin-token\0" + text.encode()).digest()


def check_admin_token(headers: Mapping[bytes, bytes], token_digest: bytes) -> bool:
    """Tell whether `Authorization: Bearer` holds the admin token, in constant time.

    Args:
        headers: Names in lower case.
        token_digest: From `admin_token_digest`.
    """
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    given = token.strip() if scheme.lower() == b"bearer" else b""
    is_same = hmac.compare_digest(admin_token_digest(given.decode("latin-1")), token_digest)
    return is_same and given != b""


def _key(name: bytes, value: bytes) -> CallerKey | None:
    """Return the key in `value`; None if there is none."""
    if name == b"authorization":
        scheme, blank, _ = value.strip().partition(b" ")
        if blank and scheme.lower() != b"bearer":
            return None
        value = _after_bearer(value)
    else:
        value = value.strip()
    if not value:
        return None
    if value.translate(None, _KEY_BYTES):
        shown = "?key=" if name is KEY_PARAMETER else name.decode().title()
        raise InvalidRequestError(
            f"{shown} must hold one key: visible ASCII characters, no blanks, no commas.",
            code="invalid_header",
            param=shown,
        )
    return CallerKey(name, Secret(value.decode()))


def _after_bearer(value: bytes) -> bytes:
    value = value.strip()
    if value[:6].lower() == b"bearer" and value[6:7] in (b"", b" ", b"\t"):
        return value[6:].strip()
    return value


def _key_parameter(query_string: bytes) -> bytes | None:
    """Return the value of `key` in a query.

    Raises:
        InvalidRequestError: there are several.
    """
    # A `k` may be written as `%6b`; without either there is no such name.
    if b"k" not in query_string and b"%" not in query_string:
        return None
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    values = {value for name, value in pairs if name == "key"}
    if len(values) > 1:
        raise InvalidRequestError(
            "The query has several keys. Send one.", code="invalid_header", param="?key="
        )
    return values.pop().encode() if values else None
