"""Post signed JSON to a URL that somebody configured, without becoming his way into our network.

Rule R9: the name is resolved once per attempt, every address it has must be public, and the
connection goes to one of the addresses that were checked. No redirect is followed, no proxy is
read from the environment.

Signatures are those of the Standard Webhooks specification 1.0.0: HMAC-SHA256 over
`id.timestamp.body`, in `webhook-signature: v1,<base64>`.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from asgi_llmgate.core.addresses import is_public
from asgi_llmgate.core.ids import new_id
from asgi_llmgate.core.json import dumps

__all__ = ["BadWebhookError", "Webhooks", "check_webhook"]

logger = logging.getLogger("asgi_llmgate")

Resolve = Callable[[str, int], Awaitable[list[str]]]

# Long enough for a receiver that is being deployed.
PAUSES_S = (1.0, 5.0, 30.0, 120.0, 600.0)
ATTEMPT_TIMEOUT_S = 10.0
PORTS = frozenset({443, 8443})
MAX_HEAD_BYTES = 64 * 1024


class BadWebhookError(ValueError):
    """A URL that is not posted to. The message is for whoever configured it."""


class _PostError(Exception):
    """An attempt that failed. `again` says whether another may do better."""

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


def check_webhook(url: str, allowed_hosts: frozenset[str] = frozenset()) -> tuple[str, int, str]:
    """Return host, port and path with query of `url`.

    Args:
        allowed_hosts: The operator's own, which may be private and without TLS.

    Raises:
        BadWebhookError: it is not one to post to.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadWebhookError("a webhook must be a URL") from None
    host = (parts.hostname or "").lower()
    is_own = host in allowed_hosts
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise BadWebhookError("a webhook must be a URL of printable ASCII, with a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise BadWebhookError("a webhook has no user, password or fragment")
    if parts.scheme != "https" and not (is_own and parts.scheme == "http"):
        raise BadWebhookError("a webhook must be https")
    port = port or (443 if parts.scheme == "https" else 80)
    if port not in PORTS and not is_own:
        raise BadWebhookError(f"a webhook's port must be {' or '.join(map(str, sorted(PORTS)))}")
    if not is_own and host.replace(".", "").isdigit() and not is_public(host):
        raise BadWebhookError("a webhook must be on the internet")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port, path


class Webhooks:
    """Posts, and tries again for a quarter of an hour.

    Args:
        secret: Signs. Receivers check with `whsec_` and its base64.
        allowed_hosts: The operator's own, which may be private and without TLS.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        allowed_hosts: frozenset[str] = frozenset(),
        resolve: Resolve | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.failed = 0
        self._secret = secret
        self._allowed_hosts = allowed_hosts
        self._resolve = resolve or _resolve
        self._sleep = sleep
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, event: dict[str, object]) -> bool:
        """Post `event`; tell whether somebody took it. Takes up to a quarter of an hour."""
        body = dumps(event)
        message_id = f"msg_{new_id(time.time_ns() // 1_000_000)}"
        for pause_s in (*PAUSES_S, None):
            try:
                async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                    await self._attempt(url, body, message_id)
                return True
            except (OSError, TimeoutError, _PostError, BadWebhookError) as error:
                again = getattr(error, "again", not isinstance(error, BadWebhookError))
                if pause_s is None or not again:
                    # Not the URL: its path may be a secret.
                    logger.error("A webhook was not taken: %s", error or type(error).__name__)
                    self.failed += 1
                    return False
            await self._sleep(pause_s)
        return False

    async def _attempt(self, url: str, body: bytes, message_id: str) -> None:
        host, port, path = check_webhook(url, self._allowed_hosts)
        addresses = await self._resolve(host, port)
        if not addresses:
            raise _PostError("its host has no address")
        if host not in self._allowed_hosts and not all(map(is_public, addresses)):
            raise _PostError("its host has an address that is not on the internet", again=False)
        tls = None
        if url.lower().startswith("https:"):
            if self._tls is None:
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            tls = self._tls
        reader, writer = await asyncio.open_connection(
            addresses[0],
            port,
            ssl=tls,
            server_hostname=host if tls is not None else None,
            limit=MAX_HEAD_BYTES,
        )
        try:
            shown = f"[{host}]" if ":" in host else host
            writer.write(self._head(shown, port, path, body, message_id) + body)
            await writer.drain()
            status_line = await reader.readline()
        except ValueError:
            raise _PostError("its answer is no HTTP") from None
        finally:
            writer.close()
        words = status_line.split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise _PostError("its answer is no HTTP")
        status = int(words[1])
        if not 200 <= status < 300:
            raise _PostError(
                f"it answered {status}", again=status >= 500 or status in (408, 409, 425, 429)
            )

    def _head(self, host: str, port: int, path: str, body: bytes, message_id: str) -> bytes:
        timestamp = int(time.time())
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {host}" if port in (80, 443) else f"Host: {host}:{port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "User-Agent: asgi-llmgate",
            f"webhook-id: {message_id}",
            f"webhook-timestamp: {timestamp}",
            f"webhook-signature: {self.signature(message_id, timestamp, body)}",
            "Connection: close",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def signature(self, message_id: str, timestamp: int, body: bytes) -> str:
        signed = f"{message_id}.{timestamp}.".encode() + body
        return "v1," + base64.b64encode(hmac.digest(self._secret, signed, "sha256")).decode()


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in found]
