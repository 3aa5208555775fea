"""What the answers of the running code depend on: tags, by context variable.

The application says `depends_on("kb:pricing")` where it reads its data; the cache around it, or
the gateway that is called from there in the same process, notes the tag with the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["collected_tags", "depends_on", "said_tags"]

# Of code that calls a gateway: said before the call.
_said: ContextVar[tuple[str, ...]] = ContextVar("llmgate_said", default=())
# Of code that a cache stands in front of: the set it reads afterwards. Threads that Starlette or
# asgiref start get a copy of the context, and with it this very set.
_collected: ContextVar[set[str] | None] = ContextVar("llmgate_collected", default=None)


def depends_on(*tags: str) -> None:
    """Say that the answer that is being made depends on `tags`.

    Call it before the data is read. It holds for the call that is being answered, and for calls
    that the same task makes from here on. No I/O.

    Raises:
        ValueError: a tag is empty.
    """
    if not all(tags):
        raise ValueError("a tag must not be empty")
    collected = _collected.get()
    if collected is not None:
        collected.update(tags)
    _said.set(tuple(dict.fromkeys((*_said.get(), *tags))))


def said_tags() -> tuple[str, ...]:
    """Return what was said before in this task, or in the one that started it."""
    return _said.get()


@contextmanager
def collected_tags() -> Iterator[set[str]]:
    """Collect what is said inside, from the start."""
    tags: set[str] = set()
    token, said = _collected.set(tags), _said.set(())
    try:
        yield tags
    finally:
        _said.reset(said)
        _collected.reset(token)
