"""Keep one event of a chat stream from a caller who did not ask for it.

The gateway asks OpenAI-like providers for `stream_options.include_usage`, which adds one event:
`choices` empty, `usage` an object. All other bytes pass as they are, each as soon as its event is
complete. Usage that a vendor puts beside a choice stays where it is, and so does an event with
empty `choices` and no usage (Azure's prompt filter, OpenAI's moderation).
"""

from __future__ import annotations

import re
from typing import Any

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.sse import EventDecoder

__all__ = ["UsageFilter", "is_usage_only"]

# A usage event has a few hundred bytes. What is still incomplete after this is none, and waits no
# longer.
MAX_HELD_BYTES = 64 * 1024

# The end of an event: two line ends of any kind. Atomic, so that CRLF is never taken for two.
_BLANK_LINE = re.compile(rb"(?>\r\n|\r|\n){2}")
_LONGEST_END = 4


def is_usage_only(event: dict[str, Any]) -> bool:
    """Tell whether a chat event is the one that `include_usage` adds."""
    return event.get("choices") == [] and isinstance(event.get("usage"), dict)


class UsageFilter:
    """Bytes of a chat stream in, the same bytes out, without the usage event."""

    __slots__ = ("_after_cr", "_held", "_passing", "_tail", "_was_dropped")

    def __init__(self) -> None:
        self._held = b""  # the beginning of an event whose end has not come yet
        self._passing = False  # inside an event that was too long to hold
        self._tail = b""  # the last bytes passed, where its end may have begun
        # The last event ended in CR; an LF that comes next is the rest of it, and shares its fate.
        self._after_cr = False
        self._was_dropped = False

    def feed(self, chunk: bytes, has_usage: bool) -> bytes:
        """Return what the caller may have.

        Args:
            chunk: The next bytes.
            has_usage: A usage event is complete with `chunk`; who meters knows it already.
        """
        if not (has_usage or self._held or self._passing or self._after_cr) and chunk.endswith(
            (b"\n\n", b"\r\n\r\n")
        ):
            return chunk
        return self._cut(chunk, has_usage)

    def rest(self) -> bytes:
        """Return what is held back of a last event that never got its blank line."""
        held, self._held = self._held, b""
        return b"" if _is_usage_event(held) else held

    def _cut(self, chunk: bytes, has_usage: bool) -> bytes:
        if not chunk:
            return b""
        passed = b""
        if self._after_cr:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                passed = b"" if self._was_dropped else b"\n"
                chunk = chunk[1:]
        if self._passing:
            seen = self._tail + chunk
            end = _BLANK_LINE.search(seen)
            if end is None:
                self._tail = seen[1 - _LONGEST_END :]
                return chunk
            self._passing = False
            self._was_dropped = False
            self._after_cr = end.group().endswith(b"\r")
            taken = end.end() - len(self._tail)
            return chunk[:taken] + self._cut(chunk[taken:], has_usage)
        buffer = self._held + chunk
        # What is held has no end in it, so the first can begin only in its last bytes.
        end_at = _last_end(buffer, max(len(self._held) - _LONGEST_END, 0))
        whole, self._held = buffer[:end_at], buffer[end_at:]
        self._was_dropped = False
        self._after_cr = not self._held and whole.endswith(b"\r")
        if has_usage:
            whole = self._without_usage(whole)
        if len(self._held) > MAX_HELD_BYTES:
            whole += self._held
            self._tail = self._held[1 - _LONGEST_END :]
            self._held = b""
            self._passing = True
        return passed + whole

    def _without_usage(self, events: bytes) -> bytes:
        kept: list[bytes] = []
        start = 0
        for end in _BLANK_LINE.finditer(events):
            event = events[start : end.end()]
            start = end.end()
            self._was_dropped = _is_usage_event(event)
            if not self._was_dropped:
                kept.append(event)
        return b"".join(kept) + events[start:]


def _last_end(buffer: bytes, start: int) -> int:
    end_at = 0
    for end in _BLANK_LINE.finditer(buffer, start):
        end_at = end.end()
    return end_at


def _is_usage_event(raw: bytes) -> bool:
    if b'"usage"' not in raw:
        return False
    decoder = EventDecoder()
    for event in (*decoder.feed(raw), *decoder.close()):
        try:
            data = loads(event.data)
        except JSONError:
            continue
        if isinstance(data, dict) and is_usage_only(data):
            return True
    return False
