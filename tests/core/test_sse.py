from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.sse import Event, EventDecoder
from tests.core.answers import pieces


def decode(stream: bytes, cuts: list[int] | None = None) -> list[Event]:
    decoder = EventDecoder()
    return [event for piece in pieces(stream, cuts or []) for event in decoder.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: hello\n\n", [Event("hello")]),
        (b"data:hello\n\n", [Event("hello")]),
        (b"data:  two spaces\n\n", [Event(" two spaces")]),
        (b"data: a\ndata: b\n\n", [Event("a\nb")]),
        (b"data\n\ndata\ndata\n\ndata:\n", [Event(""), Event("\n")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [Event("a"), Event("b"), Event("c")]),
        (b"data: a\r\n\ndata: b\n\r\n", [Event("a"), Event("b")]),
        (b": comment\n\n:\n\ndata: a\n: between\ndata: b\n\n", [Event("a\nb")]),
        (b"event: add\ndata: 1\n\ndata: 2\n\n", [Event("1", "add"), Event("2")]),
        (b"data: 1\nevent: late\n\n", [Event("1", "late")]),
        (b"event: nothing\n\ndata: 1\n\n", [Event("1")]),
        (b"id: 7\ndata: 1\n\ndata: 2\n\n", [Event("1", id="7"), Event("2", id="7")]),
        (b"id: 7\ndata: 1\n\nid\ndata: 2\n\n", [Event("1", id="7"), Event("2")]),
        (b"id: 1\nid: 2\x00\ndata: 1\n\n", [Event("1", id="1")]),
        (b"retry: 10\nunknown: x\ndata : x\ndata: 1\n\n", [Event("1")]),
        (b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n", [Event("1")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\ndata: 2\n\n", [Event("2")]),
        ("data: Grüße 😀\n\n".encode(), [Event("Grüße 😀")]),
        (b"data: \xff\xc3\n\n", [Event("\ufffd\ufffd")]),
        (b"data: a\x0b\x0c\x1c\xc2\x85b\n\n", [Event("a\x0b\x0c\x1c\x85b")]),
        (b"data: cut off\n", []),
        (b"\n\n\r\n\r", []),
    ],
    ids=[
        "one", "no space", "one space is cut", "lines joined", "empty data", "line ends",
        "mixed line ends", "comments", "names", "name last", "name without data", "ids",
        "empty id", "id with NUL", "other fields",
        "byte order mark", "only one mark is skipped", "UTF-8", "not UTF-8", "other separators",
        "incomplete", "nothing",
    ],
)  # fmt: skip
def test_events_are_read_as_the_standard_says(stream: bytes, expected: list[Event]) -> None:
    assert decode(stream) == expected
    assert decode(stream, list(range(len(stream)))) == expected


lines = st.sampled_from(
    [
        b"data: x", b"data:", b"data", b"data: {}", "data: ü".encode(), b"event: e", b"id: 1",
        b"id", b": c", b"", b"", b"nonsense", b"\xef\xbb\xbfdata: y", b"\xff",
    ]
)  # fmt: skip
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
streams = st.lists(st.tuples(lines, ends), max_size=20).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


def slowly(stream: bytes) -> list[Event]:
    """Read all of a stream by the letter of the standard."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    events, data, name, last_id = [], "", "", ""
    rows = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for row in rows[:-1]:
        if row == "":
            if data:
                events.append(Event(data[:-1], name or "message", last_id))
            data, name = "", ""
            continue
        field, _, value = row.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
        elif field == "id":
            last_id = value
    return events


@given(streams, st.data())
def test_random_streams_cut_anywhere_agree_with_the_standard(
    stream: bytes, data: st.DataObject
) -> None:
    expected = slowly(stream)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))

    assert decode(stream) == expected
    assert decode(stream, cuts) == expected
    assert decode(stream, list(range(len(stream)))) == expected


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_any_bytes_are_accepted(chunks: list[bytes]) -> None:
    decoder = EventDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]

    assert events == decode(b"".join(chunks))


def test_an_event_comes_with_the_byte_that_completes_it() -> None:
    decoder = EventDecoder()

    assert decoder.feed(b"data: a\r\n\r") == [Event("a")]
    assert decoder.feed(b"\ndata: b\n\n") == [Event("b")]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: [DONE]", [Event("[DONE]")]),
        (b"data: a\ndata: b\n", [Event("a\nb")]),
        (b"data: a\n\n", []),
        (b": comment", []),
        (b"\xef\xbb", []),
    ],
)
def test_close_returns_the_event_that_lacks_its_blank_line(
    stream: bytes, expected: list[Event]
) -> None:
    decoder = EventDecoder()
    decoder.feed(stream)

    assert decoder.close() == expected
    assert decoder.close() == []


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_that_is_too_large_is_dropped_and_the_stream_goes_on(size: int) -> None:
    decoder = EventDecoder(max_event_bytes=100)
    stream = b"data: " + b"x" * 300 + b"\nevent: no\n\ndata: ok\n\n" + b"data: abcdefg\n" * 20
    stream += b"\n" + b": " + b"c" * 99 + b"\n\ndata: " + b"y" * 93 + b"\n\n"
    events = [e for i in range(0, len(stream), size) for e in decoder.feed(stream[i : i + size])]

    assert events == [Event("ok"), Event("y" * 93)]
