"""Refuse what two servers would read differently, before anything is decided on it.

Servers disagree about requests at the edges of HTTP: one takes the length where the other takes
the chunks, one decodes a dot where the other does not. An attacker lives in that gap. So every
check here is made on what the application was given, whatever the server let through, and each
one raises: a verdict that is returned can be dropped.

Nothing here looks at a body, and `Host` is checked but never decided on. Paths have a module of
their own, `core/hygiene_path.py`.

Sources: RFC 9110, RFC 9112 (framing), RFC 3986 §3.2 (host).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from asgi_llmgate.core.routes import find_route
from asgi_llmgate.errors import BodyTooLargeError, InvalidRequestError
from asgi_llmgate.types import Dialect

__all__ = [
    "METHODS",
    "CheckedHeaders",
    "check_body_length",
    "check_headers",
    "check_host",
    "check_method",
    "is_upload",
    "likely_dialect",
]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Headers that decide something here or at the provider: with an underscore for a hyphen they
# are refused, for what a front proxy strips or sets under one spelling would come in by the other.
_READ = frozenset(
    {b"accept", b"accept-encoding", b"api-key", b"authorization", b"cache-control", b"connection"}
    | {b"content-encoding", b"content-length", b"content-type", b"cookie", b"expect"}
    | {b"forwarded", b"host", b"idempotency-key", b"keep-alive", b"origin", b"te", b"trailer"}
    | {b"traceparent", b"tracestate", b"transfer-encoding", b"upgrade", b"user-agent", b"via"}
    | {b"x-api-key", b"x-http-method-override", b"x-original-url", b"x-real-ip"}
    | {b"x-request-id", b"x-rewrite-url"}
)
_READ_PREFIXES = (
    *(b"anthropic-", b"helicone-", b"llmgate-", b"openai-", b"proxy-"),
    *(b"sec-fetch-", b"x-forwarded-", b"x-goog-"),
)
# Property names are labels of the caller's own, and Helicone's users write them with underscores.
_PROPERTY_PREFIXES = (b"llmgate-property-", b"helicone-property-")

# Read as one value, so a second one would be read by some and not by others.
_SINGLE = frozenset(
    {b"anthropic-version", b"api-key", b"authorization", b"content-encoding", b"content-length"}
    | {b"content-type", b"helicone-auth", b"host", b"origin", b"sec-fetch-site"}
    | {b"transfer-encoding", b"x-api-key", b"x-goog-api-key"}
)
_SINGLE_PREFIX = b"llmgate-"

# `translate(None, these)` leaves what is odd; the fastest scan of a short text there is.
_PLAIN_NAME = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VISIBLE = bytes(range(0x21, 0x7F))
_VALUE_BYTES = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")

_UPLOADS = (b"multipart/", b"application/octet-stream", b"audio/", b"image/", b"video/")


# Not a NamedTuple: building one would be a tenth of all the work done here.
CheckedHeaders: TypeAlias = tuple[Sequence[tuple[bytes, bytes]], Mapping[bytes, bytes], int]
"""Headers to hand on (the same object if nothing had to change), the same as a mapping, and how
many were left out because of an underscore in their name."""


def check_method(method: str) -> None:
    """Raise `InvalidRequestError` unless `method` is one that HTTP APIs use."""
    if method not in METHODS:
        raise InvalidRequestError(
            f"This method is not served. Use one of {', '.join(sorted(METHODS))}.",
            code="unknown_route",
        )


def check_headers(
    headers: Sequence[tuple[bytes, bytes]],
    *,
    max_headers: int,
    max_header_bytes: int,
    http_version: str = "1.1",
) -> CheckedHeaders:
    """Return `headers` made unambiguous: names in lower case, none with a doubtful underscore.

    Args:
        headers: As the server gave them.
        max_header_bytes: Of names and values together, without separators.
        http_version: As ASGI has it: `1.0`, `1.1`, `2`, `3`.

    Raises:
        InvalidRequestError: too many or too large, an illegal character, a repeated header that
            is read as one value, framing that contradicts itself, no Host, a compressed body.
    """
    if len(headers) > max_headers:
        raise _refusal(f"The request has more than {max_headers} headers.")
    table = dict(headers)
    if len(table) == len(headers):
        names, values = b"".join(table), b"".join(table.values())
    else:
        names, values = (b"".join(column) for column in zip(*headers, strict=True))
    if len(names) + len(values) > max_header_bytes:
        raise _refusal(f"The headers are larger than {max_header_bytes} bytes.")
    if values.translate(None, _VALUE_BYTES):
        raise _refusal("A header value has a control character in it.")
    dropped = 0
    if names.translate(None, _PLAIN_NAME) or b"" in table:
        before = len(headers)
        headers = _tidied(headers)
        dropped = before - len(headers)
        table = dict(headers)
    if len(table) != len(headers):
        _check_repeats(headers)
    if b"host" not in table:
        raise _refusal("The request has no Host header.", "Host")
    if b"transfer-encoding" in table:
        _check_transfer_encoding(table, http_version)
    if b"content-encoding" in table:
        _check_content_encoding(table[b"content-encoding"])
    return headers, table, dropped


@lru_cache(maxsize=256)  # A server has few names; fewer still are asked for often.
def check_host(host: bytes, allowed: frozenset[str] | None = None) -> None:
    """Raise `InvalidRequestError` for a malformed Host, or one that is not in `allowed`.

    Args:
        allowed: Names without port, in lower case; `*.example.com` stands for any subdomain.
            None allows every well-formed one.
    """
    match = _HOST.fullmatch(host)
    if match is None or (match[1] is not None and int(match[1]) > 65535):
        raise _refusal("The Host header is malformed.", "Host")
    if allowed is None:
        return
    name = host[: match.start(1) - 1].decode() if match[1] is not None else host.decode()
    name = name.lower()
    if name not in allowed and f"*.{name.partition('.')[2]}" not in allowed:
        raise _refusal("This Host is not served here.", "Host")


def check_body_length(
    content_length: bytes,
    content_type: bytes | None,
    *,
    max_body_bytes: int,
    max_upload_bytes: int,
) -> None:
    """Refuse a body that says it is too large.

    Raises:
        InvalidRequestError: `content_length` is not a plain decimal number.
        BodyTooLargeError: it is larger than bodies of this type may be.
    """
    # `int` would also take signs, blanks and underscores; 18 digits cannot overflow anything.
    if not content_length.isdigit() or len(content_length) > 18:
        raise _refusal("Content-Length is not a number.", "Content-Length")
    length = int(content_length)
    if length > max_body_bytes:
        limit = max_upload_bytes if is_upload(content_type) else max_body_bytes
        if length > limit:
            raise too_large(limit)


def too_large(limit: int) -> BodyTooLargeError:
    """Return the error for a body of more than `limit` bytes."""
    return BodyTooLargeError(
        f"The request body is larger than {limit} bytes. Send less, or send large files as "
        "multipart/form-data where the API has an upload for them."
    )


def is_upload(content_type: bytes | None) -> bool:
    """Tell whether a body is relayed unparsed, and may therefore be large."""
    return content_type is not None and content_type.lower().startswith(_UPLOADS)


def likely_dialect(path: str, header_names: Iterable[bytes]) -> Dialect:
    """Guess whose API the caller speaks, for the shape of a refusal only; default OpenAI's."""
    if "/openai/deployments/" in path:
        return Dialect.AZURE
    route = find_route("POST", path)
    if route is not None:
        return route.dialect
    names = {name.lower() for name in header_names}
    if b"anthropic-version" in names or "/v1/messages" in path:
        return Dialect.ANTHROPIC
    if b"x-goog-api-key" in names or "/v1beta/" in path:
        return Dialect.GEMINI
    return Dialect.BEDROCK if "/model/" in path else Dialect.OPENAI


def _refusal(message: str, param: str | None = None) -> InvalidRequestError:
    return InvalidRequestError(message, code="invalid_header", param=param)


def _tidied(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = []
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise _refusal("A header name has an illegal character in it.")
        lower = name.lower()
        if b"_" in lower and not lower.startswith(_PROPERTY_PREFIXES):
            hyphened = lower.replace(b"_", b"-")
            if hyphened in _READ or hyphened.startswith(_READ_PREFIXES):
                raise _refusal(
                    f"The header {name.decode()} has underscores. Write {hyphened.decode()}.",
                    name.decode(),
                )
            continue
        kept.append((lower, value))
    return kept


def _check_repeats(headers: Iterable[tuple[bytes, bytes]]) -> None:
    seen = set()
    for name, _ in headers:
        if name in seen and (name in _SINGLE or name.startswith(_SINGLE_PREFIX)):
            shown = name.decode().title().replace("Llmgate-", "LLMGate-")
            raise _refusal(f"The header {shown} was sent more than once.", shown)
        seen.add(name)


def _check_transfer_encoding(table: Mapping[bytes, bytes], http_version: str) -> None:
    if b"content-length" in table:
        raise _refusal(
            "The request has both Content-Length and Transfer-Encoding. Send one of them.",
            "Transfer-Encoding",
        )
    if table[b"transfer-encoding"].strip(b" \t").lower() != b"chunked" or http_version != "1.1":
        raise _refusal(
            "The only Transfer-Encoding that is understood is chunked, on HTTP/1.1.",
            "Transfer-Encoding",
        )


def _check_content_encoding(value: bytes) -> None:
    # Decompressing is how a small request becomes a large one, and no provider's API needs it.
    if value.strip(b" \t").lower() not in {b"", b"identity"}:
        raise _refusal(
            "Compressed request bodies are not accepted. Send the body without Content-Encoding.",
            "Content-Encoding",
        )
