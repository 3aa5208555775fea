from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.json_stream import ArrayDecoder
from tests.core.answers import pieces

values = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\{}[],ü', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet='x"}]\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.text(alphabet='k"\\]', max_size=3), values, max_size=3)


@given(st.lists(objects, max_size=4), st.sampled_from([None, 1]), st.data())
def test_objects_come_out_however_the_array_is_cut(
    sent: list[dict[str, Any]], indent: int | None, data: st.DataObject
) -> None:
    stream = json.dumps(sent, indent=indent, ensure_ascii=False).encode()
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    if data.draw(st.booleans()):
        cuts = list(range(len(stream)))
    decoder = ArrayDecoder()
    read = [text for piece in pieces(stream, cuts) for text in decoder.feed(piece)]

    assert [json.loads(text) for text in read] == sent
    assert decoder.is_complete


def test_an_object_comes_with_its_last_byte() -> None:
    decoder = ArrayDecoder()

    assert decoder.feed(b'[{"a":"}') == []
    assert decoder.feed(b'"}') == [b'{"a":"}"}']
    assert not decoder.is_complete


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_any_bytes_are_accepted(chunks: list[bytes]) -> None:
    decoder = ArrayDecoder()

    assert all(text[:1] == b"{" for chunk in chunks for text in decoder.feed(chunk))


def test_an_object_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_llmgate.core.json_stream.MAX_OBJECT_BYTES", 100)
    decoder = ArrayDecoder()
    decoder.feed(b'[{"a":"')

    with pytest.raises(ValueError, match="too large"):
        decoder.feed(b"x" * 100)
