"""Hold an answer back until it is known whether another shall be asked for.

    start ─┬─ status ≥ 400 ────────▶ held: body and all
           ├─ a stream ────────────▶ held until its first content, its end, or the bound
           └─ anything else ───────▶ open, unless its end must be read first

Once open a gate stays open: nothing that follows can be taken back.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Send

from asgi_llmgate.core.answer import answer_finish
from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.meter import StreamMeter

__all__ = ["ResponseGate"]

# An error is some hundred bytes; what a stream says before its content, some thousand.
MAX_HELD_BYTES = 1024 * 1024
MAX_HELD_STREAM_BYTES = 64 * 1024

FILTERED = frozenset({"content_filter", "content_filtered", "refusal", "guardrail_intervened"})
BLOCKED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"}
)


class ResponseGate:
    """The `send` of one attempt.

    Args:
        send: The caller.
        wire_format: As in `Route.format`.
        holds: False lets everything through: nothing would follow anyway.
        reads_end: Hold whole answers, too, to learn why the model stopped.
        extra: Headers added to an answer of status 400 or more that is let through.
        stall_s: How long a stream may take from its head to its first content.
        timer: Set to go off then; whoever waits for the attempt is inside it.
    """

    def __init__(
        self,
        send: Send,
        *,
        wire_format: str | None,
        holds: bool,
        reads_end: bool = False,
        extra: list[tuple[bytes, bytes]] | None = None,
        stall_s: float | None = None,
        timer: asyncio.Timeout | None = None,
    ) -> None:
        self._send = send
        self._format = wire_format
        self._reads_end = reads_end
        self._extra = extra or []
        self._stall_s = stall_s
        self._timer = timer
        self._held: list[Message] = []
        self._size = 0
        self._meter: StreamMeter | None = None
        self.is_open = not holds
        self.started = False
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_at_s: float | None = None
        """When the head came, on the clock of the event loop."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
            if self.is_open and self.status is not None and self.status >= 400 and self._extra:
                message = {**message, "headers": [*message.get("headers", ()), *self._extra]}
        if self.is_open:
            await self._send(message)
            return
        self._held.append(message)
        if message["type"] != "http.response.body":
            if self._lets_through():
                await self._open()
            return
        body: bytes = message.get("body", b"")
        self._size += len(body)
        if self._meter is not None:
            self._meter.feed(body)
            if self._meter.first_content or self._size > MAX_HELD_STREAM_BYTES:
                await self._open()
        elif self._size > MAX_HELD_BYTES:
            await self._open()

    async def release(self, extra: list[tuple[bytes, bytes]] | None = None) -> None:
        """Send what is held, with `extra` headers, when the attempt is over."""
        self._timer = None
        if extra and self._held:
            start = self._held[0]
            self._held[0] = {**start, "headers": [*start.get("headers", ()), *extra]}
        await self._open()

    @property
    def body(self) -> bytes:
        """What is held of the body."""
        return b"".join(message.get("body", b"") for message in self._held[1:])

    @property
    def is_good_stream(self) -> bool | None:
        """Whether a held stream that has ended is whole; None if it is no stream."""
        meter = self._meter
        if meter is None:
            return None
        meter.rest()
        return not meter.is_cut_short and not meter.close().failed

    @property
    def was_filtered(self) -> bool:
        """The model, or its provider, refused by what is said. Only of answers held whole."""
        if self._meter is not None:
            reason = self._meter.close().finish_reason
        else:
            reason = answer_finish(_object(self.body))
        return reason is not None and (reason in FILTERED or reason in BLOCKED)

    def _begin(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        self.started = True
        self.head_at_s = loop.time()
        self.status = message["status"]
        self.headers = [(name.lower(), value) for name, value in message.get("headers", ())]
        if self.is_open or self.status >= 400:
            return
        content_type = next((value for name, value in self.headers if name == b"content-type"), b"")
        if content_type.startswith((b"text/event-stream", b"application/vnd.amazon.eventstream")):
            self._meter = StreamMeter(self._format)
            if self._timer is not None and self._stall_s is not None:
                self._timer.reschedule(loop.time() + self._stall_s)

    def _lets_through(self) -> bool:
        assert self.status is not None
        return self.status < 400 and self._meter is None and not self._reads_end

    async def _open(self) -> None:
        self.is_open = True
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(None)
        held, self._held = self._held, []
        for message in held:
            await self._send(message)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = loads(body)
    except JSONError:
        return {}
    return value if isinstance(value, dict) else {}
