"""What the transports share beside the timers."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import certifi

from asgi_llmgate.errors import ConfigurationError, InvalidRequestError, UpstreamConnectError
from asgi_llmgate.protocols import UpstreamRequest

__all__ = [
    "BROKEN",
    "DEFAULT_MAX_CONNECTIONS",
    "NO_ANSWER",
    "OWN_HEADERS",
    "SLICE_BYTES",
    "cannot_be_sent",
    "client_context",
    "not_connected",
    "read_ca_file",
    "slices",
]

NO_ANSWER = "The provider closed the connection before it answered."
BROKEN = "The provider closed the connection before its response was complete."

# What libraries, OpenSSL and the resolver write, in lower case, and what of it a caller may know.
CONNECT_REASONS = (
    ("refused", "it refuses connections"),
    ("certificate", "its certificate is not trusted"),
    ("dns error", "its name could not be resolved"),
    ("gaierror", "its name could not be resolved"),
)

# Every stream holds a connection for minutes, so httpx's 100 would be the gateway's limit. More
# than this runs into the 1024 open files that most systems allow a process.
DEFAULT_MAX_CONNECTIONS = 900

# Where a request goes and where it ends is decided by its URL and body alone.
OWN_HEADERS = frozenset({b"host", b"content-length", b"transfer-encoding"})

# A body up to this size fits into the socket's buffers, so there is no writing to time. A larger
# one is written in slices, so that `write_s` bounds a standstill, not the length of an upload.
SLICE_BYTES = 256 * 1024

CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----\n.+?\n-----END CERTIFICATE-----\n?", re.DOTALL
)


def read_ca_file(path: Path) -> list[bytes]:
    """Return the certificates of a PEM file, one by one.

    Raises:
        ConfigurationError: it cannot be read, or holds none that can.
    """
    try:
        found = CERTIFICATE.findall(path.read_bytes().replace(b"\r\n", b"\n"))
    except OSError as error:
        raise ConfigurationError(
            f"The CA file {path} cannot be read: {error.strerror}.\n"
            "HINT: `ca_file` names a PEM file that this process may read."
        ) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=b"".join(found).decode()
        )
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(
            f"The CA file {path} holds no certificate, or a damaged one.\n"
            "HINT: it must be in PEM format, with `-----BEGIN CERTIFICATE-----` lines."
        ) from None
    return found


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts certifi's authorities, those of `ca_file`, and nobody else."""
    # Not `create_default_context`, which writes the keys of sessions to where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=certifi.where())
    for certificate in read_ca_file(ca_file) if ca_file is not None else ():
        context.load_verify_locations(cadata=certificate.decode())
    return context


async def slices(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), SLICE_BYTES):
        yield body[start : start + SLICE_BYTES]


def not_connected(text: str) -> UpstreamConnectError:
    """Return the error for a connection that failed; `text` is the library's, and not shown."""
    text = text.lower()
    for mark, reason in CONNECT_REASONS:
        if mark in text:
            return UpstreamConnectError(f"No connection to the provider: {reason}.")
    return UpstreamConnectError("No connection to the provider could be made.")


def cannot_be_sent(request: UpstreamRequest) -> InvalidRequestError:
    """Say what of `request` is malformed, without its value."""
    for name, value in request.headers:
        text = value.decode("latin-1")
        if not value.isascii() or not (text.isprintable() or text.replace("\t", "").isprintable()):
            shown = name.decode("latin-1")
            return InvalidRequestError(
                f"The value of the header `{shown}` cannot be sent: it is not plain ASCII text.",
                code="invalid_header",
                param=shown,
            )
    return InvalidRequestError("The request's method, URL or header names cannot be sent.")
