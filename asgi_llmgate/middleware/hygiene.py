"""Refuse requests that two servers would read differently, and bodies that are too large."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate._asgi.respond import send_plain_error
from asgi_llmgate.core.hygiene import (
    check_body_length,
    check_headers,
    check_host,
    check_method,
    is_upload,
    too_large,
)
from asgi_llmgate.core.hygiene_path import check_path
from asgi_llmgate.errors import BodyTooLargeError, GatewayError, InvalidRequestError
from asgi_llmgate.protocols import Count

__all__ = ["HygieneMiddleware"]

logger = logging.getLogger("asgi_llmgate.hygiene")

MIB = 1024 * 1024

REFUSED = "llmgate_requests_refused_total"
DROPPED_HEADERS = "llmgate_headers_dropped_total"


class HygieneMiddleware:
    """Answer 400 or 413 before anything is decided on a request that is not plain HTTP.

    The first thing in a gateway, in front of everything, the admin pages too. Makes no
    difference between servers: what one of them lets through is checked here again. Knows
    nothing of the other middlewares, and reads no byte of a body that declared its length.

    What it refuses is in `core/hygiene.py`. Headers whose names have underscores are refused
    where their hyphened form means something here; the others are left out and counted.

    Args:
        app: The application inside.
        max_headers: How many headers a request may have.
        max_header_bytes: Of all names and values together.
        max_body_bytes: Of a body that is parsed: JSON, and all that is not an upload.
        max_upload_bytes: Of a multipart or binary body, which is relayed as it comes.
        allowed_hosts: Names that `Host` may have, without port; `*.example.com` stands for any
            subdomain. None allows every well-formed one. Nothing is ever decided on it but this.
        count: Where refusals and left out headers are counted, too.

    Attributes:
        refused: Number of refusals since start, by error code.
        dropped_headers: Number of headers left out since start.
    """

    # Defaults: h11 allows 16 KiB and nginx 32 KiB of headers, Apache 100 of them. A 128k-token
    # prompt is ~0.5 MiB, inline images push that to tens of MiB; 512 MiB is OpenAI's own limit
    # for a file.
    def __init__(
        self,
        app: ASGIApp,
        *,
        max_headers: int = 100,
        max_header_bytes: int = 32 * 1024,
        max_body_bytes: int = 32 * MIB,
        max_upload_bytes: int = 512 * MIB,
        allowed_hosts: Iterable[str] | None = None,
        count: Count | None = None,
    ) -> None:
        self.app = app
        self._count = count
        self.max_headers = max_headers
        self.max_header_bytes = max_header_bytes
        self.max_body_bytes = max_body_bytes
        self.max_upload_bytes = max_upload_bytes
        self.allowed_hosts = (
            None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
        )
        self.refused: Counter[str] = Counter()
        self.dropped_headers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            limit = self._check(scope)
        except InvalidRequestError as error:
            await self._refuse(error, scope, send)
            return
        if limit is None:
            await self.app(scope, receive, send)
        else:
            await self._watch(limit, scope, receive, send)

    def _check(self, scope: Scope) -> int | None:
        """Return how large the body may be if only reading it will tell, else None."""
        check_method(scope["method"])
        check_path(
            scope["path"],
            scope.get("raw_path"),
            scope.get("root_path", ""),
            scope.get("query_string", b""),
        )
        headers, table, dropped = check_headers(
            scope["headers"],
            max_headers=self.max_headers,
            max_header_bytes=self.max_header_bytes,
            http_version=scope.get("http_version", "1.1"),
        )
        check_host(table[b"host"], self.allowed_hosts)
        if headers is not scope["headers"]:
            scope["headers"] = headers
            self.dropped_headers += dropped
            if dropped and self._count is not None:
                self._count(DROPPED_HEADERS, dropped)
        length, kind = table.get(b"content-length"), table.get(b"content-type")
        if length is None:
            return self.max_upload_bytes if is_upload(kind) else self.max_body_bytes
        check_body_length(
            length,
            kind,
            max_body_bytes=self.max_body_bytes,
            max_upload_bytes=self.max_upload_bytes,
        )
        return None

    async def _watch(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a body of unknown length, and end it with 413 if that is too long."""
        body = WatchedBody(limit, receive, send)
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            # Whatever the app made of it: the cause is known, and is the client's.
            if not body.is_too_large or body.answered:
                raise
        if body.is_too_large and not body.answered:
            await self._refuse(too_large(limit), scope, send)

    async def _refuse(self, error: GatewayError, scope: Scope, send: Send) -> None:
        self.refused[error.code] += 1
        if self._count is not None:
            self._count(REFUSED, code=error.code)
        logger.info("refused a request: %s", error)
        await send_plain_error(
            error,
            scope["path"],
            (name for name, _ in scope["headers"]),
            send,
            closes=scope.get("http_version", "1.1").startswith("1"),
        )


class WatchedBody:
    """Counts a body as it is read, and keeps other answers back once it was too large.

    An application that catches the error, or answers 500 for it, would hide what is wrong.
    """

    __slots__ = ("_limit", "_receive", "_received_bytes", "_send", "answered", "is_too_large")

    def __init__(self, limit: int, receive: Receive, send: Send) -> None:
        self._limit = limit
        self._receive = receive
        self._send = send
        self._received_bytes = 0
        self.is_too_large = False
        self.answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._limit:
                self.is_too_large = True
                raise too_large(self._limit)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.is_too_large and message["status"] != BodyTooLargeError.status:
                return
            self.answered = True
        elif self.is_too_large and not self.answered:
            return  # The body of an answer that was kept back.
        await self._send(message)
