"""Any function that makes numbers of a text, as an embedder."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from asgi_llmgate.backends.embedders.one_thread import MAX_WAITING, OneThread
from asgi_llmgate.backends.embedders.vectors import Recent, require_numpy, unit
from asgi_llmgate.errors import BackendError

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["CallableEmbedder", "Embed"]

Embed: TypeAlias = "Callable[[str], Sequence[float] | Vector | Awaitable[Sequence[float] | Vector]]"
"""Text in, numbers out, always as many. Their length does not matter, only their direction."""

# A lookup is worth less than that; the call goes on without it.
TIMEOUT_S = 10.0


class CallableEmbedder:
    """Embeds with `call`: one that is not async runs on a thread of its own, one at a time.

    A sync call that takes too long is given up, but goes on; others wait behind it.

    Args:
        call: Yours.
        id: Of the model and its version; give it another one whenever vectors change.
        dims: How many numbers; by default as many as the first time.
        timeout_s: How long a text may take.
        max_waiting: Texts that may be under way; beyond that `embed` fails at once.

    Raises:
        ConfigurationError: numpy is not installed.
    """

    def __init__(
        self,
        call: Embed,
        *,
        id: str,  # noqa: A002 -- as the protocol has it
        dims: int | None = None,
        timeout_s: float = TIMEOUT_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        require_numpy()
        self.id = id
        self._call: Callable[[str], Any] = call
        self._is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
            getattr(call, "__call__", None)  # noqa: B004 -- whether that one is async
        )
        self._dims = dims
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._waiting = 0
        self._thread = OneThread("llmgate-embed", max_waiting=max_waiting)
        self._recent = Recent()

    async def embed(self, text: str, /) -> Vector:
        vector = self._recent.get(text)
        if vector is None:
            vector = unit(await self._ask(text), self._dims)
            self._dims = vector.size
            self._recent.put(text, vector)
        return vector

    async def aclose(self) -> None:
        self._thread.close()

    async def _ask(self, text: str) -> Any:
        if self._waiting >= self._max_waiting:
            raise BackendError(f"{self._waiting} texts wait to be embedded")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._is_async:
                    return await self._call(text)
                found = await self._thread.run(lambda: self._call(text))
                return await found if inspect.isawaitable(found) else found
        except BackendError:
            raise
        except Exception as error:  # whatever it raises, it has failed
            # Its message may hold a text, a host or a key.
            raise BackendError(f"{self.id}: {type(error).__name__}") from error
        finally:
            self._waiting -= 1
