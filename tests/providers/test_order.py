"""Events come in the order that each dialect promises, and nothing of what was said is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llmgate.providers.inner import Call
from asgi_llmgate.providers.translate import INBOUND, OUTBOUND, StreamTranslation
from tests.providers.made_streams import (
    COUNTED,
    STREAMS,
    Segment,
    Text,
    Thought,
    ToolCall,
    chat_stream,
    cuts,
    segments,
)
from tests.providers.order import READERS, Said
from tests.providers.recorded import exchanges
from tests.providers.test_streams import MATRIX

RECORDED = [e for e in exchanges() if e.is_stream and e.status == 200 and b'"error":' not in e.body]


def translated(source: str, target: str, body: bytes, size: int) -> Said:
    request = {"include_thoughts": True, "stream_options": {"include_usage": True}}
    call = Call("0198-aa", 1700000000, "m", request)
    stream = StreamTranslation(
        OUTBOUND[target].stream_decoder(call), INBOUND[source].stream_encoder(call)
    )
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return READERS[source](b"".join(map(stream.feed, pieces)) + stream.close())


def expected(target: str, said: list[Segment]) -> Said:
    return Said(
        "".join(s.text for s in said if isinstance(s, Text)),
        "".join(s.text for s in said if isinstance(s, Thought)),
        [(s.id, s.name, json.loads(s.arguments or "{}")) for s in said if isinstance(s, ToolCall)],
        COUNTED[target],
    )


@pytest.mark.parametrize(("source", "target"), MATRIX)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_all_of_it_in_order(source: str, target: str, data: st.DataObject) -> None:
    said, cut = data.draw(segments()), data.draw(cuts())
    if target == "openai-chat":
        events = data.draw(chat_stream(said, cut))
    else:
        events = STREAMS[target](said, cut)
    came = translated(source, target, b"".join(events), data.draw(st.sampled_from([1, 17, 10**6])))

    assert came == expected(target, said)


@pytest.mark.skipif(not RECORDED, reason="no recorded traffic in ../shared/data")
@pytest.mark.parametrize("source", INBOUND)
def test_recorded_streams_keep_the_order(source: str) -> None:
    for exchange in RECORDED:
        if exchange.format != source:
            came = translated(source, exchange.format, exchange.body, 61)
            assert came.text or came.calls or came.reasoning, exchange.name
