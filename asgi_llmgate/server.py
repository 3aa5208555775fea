"""The server of `llmgate serve`: uvicorn on httptools, with the bounds that httptools lacks.

Left alone it keeps whatever a stranger sends until a head is complete, however large that gets
(one header of 60 MB took 120 MB of memory), and waits for it forever. So the bytes that are neither
a finished head nor a body are counted: heads, sizes of chunks, trailers. And a request that stops
on its way is given up.

Not for bodies as a whole: their size is `HygieneMiddleware`'s business, their pace the sender's.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["BoundedProtocol"]

# Far above what the gateway takes of headers, which tells its callers why it refuses them.
MAX_HEAD_BYTES = 256 * 1024

# Heads come in one packet, nearly always; Apache gives them 20 s, nginx 60.
HEAD_S = 20.0

# Without a byte, while we are reading. nginx: 60 s.
BODY_IDLE_S = 60.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A head that is too large or too late is a 400, a body that stops an end."""

    _bare_bytes = 0  # since the last end of a head, piece of a body or end of a request
    _in_head = True
    _in_body = False
    _moved_at_s = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bare_bytes += len(data)
        super().data_received(data)
        if self._bare_bytes > MAX_HEAD_BYTES:
            if not self.transport.is_closing():
                self._refuse("The head of the request is too large.")
        elif self._in_head or self._in_body:
            self._moved_at_s = self.loop.time()
            if self._timer is None:
                wait_s = HEAD_S if self._in_head else BODY_IDLE_S
                self._timer = self.loop.call_later(wait_s, self._give_up)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._bare_bytes = 0
        self._in_head, self._in_body = False, True
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bare_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bare_bytes = 0
        self._in_body = False
        self._stop_timer()
        super().on_message_complete()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # Or it has become a WebSocket.
        if self._in_head:
            if self.scope is None:  # Not a byte of a first request.
                self.transport.close()
            else:
                self._refuse("The head of the request did not arrive in time.")
            return
        idle_s = self.loop.time() - self._moved_at_s
        if self.flow.read_paused or idle_s < BODY_IDLE_S:
            wait_s = BODY_IDLE_S if self.flow.read_paused else BODY_IDLE_S - idle_s
            self._timer = self.loop.call_later(wait_s, self._give_up)
        else:
            self.transport.close()

    def _refuse(self, message: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response(message)
        else:
            self.transport.close()  # An answer is on its way that must not be mixed up with this.
