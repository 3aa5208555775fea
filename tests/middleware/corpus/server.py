"""A guarded app on a real server, and a client that sends bytes as they are."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate._asgi.respond import send_error, send_json
from asgi_llmgate.context import SCOPE_KEY, GatewayContext
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.errors import GatewayError
from asgi_llmgate.middleware.auth import AuthMiddleware
from asgi_llmgate.middleware.hygiene import HygieneMiddleware
from asgi_llmgate.types import Dialect, Route
from tests.middleware.corpus import KEY

ANY = Route(Dialect.OPENAI, None, "any", "/", False)
WAIT_S = 0.3
"""How long an answer may take; also how long the server keeps an idle connection."""


@dataclass
class Guarded:
    """An app that answers 200 to all that reaches it, and remembers their paths.

    As in the gateway, every path is guarded but a frozen set of public ones.
    """

    reached: list[str] = field(default_factory=list)
    port: int = 0

    def app(self) -> ASGIApp:
        auth = AuthMiddleware(self._model, keys={"acme": KEY}, mode="required")

        async def gate(scope: Scope, receive: Receive, send: Send) -> None:
            path: str = scope["path"]
            if scope["type"] != "http":
                return
            if path == "/healthz":
                await self._model(scope, receive, send)
                return
            route = match_route(scope["method"], path, scope.get("raw_path"), {}) or ANY
            context = scope[SCOPE_KEY] = GatewayContext(scope, receive, route)
            try:
                await auth(scope, receive, send)
            except GatewayError as error:
                await send_error(error, context, send)

        return HygieneMiddleware(gate)

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        self.reached.append(scope["path"])
        await send_json(send, 200, {})

    def exchange(self, payload: bytes) -> tuple[list[int], list[str]]:
        """Send `payload`; return the statuses of all answers, and the paths that were reached."""
        self.reached.clear()
        received = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=2 * WAIT_S) as connection,
            # The end of an answer is the end of the connection, or that nothing more comes.
            contextlib.suppress(TimeoutError, ConnectionResetError, BrokenPipeError),
        ):
            connection.sendall(payload)
            while chunk := connection.recv(65536):
                received += chunk
        statuses = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
        return statuses, list(self.reached)


@contextlib.contextmanager
def serving(parser: str) -> Iterator[Guarded]:
    """Run the app on uvicorn with `parser` (h11 or httptools), on a free port, in a thread."""
    guarded = Guarded()
    config = uvicorn.Config(
        guarded.app(),
        port=0,
        http=parser,
        ws="none",
        lifespan="off",
        log_level="critical",
        timeout_keep_alive=WAIT_S,  # type: ignore[arg-type]  # any number works
    )
    server = Announcing(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.is_up.wait(10)
    guarded.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield guarded
    finally:
        server.should_exit = True
        thread.join(10)


class Announcing(uvicorn.Server):
    """A server that says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()
