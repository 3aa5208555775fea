"""What machines ask the gateway: is it alive, is it ready, what are its figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from starlette.types import Receive, Scope, Send

from asgi_llmgate._asgi.respond import send_json, send_plain_error
from asgi_llmgate.context import first_headers
from asgi_llmgate.core.credentials import admin_token_digest, check_admin_token
from asgi_llmgate.core.exposition import Family, exposition
from asgi_llmgate.errors import AuthenticationError, InvalidRequestError

__all__ = ["Operations"]

# A frozen set of public routes: all else of the admin plane needs the token (rule R1).
PUBLIC = frozenset({"/healthz", "/readyz"})
ALL = PUBLIC | {"/metrics"}


class Operations:
    """`/healthz` and `/readyz` for anybody, without detail; `/metrics` for the admin token.

    Args:
        token: The admin token.
        data_dir: Where all workers of this machine leave their counters.
        is_ready: False while the server drains, so that balancers send nothing more.
        more: Returns metrics that are no counters of this machine. May block.
    """

    def __init__(
        self,
        *,
        token: str,
        data_dir: Path,
        is_ready: Callable[[], bool],
        more: Callable[[], Iterable[Family]] = tuple,
    ) -> None:
        self._token_digest = admin_token_digest(token)
        self._data_dir = data_dir
        self._is_ready = is_ready
        self._more = more

    def serves(self, path: str) -> bool:
        return path in ALL

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            refusal = _MethodError(f"{path} takes GET.", headers=[(b"allow", b"GET, HEAD")])
            await send_plain_error(refusal, path, (), send)
        elif path == "/healthz":
            await send_json(send, 200, {"status": "ok"})
        elif path == "/readyz":
            if self._is_ready():
                await send_json(send, 200, {"status": "ready"})
            else:
                await send_json(send, 503, {"status": "draining"})
        elif not check_admin_token(first_headers(scope), self._token_digest):
            stranger = AuthenticationError(
                "Send the admin token as `Authorization: Bearer …`. "
                "`llmgate admin-token` prints it.",
                headers=[(b"www-authenticate", b"Bearer")],
            )
            await send_plain_error(stranger, path, (), send)
        else:
            content = await asyncio.to_thread(self._scraped)
            headers = [
                (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),
                (b"content-length", b"%d" % len(content)),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})

    def _scraped(self) -> bytes:
        from asgi_llmgate.backends.metrics import render  # needs SQLite's driver, an extra

        return render(self._data_dir) + exposition(self._more())


class _MethodError(InvalidRequestError):
    status = 405
    code = "method_not_allowed"
