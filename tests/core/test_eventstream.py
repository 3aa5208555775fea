from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.eventstream import (
    EventStreamDecoder,
    EventStreamError,
    StreamMessage,
    encode_message,
)
from tests.core.answers import frame, pieces

texts = st.text(max_size=20)
messages = st.tuples(
    st.dictionaries(st.text(min_size=1, max_size=10), texts, max_size=3), st.binary(max_size=50)
)


def seal(headers: bytes, payload: bytes = b"") -> bytes:
    """Pack a message around raw headers."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    message = prelude + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


@given(st.lists(messages, max_size=4), st.data())
def test_messages_survive_encoding_and_any_cut(
    sent: list[tuple[dict[str, str], bytes]], data: st.DataObject
) -> None:
    stream = b"".join(encode_message(headers, payload) for headers, payload in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    if data.draw(st.booleans()):
        cuts = list(range(len(stream)))
    decoder = EventStreamDecoder()
    read = [message for piece in pieces(stream, cuts) for message in decoder.feed(piece)]

    assert read == [StreamMessage(headers, payload) for headers, payload in sent]
    assert decoder.close()


def test_a_message_is_encoded_as_others_do() -> None:
    headers = {
        ":event-type": "metadata",
        ":content-type": "application/json",
        ":message-type": "event",
    }

    assert encode_message(headers, b"{}") == frame("metadata", b"{}")


def test_the_smallest_message_of_the_specification_is_read() -> None:
    # An empty message has a known form: length 16, no headers, both checksums.
    empty = bytes.fromhex("0000001000000000 05c248eb 7d98c8ff")

    assert EventStreamDecoder().feed(empty) == [StreamMessage({}, b"")]


def test_headers_of_every_type_are_read() -> None:
    raw = b"\x01t\x00" + b"\x01f\x01" + b"\x01b\x02\x7f" + b"\x01s\x03\x00\x01"
    raw += b"\x01i\x04" + b"\0" * 4 + b"\x01l\x05" + b"\0" * 8 + b"\x01y\x06\x00\x02ab"
    raw += b"\x01z\x07\x00\x02\xc3\xa4" + b"\x01d\x08" + b"\0" * 8 + b"\x01u\x09" + b"\0" * 16
    (message,) = EventStreamDecoder().feed(seal(raw))

    assert message.headers == {
        "t": "", "f": "", "b": "\x7f", "s": "\0\x01", "i": "\0" * 4, "l": "\0" * 8, "y": "ab",
        "z": "ä", "d": "\0" * 8, "u": "\0" * 16,
    }  # fmt: skip


@pytest.mark.parametrize("position", [0, 5, 9, 13, -5, -1])
def test_a_changed_bit_is_noticed(position: int) -> None:
    stream = bytearray(frame("metadata", b'{"usage":{}}'))
    stream[position] ^= 1

    with pytest.raises(EventStreamError):
        EventStreamDecoder().feed(bytes(stream))


@pytest.mark.parametrize("lengths", [(15, 0), (16, 1), (25 * 2**20, 0), (2**20, 2**18)], ids=str)
def test_impossible_lengths_are_refused_before_anything_is_kept(lengths: tuple[int, int]) -> None:
    prelude = struct.pack(">II", *lengths)

    with pytest.raises(EventStreamError, match="lengths"):
        EventStreamDecoder().feed(prelude + struct.pack(">I", zlib.crc32(prelude)))


@pytest.mark.parametrize(
    "headers",
    [b"\x05ab", b"\x01a", b"\x01a\x0a", b"\x01a\x07\x00", b"\x01a\x07\x00\x09ab", b"\x01a\x05\0"],
)
def test_headers_that_cannot_be_read_are_refused(headers: bytes) -> None:
    with pytest.raises(EventStreamError):
        EventStreamDecoder().feed(seal(headers))


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_are_read_or_refused(chunks: list[bytes]) -> None:
    decoder = EventStreamDecoder()
    try:
        for chunk in chunks:
            decoder.feed(chunk)
    except EventStreamError:
        return
    assert decoder.close() is (sum(map(len, chunks)) == 0)
