"""Values that travel between the parts. Frozen, typed, free of behaviour.

Nothing here may import anything of the package: this is the bottom level.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "AttemptRecord",
    "CacheStatus",
    "CallRecord",
    "CallerKey",
    "Dialect",
    "Grants",
    "KeyScope",
    "KeySecret",
    "Principal",
    "PrincipalKind",
    "Route",
    "Secret",
    "StoredKey",
    "Tags",
    "Usage",
]


class Dialect(enum.StrEnum):
    """Whose API the caller speaks: decides error shapes, credentials and the home provider."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    AZURE = "azure"
    BEDROCK = "bedrock"


class CacheStatus(enum.StrEnum):
    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"
    STALE = "STALE"


class PrincipalKind(enum.StrEnum):
    HOST = "host"
    """The host application's own login."""
    KEY = "key"
    """A gateway key."""
    BYOK = "byok"
    """Only a provider key of the caller's own."""


class Secret:
    """A string that does not show itself: not in repr, str, format, JSON or a pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, ("***",)


class KeyScope(enum.StrEnum):
    """What a virtual key is for."""

    CALL = "call"
    """Call models."""
    INGEST = "ingest"
    """Send records of calls made elsewhere."""
    READ = "read"
    """Read what the admin plane tells its tenant."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a virtual key may do. None is no restriction; `core/grants.py` decides by it.

    Args:
        models: Names as the provider knows them, or `provider/name`; a `*` at the end matches
            any rest.
        providers: Ids, likewise.
        routes: Names of routes as the log has them (`/v1/chat/completions`), likewise.
        tags: Properties that every call with this key gets, whatever its headers say.
    """

    scopes: frozenset[KeyScope] = frozenset({KeyScope.CALL})
    models: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. `tenant` is the isolation boundary of caches, limits and logs.

    Args:
        tenant: Never empty. `byok:` + 16 hex for callers known by their provider key only.
        kind: How the caller became known.
        id: The key's name or id, or the host's user id. Never a secret, never empty.
        user_id: The end user, where the credential itself proves one.
        from_cookie: The login came from a cookie, so cross-site requests must be refused.
        grants: What a virtual key may do; None if nothing restricts the caller.
        rates: Of a virtual key and those above it: the key's id, and its policies.
    """

    tenant: str
    kind: PrincipalKind
    id: str
    user_id: str | None = None
    from_cookie: bool = False
    grants: Grants | None = None
    rates: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.tenant or not self.id:
            raise ValueError("a principal needs a tenant and an id")


@dataclass(frozen=True, slots=True)
class KeySecret:
    """How the secret of a virtual key is recognised; the secret itself is kept nowhere.

    Args:
        handle: By which it is looked up: the key's id, or for an imported key the digest in hex.
        digest: HMAC-SHA256 of the whole token.
        secret_id: Which of the gateway's secret keys the digest was made with.
        expires_at_s: Set on a secret that was replaced: until then it still works.
    """

    handle: str
    digest: bytes = field(repr=False)
    secret_id: str
    expires_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A virtual key as the control store has it. Times are seconds since the epoch.

    Args:
        kid: Its id, safe to show and to log.
        secrets: The one in force, then the one it replaced, if any.
        user_id: The end user it is bound to.
        parent: The `kid` of the key that it may never exceed.
        rates: Policies as `core/limits.py` reads them, counted for it and all keys below it.
        hint: The last characters of the secret, to tell keys apart.
    """

    kid: str
    tenant: str
    name: str
    secrets: tuple[KeySecret, ...]
    grants: Grants
    user_id: str | None = None
    parent: str | None = None
    created_at_s: float = 0.0
    expires_at_s: float | None = None
    revoked_at_s: float | None = None
    hint: str = ""
    is_imported: bool = False
    rates: str | None = None


@dataclass(frozen=True, slots=True)
class CallerKey:
    """A provider key of the caller's own.

    `header` is where it came in: a header name in lower case, or `b"key"` for `?key=`.
    """

    header: bytes
    key: Secret


@dataclass(frozen=True, slots=True)
class Tags:
    """Whom and what a call is for.

    Args:
        user_source: `host`, `key`, `signed`, `header`, `body` or `synthetic`.
        user_trust: `verified`, `signed`, `asserted` or `synthetic`.
        trace_id: 32 hexadecimal digits of `traceparent`.
    """

    user_id: str | None = None
    user_source: str | None = None
    user_trust: str | None = None
    session_id: str | None = None
    session_path: str | None = None
    session_name: str | None = None
    properties: dict[str, str] | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for, from method, path and headers alone.

    Args:
        dialect: Decides error shape, credential header and home provider.
        format: Wire format of the body, as `registry.toml` names endpoints: `openai-chat`,
            `openai-responses`, `anthropic-messages`, `gemini` … Formats without usage
            metering have names too (`openai-files`), None only on `/providers/{id}/*`.
        name: Low-cardinality name for records and metrics, for example `/v1/chat/completions`.
        path: What is appended to a base URL, percent-encoding as the caller sent it.
        is_json: The body is one JSON object that names the model (else: relayed unparsed).
        model: The model where the path names it (Gemini, Azure, Bedrock), percent-decoded.
        is_stream: True or False where the path decides, None where the body does.
        provider: The provider where the path names one (`/providers/{id}/*`).
    """

    dialect: Dialect
    format: str | None
    name: str
    path: str
    is_json: bool
    model: str | None = None
    is_stream: bool | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, normalised: totals include their parts.

    Args:
        input_tokens: All input that is billed, cached reads and writes included.
        output_tokens: All output, reasoning included.
        cache_read_tokens: Part of the input that was read from the provider's cache.
        cache_write_tokens: Part of the input that was written to it (5 min and 1 h together).
        cache_write_1h_tokens: Part of `cache_write_tokens` with the one-hour lifetime.
        reasoning_tokens: Part of the output.
        input_audio_tokens: Part of the input.
        output_audio_tokens: Part of the output.
        estimated: The provider sent no (complete) usage; the figures are ours.
        others: Further quantities that are billed but not logged, by their names in genai-prices:
            `input_image_tokens`, `output_image_tokens`, `web_searches`, `audio_seconds` …
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    estimated: bool = False
    others: tuple[tuple[str, int], ...] = ()


class AttemptRecord(NamedTuple):
    """One call of a provider. `status` is None if no response head arrived.

    `reason` says why it was not the last one or why it was passed over (`no_key`, `status`,
    `connect`, `timeout` …); None for an attempt whose answer was given to the caller.
    """

    provider: str
    key_id: str | None
    model: str | None
    status: int | None
    reason: str | None
    duration_ms: float


class CallRecord(NamedTuple):
    """One call, as it is logged. A tuple, for it is a database row: built once per call.

    Absent is None. Times are microseconds since the epoch (UTC) and milliseconds of duration.
    """

    id: str
    tenant: str | None
    principal_kind: str | None
    principal_id: str | None
    started_at_us: int
    duration_ms: float
    first_byte_ms: float | None
    dialect: str | None
    format: str | None
    route: str | None
    provider: str | None
    model_requested: str | None
    model: str | None
    status: int | None
    error_code: str | None
    is_stream: bool
    complete: bool
    client_left: bool
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    cache_write_1h_tokens: int | None
    reasoning_tokens: int | None
    input_audio_tokens: int | None
    output_audio_tokens: int | None
    usage_estimated: bool
    cost_nanousd: int | None
    cache: str | None
    attempts: tuple[AttemptRecord, ...]
    user_id: str | None
    user_source: str | None
    user_trust: str | None
    session_id: str | None
    session_path: str | None
    session_name: str | None
    properties: dict[str, str] | None
    request_bytes: int
    response_bytes: int
    request_body: bytes | None
    response_body: bytes | None
    request_truncated: bool
    response_truncated: bool
    cache_reason: str | None = None
    saved_nanousd: int | None = None
    saved_ms: float | None = None
    original_id: str | None = None
    trace_id: str | None = None
