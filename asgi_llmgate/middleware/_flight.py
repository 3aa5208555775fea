"""One call of the inner application for all who ask the same at the same time.

The call runs in a task of its own, so that nobody's leaving ends it for the others. What it sends
is kept; each party sends it on to its own caller at its own pace, from the first byte.

    running ──inner app returned──▶ finishing ──stored──▶ ended
       │                                                    ▲
       └──inner app raised, or all parties left─────────────┘

Parties join while it runs and as long as every byte is still here. When the last has left, the
inner application is told so by `http.disconnect`, as a server would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Send

__all__ = ["Flight"]

# Above this an answer is no longer kept for late-comers, nor stored.
DEFAULT_MAX_BYTES = 8 * 1024 * 1024

# So far may the call be ahead of its fastest caller, whose pace is thus the provider's.
AHEAD_BYTES = 256 * 1024

_EVERYTHING = 1 << 60


class Flight:
    """The call, its messages, and who waits for them.

    Args:
        body: Replayed to the inner application.
        max_bytes: Of the answer, while it can be joined and stored.
        in_background: It goes on without any party.
    """

    def __init__(
        self, body: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, in_background: bool = False
    ) -> None:
        self.messages: list[Message] = []
        self.size = 0
        self.is_kept = True
        """Every message is still here."""
        self.is_over = False
        """Everything was sent, or nothing more will be."""
        self.error: BaseException | None = None
        self._body: bytes | None = body
        self._max_bytes = max_bytes
        self._in_background = in_background
        self._places: dict[object, int] = {}
        self._dropped = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._all_left: asyncio.Future[None] | None = None
        self._is_left = False
        self._ahead = 0
        self._caught_up: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def can_be_joined(self) -> bool:
        return self.is_kept and not self._is_left and self.error is None

    @property
    def status(self) -> int | None:
        """Of the answer; None before it begins."""
        return self.messages[0]["status"] if self.is_kept and self.messages else None

    def start(self, run: Callable[[Receive, Send], Awaitable[None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(run))

    async def _run(self, run: Callable[[Receive, Send], Awaitable[None]]) -> None:
        try:
            await run(self._receive, self._send)
        except BaseException as error:  # noqa: BLE001 -- kept for the parties, who raise it
            self.error = error
        finally:
            self.is_over = True
            self._wake()

    def join(self) -> object:
        """Return a new party, to be given to `leave`."""
        party = object()
        self._places[party] = 0
        return party

    def leave(self, party: object) -> None:
        self._places.pop(party, None)
        if self._places or self._in_background or self.is_over:
            return
        self._is_left = True
        if self._all_left is not None and not self._all_left.done():
            self._all_left.set_result(None)
        self._let_go_on()

    def only_wait(self, party: object) -> None:
        """Let `party` take part without passing anything on."""
        self._places[party] = _EVERYTHING
        self._let_go_on()

    async def pass_on(self, party: object, send: Send) -> None:
        """Send everything to `party`'s caller as it comes; return when nothing more will come.

        Raises:
            Exception: what the inner application raised.
        """
        places, new_future = self._places, asyncio.get_running_loop().create_future
        place = places[party]
        while True:
            while place - self._dropped < len(self.messages):
                message = self.messages[place - self._dropped]
                place += 1
                places[party] = place
                await send(message)
                if self._caught_up is not None:
                    self._let_go_on()
            if not self.is_kept:
                self._drop()
            if self.is_over:
                break
            waiting = new_future()  # as `more`, which is once per chunk here
            self._waiting.append(waiting)
            await waiting
        if self.error is not None:
            raise self.error

    async def more(self) -> None:
        """Wait for a message, or for the end."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    async def begun(self) -> None:
        """Wait until there is something to pass on, or there will be nothing."""
        while not self.messages and not self._dropped and not self.is_over:
            await self.more()

    async def end(self) -> None:
        """Wait until the inner application has returned and its answer is stored."""
        while not self.is_over:
            await self.more()

    def _wake(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def _send(self, message: Message) -> None:
        self.messages.append(message)
        self._wake()
        body = message.get("body")
        if body:
            self.size += len(body)
            self._ahead += len(body)
            if self.size > self._max_bytes:
                self.is_kept = False
            if self._ahead > AHEAD_BYTES:
                await self._wait_for_a_caller()

    async def _wait_for_a_caller(self) -> None:
        while self._places and not self._is_caught_up():
            self._caught_up = asyncio.get_running_loop().create_future()
            await self._caught_up
        self._caught_up = None
        self._ahead = 0

    def _is_caught_up(self) -> bool:
        return max(self._places.values()) - self._dropped >= len(self.messages)

    def _let_go_on(self) -> None:
        waiting = self._caught_up
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _drop(self) -> None:
        """Forget what every party has sent on."""
        seen = min(self._places.values()) - self._dropped
        if seen > 0:
            del self.messages[:seen]
            self._dropped += seen

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._is_left:
            if self._all_left is None:
                self._all_left = asyncio.get_running_loop().create_future()
            # Shielded, for whoever waits here may be cancelled and come again.
            await asyncio.shield(self._all_left)
        return {"type": "http.disconnect"}
