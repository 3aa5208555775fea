"""The objects of a JSON array, as they arrive. Gemini streams so where `alt=sse` is not asked for.

Only brackets and strings are looked at; whether an object is valid JSON shows when it is decoded.
"""

from __future__ import annotations

import re

__all__ = ["ArrayDecoder"]

# As in `core/sse.py`: a generated image is one object of several MB.
MAX_OBJECT_BYTES = 32 * 1024 * 1024

_MARK = re.compile(rb'["{}\[\]]')
# Up to the closing quote, the end of the bytes, or a backslash whose partner has not come yet.
_STRING_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_QUOTE, _BRACE = b'"{'
_OPENING = b"{["


class ArrayDecoder:
    """Cut a JSON array, fed in any pieces, into the texts of its objects.

    Every byte is looked at once, so time is linear in the bytes fed.
    """

    __slots__ = ("_at", "_buffer", "_depth", "_has_objects", "_in_string", "_start", "is_complete")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # everything before was looked at
        self._start: int | None = None  # of the object that is open
        self._depth = 0
        self._has_objects = False
        self._in_string = False
        self.is_complete = False
        """The array's closing bracket was seen."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the objects that `chunk` completes.

        Raises:
            ValueError: an object is larger than anybody reads.
        """
        self._buffer += chunk
        objects: list[bytes] = []
        while self._skip_string() and (mark := _MARK.search(self._buffer, self._at)):
            self._at = mark.end()
            self._take(self._buffer[self._at - 1], objects)
        keep_from = self._at if self._start is None else self._start
        if keep_from:
            del self._buffer[:keep_from]
            self._at -= keep_from
            if self._start is not None:
                self._start = 0
        if len(self._buffer) > MAX_OBJECT_BYTES:
            raise ValueError("an object of the array is too large")
        return objects

    @property
    def opening(self) -> bytes | None:
        """What must stand before one more object; None where none can: in one, or after the end."""
        if self.is_complete or self._in_string or self._depth > 1:
            return None
        if self._depth == 0:
            return b"["
        # The buffer holds what came after the last bracket.
        return b"," if self._has_objects and b"," not in self._buffer else b""

    def _take(self, mark: int, objects: list[bytes]) -> None:
        if mark == _QUOTE:
            self._in_string = True
        elif mark in _OPENING:
            self._depth += 1
            if self._depth == 2 and mark == _BRACE:
                self._start = self._at - 1
        else:
            self._depth -= 1
            if self._depth == 1 and self._start is not None:
                objects.append(bytes(self._buffer[self._start : self._at]))
                self._start = None
                self._has_objects = True
            self.is_complete = self.is_complete or self._depth == 0

    def _skip_string(self) -> bool:
        """Go behind the string we are in, if we are; False if its end has not come yet."""
        if self._in_string:
            rest = _STRING_REST.match(self._buffer, self._at)
            assert rest is not None  # It matches the empty string.
            self._at = rest.end()
            if self._at == len(self._buffer) or self._buffer[self._at] != _QUOTE:
                return False
            self._at += 1
            self._in_string = False
        return True
