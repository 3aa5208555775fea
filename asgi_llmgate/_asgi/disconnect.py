"""Notice that the caller left, while waiting for somebody else.

uvicorn's `send()` is a silent no-op after the caller left, so only `receive()` tells.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive

__all__ = ["DisconnectWatch"]

# Most calls that are answered at once need no watcher, and a timer is far cheaper than a task.
# Well below the 50 ms within which a caller who left must have cancelled the provider.
GRACE_S = 0.02


class DisconnectWatch:
    """Cancel the current task when `receive` says `http.disconnect`.

    `left` tells the resulting `CancelledError` from others.

    Args:
        receive: The caller. Must be received from by nobody else while the watch is on.
        armed: False where the request body is still being received; whoever receives it then
            calls `arm` at its end.
        at_once: For calls that will take long anyway, such as streams.
    """

    __slots__ = ("_loop", "_receive", "_task", "_timer", "_watcher", "left")

    def __init__(self, receive: Receive, *, armed: bool = True, at_once: bool = False) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.left = False
        if armed and at_once:
            self._start()
        elif armed:
            self.arm()

    def arm(self) -> None:
        self._timer = self._loop.call_later(GRACE_S, self._start)

    def caused(self) -> bool:
        """Tell, in an `except CancelledError`, whether it was this watch and nothing else."""
        return self.left and self._task.uncancel() == 0

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _start(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001, S110 -- a receive that breaks means nobody is there
            pass
        self.left = True
        self._task.cancel()
