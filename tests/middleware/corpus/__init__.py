"""Requests that two servers could read differently, as bytes for a socket.

`{auth}` is where a valid gateway key goes, or nothing. Written by ourselves after the classes of
bugs that gateways had: request smuggling, path confusion, Host confusion, forged credentials.

    framing.py       where does the body end, is there a second request in it?
    targets.py       which path is it: dots, slashes, encodings, other forms of target
    resolved.py      what a server may rewrite to one reading
    heads.py         Host, methods, repeated and misspelt headers, sizes
    credentials.py   everything that is nearly a key; never sent with a valid one
    fine.py          plain requests, so that nobody passes this corpus by refusing everything
"""

from __future__ import annotations

KEY = "lg_test_0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
"""The one valid key."""

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: gateway.test\r\n{auth}\r\n"
"""The request that must never arrive."""


def head(
    target: bytes = b"/v1/models",
    *lines: bytes,
    method: bytes = b"GET",
    host: bytes = b"Host: gateway.test",
) -> bytes:
    """Return a request without a body; the server closes the connection after its answer."""
    first = method + b" " + target + b" HTTP/1.1"
    return b"\r\n".join([first, host, *lines, b"{auth}Connection: close", b"", b""])


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """Return a chat call with these lines of framing, and `body` behind it as it is."""
    first = b"POST /v1/chat/completions HTTP/1.1"
    kind = b"Content-Type: application/json"
    return b"\r\n".join([first, b"Host: gateway.test", kind, *lines, b"{auth}\r\n"]) + body


def with_key(payload: bytes, key: str | None) -> bytes:
    """Fill in `{auth}`."""
    line = b"" if key is None else b"Authorization: Bearer " + key.encode() + b"\r\n"
    return payload.replace(b"{auth}", line)
