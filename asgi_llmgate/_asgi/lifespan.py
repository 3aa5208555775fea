"""Speak the lifespan protocol, and notice that the server is about to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType

from starlette.types import Receive, Scope, Send

__all__ = ["on_sigterm", "serve_lifespan"]


async def serve_lifespan(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    startup: Callable[[], Awaitable[None]],
    shutdown: Callable[[], Awaitable[None]],
) -> None:
    """Answer lifespan events. A failing startup is reported to the server, which then stops."""
    message = await receive()
    assert message["type"] == "lifespan.startup"
    try:
        await startup()
    except Exception as error:  # the server prints the message and exits
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        raise
    await send({"type": "lifespan.startup.complete"})
    message = await receive()
    assert message["type"] == "lifespan.shutdown"
    await shutdown()
    await send({"type": "lifespan.shutdown.complete"})


def on_sigterm(notify: Callable[[], None]) -> None:
    """Call `notify` when SIGTERM arrives, before the server's own handler.

    Servers tell applications nothing until the last connection is closed. Outside the main
    thread, or where nobody handles the signal, nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    previous = signal.getsignal(signal.SIGTERM)
    if not callable(previous):
        return

    def handle(number: int, frame: FrameType | None) -> None:
        notify()
        previous(number, frame)

    signal.signal(signal.SIGTERM, handle)
