"""AWS event streams, without I/O: bytes in, messages out, and back.

Source: the Amazon Event Stream Encoding specification (`application/vnd.amazon.eventstream`).
A message is, all numbers big-endian:

    u32 length of all | u32 length of headers | u32 CRC-32 of those two
    headers | payload | u32 CRC-32 of everything before

and a header is: u8 length of name | name | u8 type | value.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["EventStreamDecoder", "EventStreamError", "StreamMessage", "encode_message"]

# The limits of the specification's own SDKs.
MAX_HEADERS_BYTES = 128 * 1024
MAX_MESSAGE_BYTES = 24 * 1024 * 1024

_PRELUDE = struct.Struct(">III")
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")
_STRING = 7
_BYTES = 6
# Header types of a fixed width: two booleans, four integers, a timestamp (ms), a UUID.
_WIDTHS = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class EventStreamError(ValueError):
    """The bytes are not an event stream. Nothing after them can be read."""


class StreamMessage(NamedTuple):
    """One message. Headers of a type other than string have their raw bytes, decoded as Latin-1."""

    headers: dict[str, str]
    payload: bytes


class EventStreamDecoder:
    """Turn a byte stream, cut anywhere, into messages."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[StreamMessage]:
        """Return the messages that `chunk` completes.

        Raises:
            EventStreamError: a checksum is wrong, or a length is impossible.
        """
        buffer = self._buffer
        buffer += chunk
        messages: list[StreamMessage] = []
        start = 0
        while len(buffer) - start >= _PRELUDE.size:
            total, headers_size, checksum = _PRELUDE.unpack_from(buffer, start)
            with memoryview(buffer) as view:
                if zlib.crc32(view[start : start + 8]) != checksum:
                    raise EventStreamError("the checksum of a message's prelude is wrong")
                if headers_size > MAX_HEADERS_BYTES or not (
                    headers_size + 16 <= total <= MAX_MESSAGE_BYTES
                ):
                    raise EventStreamError(f"impossible lengths: {total} and {headers_size}")
                end = start + total
                if len(buffer) < end:
                    break
                if zlib.crc32(view[start : end - 4]) != _U32.unpack_from(buffer, end - 4)[0]:
                    raise EventStreamError("the checksum of a message is wrong")
                payload_start = start + _PRELUDE.size + headers_size
                headers = _read_headers(bytes(view[start + _PRELUDE.size : payload_start]))
                messages.append(StreamMessage(headers, bytes(view[payload_start : end - 4])))
            start = end
        del buffer[:start]
        return messages

    def close(self) -> bool:
        """End the stream; tell whether it ended between two messages."""
        return not self._buffer


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return the bytes of one message. All headers are strings of up to 64 KiB of UTF-8."""
    fields = bytearray()
    for name, value in headers.items():
        raw_name, raw_value = name.encode(), value.encode()
        fields += bytes((len(raw_name),)) + raw_name + bytes((_STRING,))
        fields += _U16.pack(len(raw_value)) + raw_value
    lengths = struct.pack(">II", 16 + len(fields) + len(payload), len(fields))
    message = lengths + _U32.pack(zlib.crc32(lengths)) + fields + payload
    return message + _U32.pack(zlib.crc32(message))


def _read_headers(raw: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(raw):
            name_end = at + 1 + raw[at]
            kind = raw[name_end]
            name = raw[at + 1 : name_end].decode("utf-8", "replace")
            at = name_end + 1
            if kind in (_STRING, _BYTES):
                width = _U16.unpack_from(raw, at)[0]
                at += 2
            else:
                width = _WIDTHS[kind]
            value = raw[at : at + width]
            if len(value) < width:
                raise EventStreamError("a header is longer than its message")
            at += width
            headers[name] = value.decode("utf-8" if kind == _STRING else "latin-1", "replace")
    except (IndexError, KeyError, struct.error):
        raise EventStreamError("a header cannot be read") from None
    return headers
