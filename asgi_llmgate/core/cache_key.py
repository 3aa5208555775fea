"""Which requests may share an answer. The only place that decides sameness.

A key is an HMAC-SHA256 over fields that are each preceded by their length, so that no two lists
of fields join to the same bytes. What tells requests apart is the JSON value of the body, not its
spelling: order of keys and white space are out, everything else is in. A field that nobody here
has heard of is in: a needless miss costs a request, a wrong hit costs trust.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, NewType
from urllib.parse import parse_qsl

import orjson

from asgi_llmgate.core.json import JSONError

__all__ = [
    "ATTRIBUTION",
    "NOT_IN_KEY",
    "CacheKey",
    "Question",
    "answer_key",
    "cache_key",
    "is_exact",
    "partition",
    "partitions_of",
    "scope_key",
]

CacheKey = NewType("CacheKey", str)
"""64 hex digits."""

# Raised whenever keys or entries change their meaning: what an older version wrote is then unseen.
SCHEMA = b"llmgate-cache-1"
SCOPE_SCHEMA = "llmgate-scope-1"

NOT_IN_KEY = frozenset(
    {
        "stream",  # one record is replayed either way
        "stream_options",  # as above: usage at the end of a stream, padding of its events
    }
)
"""Fields that never change what an answer says."""

ATTRIBUTION = frozenset(
    {
        "metadata",  # stored with the call, not shown to the model
        "safety_identifier",  # abuse attribution only
        "user",  # attribution only; isolation is the namespace's job
    }
)
"""Fields that name the caller. A provider does not show them to the model, so that they are left
out in front of one; an application of somebody's own may well personalise by them."""

# What a query says of form and credentials; all else is in (`api-version`, for example).
_NOT_IN_KEY_OF_QUERY = frozenset({"alt", "key"})

# Behind 64 bits orjson makes a float of an integer, and different ones become the same.
_LONG_NUMBER = b"0" * 17
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))

_LENGTH = struct.Struct(">q")
_NONE = _LENGTH.pack(-1)


class Question(NamedTuple):
    """Everything that an answer depends on. A tuple, for one is made on every call.

    Args:
        namespace: Whose answers these are; never empty.
        dialect: What the caller speaks: answers are replayed within it.
        wire_format: As in `Route.format`.
        endpoint: Path that was asked, without what only decides between stream and JSON.
        query: The query string as sent; credentials and form are left out here.
        request: The decoded body, after prompt templates were resolved.
        body: The bytes it was decoded from, if there are any.
        target: What the caller said about where to go, and how: provider, URL, chain.
        headers: Further headers that change answers, as (name, value).
        prompt_digest: Content address of the prompt template; None without one.
        prompt_epoch: Raised whenever a label of that prompt moves.
        seed: The caller's own separator.
        data_versions: Of the data that answers are made from.
        ignored: Top-level names of the body that do not tell requests apart.
    """

    namespace: str
    dialect: str
    wire_format: str
    endpoint: str
    request: Mapping[str, Any]
    query: bytes = b""
    body: bytes | None = None
    target: tuple[str | None, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    prompt_digest: str | None = None
    prompt_epoch: int | None = None
    seed: str | None = None
    data_versions: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    left_out: Collection[str] = NOT_IN_KEY


def cache_key(secret: bytes, question: Question) -> CacheKey:
    """Return the key under which answers to `question` are stored.

    Raises:
        ValueError: the namespace is empty: callers without one must bypass the cache.
    """
    if not question.namespace:
        raise ValueError("a cache key needs a namespace")
    ignored = sorted(set(question.ignored)) if question.ignored else []
    canonical = _canonical(question, ignored)
    prefix = _prefix(
        question.namespace,
        question.dialect,
        question.wire_format,
        question.endpoint,
        question.query,
        question.target,
        question.headers,
        question.prompt_digest,
        question.prompt_epoch,
        question.seed,
        question.data_versions,
        tuple(ignored),
    )
    message = b"".join((prefix, _LENGTH.pack(len(canonical)), canonical))
    return CacheKey(hmac.digest(secret, message, "sha256").hex())


def scope_key(secret: bytes, question: Question, *, embedder: str) -> str:
    """Return under which scope phrasings of `question` are compared: 64 hex digits.

    Args:
        question: With a hole in `request` where the words were, and without `body`; only for
            bodies that are `is_exact`.
        embedder: Vectors of another one are never compared.

    Raises:
        ValueError: the namespace is empty.
    """
    versions = (*question.data_versions, SCOPE_SCHEMA, embedder)
    return cache_key(secret, question._replace(data_versions=versions))


def answer_key(secret: bytes, scope: str, first: str) -> CacheKey:
    """Return under which key the answer is kept that all phrasings of a question share.

    Args:
        first: Id of the phrasing that was answered first.
    """
    text = f"answer\0{scope}\0{first}".encode()
    return CacheKey(hmac.digest(secret, text, "sha256").hex())


def is_exact(body: bytes) -> bool:
    """Tell whether a decoded `body` still says all that its bytes say."""
    if b"NaN" in body or b"Infinity" in body:
        return False
    return _LONG_NUMBER not in body.translate(_DIGITS)


# All but the body is the same for most calls of a tenant. Bounded, for callers choose the rest.
@lru_cache(maxsize=512)
def _prefix(
    namespace: str,
    dialect: str,
    wire_format: str,
    endpoint: str,
    query: bytes,
    target: tuple[str | None, ...],
    headers: tuple[tuple[bytes, bytes], ...],
    prompt_digest: str | None,
    prompt_epoch: int | None,
    seed: str | None,
    data_versions: tuple[str, ...],
    ignored: tuple[str, ...],
) -> bytes:
    return _joined(
        [
            SCHEMA,
            namespace,
            dialect,
            wire_format,
            endpoint,
            _canonical_query(query) if query else b"",
            _joined(target),
            _joined(part for header in headers for part in header),
            prompt_digest,
            None if prompt_epoch is None else b"%d" % prompt_epoch,
            seed,
            _joined(data_versions),
            _joined(ignored),
        ]
    )


def partition(secret: bytes, namespace: str) -> str:
    """Return a name for `namespace` that does not tell it: 16 hex digits."""
    text = b"partition\0" + namespace.encode("utf-8", "surrogatepass")
    return hmac.digest(secret, text, "sha256").hex()[:16]


def partitions_of(secret: bytes, tenant: str) -> list[str]:
    """Return the partitions of a tenant, however he became known, or of a namespace."""
    return [partition(secret, prefix + tenant) for prefix in ("own:", "byok:", "")]


def _canonical(question: Question, ignored: list[str]) -> bytes:
    """Return the body as JSON with sorted keys, equal for equal values and for no others."""
    request = question.request
    out = question.left_out
    body = question.body
    is_exact = body is None or _LONG_NUMBER not in body.translate(_DIGITS)
    if not is_exact:
        # Once more, by a reader that keeps every digit.
        assert body is not None
        request = _exactly(body)
    identity = {
        name: value for name, value in request.items() if name not in out and name not in ignored
    }
    if is_exact:
        try:
            canonical = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
        except (TypeError, ValueError):
            pass  # lone surrogates, integers of more than 64 bits
        else:
            # NaN and Infinity, which Python reads and writes, would be null.
            if body is None or (b"NaN" not in body and b"Infinity" not in body):
                return b"o" + canonical
            request = identity = {
                name: value for name, value in _exactly(body).items() if name in identity
            }
    return b"p" + json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()


def _exactly(body: bytes) -> dict[str, Any]:
    """Decode with Python's own reader, to which integers of any length are integers."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise JSONError(str(error)) from None
    return value if isinstance(value, dict) else {}


def _canonical_query(query: bytes) -> bytes:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return _joined(
        part for pair in sorted(pairs) if pair[0] not in _NOT_IN_KEY_OF_QUERY for part in pair
    )


def _joined(parts: Iterable[bytes | str | None]) -> bytes:
    """Join `parts`, each after its length, so that no other list joins to the same bytes."""
    joined: list[bytes] = []
    for part in parts:
        if part is None:
            joined.append(_NONE)
            continue
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        joined.append(_LENGTH.pack(len(raw)))
        joined.append(raw)
    return b"".join(joined)
