"""Fragments of parallel tool calls, put in order for dialects that write one call at a time.

A chat provider may open several calls and fill them in turns. Anthropic's and Gemini's streams
finish one before they begin the next, so the fragments of a later call wait until the earlier
one is whole: its arguments are JSON. Nothing waits where a provider sends its calls in order, as
nearly all do, except behind a call whose arguments are the empty string, which looks unfinished.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError, loads

__all__ = ["OneByOne"]

Fragment = Mapping[str, Any]


class OneByOne:
    """State: the call being written, its arguments so far, and the fragments of later ones."""

    __slots__ = ("_begun", "_open", "_pieces", "_waiting")

    def __init__(self) -> None:
        self._open: int | None = None
        self._pieces: list[str] = []
        self._begun: set[int] = set()
        self._waiting: dict[int, list[Fragment]] = {}

    def feed(self, fragment: Fragment) -> list[Fragment]:
        """Return what to write now. A late fragment of a call that was left goes out as it is."""
        number = fragment.get("index", 0)
        if number not in self._begun:
            self._waiting.setdefault(number, []).append(fragment)
            return self._ready()
        if number == self._open:
            self._pieces.append(_arguments(fragment))
        return [fragment, *self._ready()] if self._waiting else [fragment]

    def rest(self) -> list[Fragment]:
        """Return all that waits: something else comes, or nothing."""
        waiting, self._waiting, self._open = self._waiting, {}, None
        self._begun.update(waiting)
        return [fragment for fragments in waiting.values() for fragment in fragments]

    def _ready(self) -> list[Fragment]:
        out: list[Fragment] = []
        while self._waiting and (self._open is None or _is_json("".join(self._pieces))):
            number, fragments = next(iter(self._waiting.items()))
            del self._waiting[number]
            self._begun.add(number)
            self._open, self._pieces = number, list(map(_arguments, fragments))
            out += fragments
        return out


def _arguments(fragment: Fragment) -> str:
    return (fragment.get("function") or {}).get("arguments") or ""


def _is_json(text: str) -> bool:
    if not text.endswith("}"):  # Each fragment of a long call is asked about.
        return False
    try:
        loads(text)
    except JSONError:
        return False
    return True
