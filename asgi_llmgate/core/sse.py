"""Server-sent events, without I/O: bytes in, events out.

Source: WHATWG HTML, §9.2.6 "Interpreting an event stream". Lines end with LF, CR or CRLF, also
mixed; one leading byte order mark is skipped; comments and unknown fields are passed over; an
event is complete at its blank line.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MAX_EVENT_BYTES", "Event", "EventDecoder"]

# A generated image arrives as one event of several MB of base64. What is larger is no event that
# anybody here reads, and must not fill the memory.
MAX_EVENT_BYTES = 32 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_LF, _CR, _COLON = b"\n\r:"


class Event(NamedTuple):
    """One event. `name` is the `event` field, `id` the last one seen in the whole stream.

    Bytes of `data` that are not UTF-8 are U+FFFD.
    """

    data: str
    name: str = "message"
    id: str = ""


class EventDecoder:
    """Turn a byte stream, cut anywhere, into events.

    Nothing is held back: an event is returned by the `feed` that brings the end of its blank
    line. Time is linear in the bytes fed, however they are cut.

    Args:
        max_event_bytes: An event with more data than this is dropped; the stream goes on.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_id",
        "_is_idle",
        "_is_oversized",
        "_line",
        "_max_event_bytes",
        "_name",
        "_size",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()  # of a line whose end has not come yet
        self._data: list[bytes] = []
        self._size = 0  # of `_data`
        self._name = ""
        self._id = ""
        self._at_start = True
        self._after_cr = False
        self._is_oversized = False
        self._is_idle = True  # between two events, so that the shortcut of `feed` is safe

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes."""
        # Nearly every chunk of a chat stream is exactly `data: {…}\n\n`.
        if (
            self._is_idle
            and chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n")
            and b"\r" not in chunk
            and len(chunk) <= self._max_event_bytes
        ):
            self._at_start = self._after_cr = False
            return [Event(chunk[6:-2].decode("utf-8", "replace"), "message", self._id)]
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        if not chunk:
            return []
        return self._read_lines(chunk)

    def close(self) -> list[Event]:
        """End the stream; return the event that lacks only its blank line, if there is one.

        A browser drops such an event. Who only watches wants it: some servers end with
        `data: [DONE]` and no blank line.
        """
        events: list[Event] = []
        if self._line:
            self._field(bytes(self._line), events)
            self._line.clear()
        self._field(b"", events)
        return events

    def _without_bom(self, chunk: bytes) -> bytes:
        chunk = bytes(self._line) + chunk
        self._line.clear()
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._line += chunk
            self._is_idle = False
            return b""
        self._at_start = False
        return chunk.removeprefix(_BOM)

    def _read_lines(self, chunk: bytes) -> list[Event]:
        lines = chunk.splitlines()
        last = chunk[-1]
        self._after_cr = last == _CR
        rest = b"" if last in (_LF, _CR) else lines.pop()
        events: list[Event] = []
        if lines:
            if self._line:
                self._line += lines[0]
                lines[0] = bytes(self._line)
                self._line.clear()
            for line in lines:
                self._field(line, events)
        self._line += rest
        if len(self._line) + self._size > self._max_event_bytes:
            self._drop()
            # Keeps the line from being taken for the blank one, and its rest for a field.
            self._line[:] = b":"
        self._is_idle = not (self._line or self._data or self._name or self._is_oversized)
        return events

    def _field(self, line: bytes, events: list[Event]) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            self._append(value)
        elif not line:
            if self._data and not self._is_oversized:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                events.append(
                    Event(data.decode("utf-8", "replace"), self._name or "message", self._id)
                )
            self._data.clear()
            self._size = 0
            self._name = ""
            self._is_oversized = False
        elif line[0] != _COLON:
            name, _, value = line.partition(b":")
            text = value.removeprefix(b" ").decode("utf-8", "replace")
            if name == b"event":
                self._name = text
            elif name == b"id" and "\0" not in text:
                self._id = text
            elif name == b"data":
                self._append(b"")

    def _append(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value) + 1
        if self._size > self._max_event_bytes:
            self._drop()

    def _drop(self) -> None:
        self._is_oversized = True
        self._data.clear()
        self._size = 0
