"""A thread that works some milliseconds after it was woken, and at interpreter exit.

For what must leave the request path: it needs no event loop, outlives several, and notices no
lifespan event, which mounted applications never get.

    idle ──wake()──▶ collecting ──interval or hurry()──▶ working ──▶ idle
                         ▲                                  │
                         └────── pause, then once more ─────┘   (`work` returned seconds)

After a fork the child starts with no thread; what the parent had queued stays the parent's.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

__all__ = ["Flusher"]

logger = logging.getLogger("asgi_llmgate")

# Long enough for a busy disk, short enough that nobody reaches for kill -9.
EXIT_TIMEOUT_S = 5.0


class Flusher:
    """Call `work` on a daemon thread of its own.

    Building one starts nothing; the thread starts with the first `wake`.

    Args:
        work: Does what has gathered. Returns None when nothing is left, or after how many
            seconds it wants to be called again. Calls never overlap.
        interval_s: How long to gather after the first `wake`.
        name: The thread's name.
        at_exit: Called at interpreter exit with the seconds left, while the thread still runs.
        after_fork: Called in a forked child, where no thread runs.
    """

    def __init__(
        self,
        work: Callable[[], float | None],
        *,
        interval_s: float,
        name: str,
        at_exit: Callable[[float], None],
        after_fork: Callable[[], None],
    ) -> None:
        self._work = work
        self._interval_s = interval_s
        self._name = name
        self.at_exit = at_exit
        self._after_fork = after_fork
        self.reset()

    def reset(self) -> None:
        """Forget the thread: it does not exist (any more) in this process."""
        self._awake = False
        self._was_woken = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._working = threading.Lock()
        self._signal = threading.Event()
        self._hurry = threading.Event()

    def wake(self) -> None:
        """See to it that `work` runs soon. Costs nothing while the thread is awake already."""
        # Read without a lock: whoever adds work adds it before waking, and the thread goes back
        # to sleep (`_awake = False`) before it looks at the work, so none is overlooked.
        if self._awake:
            return
        self._awake = self._was_woken = True
        if self._thread is None:
            self._start()
        self._signal.set()

    def hurry(self) -> None:
        """Wake, and cut the gathering or the pause short.

        Where no thread can be started any more, as late in the interpreter's life, this works.
        """
        self._hurry.set()
        self.wake()
        if self._thread is None:
            self._try_work()

    def stop(self, timeout_s: float) -> bool:
        """Let `work` run once more and end the thread; False if it takes longer than that."""
        self._stopping = True
        thread = self._thread
        if thread is None:
            if self._was_woken:
                self._try_work()
            return True
        self._hurry.set()
        self._signal.set()
        thread.join(timeout_s)
        return not thread.is_alive()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._stopping:
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # Out of threads, or the interpreter is going down.
                self._awake = False
                return
            self._thread = thread
            _RUNNING.add(self)
            _work_at_exit_of_children()

    def _run(self) -> None:
        pause_s: float | None = None
        while True:
            if pause_s is None:
                self._signal.wait()
            self._hurry.wait(self._interval_s if pause_s is None else pause_s)
            stopping = self._stopping
            self._hurry.clear()
            self._signal.clear()
            self._awake = False
            pause_s = self._try_work()
            if stopping:
                return
            if pause_s is not None:
                self._awake = True

    def _try_work(self) -> float | None:
        try:
            with self._working:
                return self._work()
        except Exception:
            # A bug must not end the thread: everything after it would be lost in silence.
            logger.exception("%s failed; trying again in 1 s", self._name)
            return 1.0

    def _forget_after_fork(self) -> None:
        self.reset()
        self._after_fork()


_RUNNING: weakref.WeakSet[Flusher] = weakref.WeakSet()


def _at_exit() -> None:
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    running = list(_RUNNING)
    for flusher in running:
        flusher._hurry.set()  # All at once, so that they share the time.
    for flusher in running:
        flusher.at_exit(max(0.1, deadline - time.monotonic()))


def _work_at_exit_of_children() -> None:
    """A process that `multiprocessing` forked ends without `atexit`: use its own way."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _at_exit, exitpriority=10)


def _after_fork_in_child() -> None:
    running = list(_RUNNING)
    _RUNNING.clear()
    for flusher in running:
        flusher._forget_after_fork()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # Not on Windows, which has no fork.
    os.register_at_fork(after_in_child=_after_fork_in_child)
