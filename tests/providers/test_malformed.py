"""What is not in its own format: a 400 for the caller, an error event or a 502 for a provider."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llmgate.core.eventstream import encode_message
from asgi_llmgate.core.json import dumps
from asgi_llmgate.errors import TranslationError, UpstreamError
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import TargetInfo
from asgi_llmgate.providers.translate import INBOUND, OUTBOUND, Translation, can_translate
from tests.providers.test_cases import cases
from tests.providers.test_streams import BODIES, HELLO, MATRIX, started

ANY = TargetInfo("some-model", "someone", capabilities_of("some-model"))


def translation(source: str, target: str) -> Translation:
    return Translation(source, target, call_id="0198-aa", created=1700000000)


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("openai-chat", {"messages": ["hi"]}),
        ("openai-chat", {"messages": [{"content": "no role"}], "tools": [1]}),
        ("openai-responses", {"input": 7}),
        ("anthropic-messages", {"messages": [{"content": "no role"}]}),
        ("anthropic-messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("gemini", {"contents": [{"parts": [{"functionCall": {}}], "role": "model"}]}),
        ("gemini", {"contents": "hi"}),
    ],
)
def test_a_malformed_request_is_the_callers_fault(source: str, body: dict[str, Any]) -> None:
    target = "anthropic-messages" if source != "anthropic-messages" else "gemini"
    with pytest.raises(TranslationError) as refused:
        translation(source, target).request(body, ANY, model="m")

    assert refused.value.status == 400
    assert refused.value.code == "invalid_request"
    assert source in str(refused.value)


@pytest.mark.parametrize("target", OUTBOUND)
def test_a_malformed_answer_is_the_providers_fault(target: str) -> None:
    source = "openai-chat" if target != "openai-chat" else "gemini"
    call = translation(source, target)
    call.request(BODIES[source], ANY, model="m")
    answer = {"content": 7, "choices": 7, "output": 7, "candidates": 7, "message": 7}
    with pytest.raises(UpstreamError, match="cannot be read"):
        call.response(answer)


def test_an_error_with_status_200_is_an_error() -> None:
    call = translation("anthropic-messages", "openai-chat")
    found = call.refusal({"error": {"code": 429, "message": "Slow"}})

    assert found is not None
    assert found[0].type == "rate_limit"
    assert found[1]["error"]["type"] == "rate_limit_error"
    assert call.refusal({"choices": [], "error": None}) is None
    assert call.refusal({"choices": [{}], "error": {"message": "partial"}}) is None


def test_what_is_the_same_is_not_translated() -> None:
    assert can_translate("openai-chat", "anthropic-messages")
    assert not can_translate("openai-chat", "openai-chat")
    assert not can_translate("openai-files", "openai-chat")
    assert not can_translate("openai-chat", "openai-files")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "text", "user", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += paths(inner, (*here, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return `value` with what is at `path` replaced."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


REQUESTS = [
    (c.values[0]["format"], {**c.values[0]["base"], **c.values[0]["body"]})
    for c in cases("in", "requests")
]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), value=json_values)
def test_no_request_ends_in_anything_but_a_400(data: st.DataObject, value: Any) -> None:
    source, body = data.draw(st.sampled_from(REQUESTS))
    path = data.draw(st.sampled_from(paths(body)))
    target = data.draw(st.sampled_from([t for t in OUTBOUND if t != source]))
    with contextlib.suppress(TranslationError):
        encoded = translation(source, target).request(replaced(body, path, value), ANY, model="m")
        assert encoded.path.startswith("/")


RESPONSES = [(c.values[0]["format"], c.values[0]["body"]) for c in cases("out", "responses")]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), value=json_values)
def test_no_answer_ends_in_anything_but_a_502(data: st.DataObject, value: Any) -> None:
    target, body = data.draw(st.sampled_from(RESPONSES))
    path = data.draw(st.sampled_from(paths(body)))
    source = data.draw(st.sampled_from([s for s in INBOUND if s != target]))
    call = translation(source, target)
    call.request(BODIES[source], ANY, model="m")
    with contextlib.suppress(UpstreamError):
        dumps(call.response(replaced(body, path, value)))


STREAMS = [
    (c.values[0]["format"], c.values[0]["payloads"])
    for c in cases("out", "streams")
    if "payloads" in c.values[0]
]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), value=json_values)
def test_no_event_ends_in_anything_but_an_error_event(data: st.DataObject, value: Any) -> None:
    target, payloads = data.draw(st.sampled_from(STREAMS))
    path = data.draw(st.sampled_from(paths(payloads)))
    source = data.draw(st.sampled_from([s for s in INBOUND if s != target]))
    stream = started(source, target)
    events = replaced(payloads, path, value)
    raw = b"".join(stream.feed(b"data: " + dumps(event) + b"\n\n") for event in events)
    raw += stream.close()

    assert stream.complete or stream.failed is not None


@settings(max_examples=100, deadline=None)
@given(event=st.sampled_from(["messageStart", "contentBlockDelta", "metadata"]), value=json_values)
def test_no_frame_ends_in_anything_but_an_error_event(event: str, value: Any) -> None:
    stream = started("openai-chat", "bedrock-converse")
    for payload in (value, {"delta": value}, {"contentBlockIndex": value, "delta": {"text": "a"}}):
        stream.feed(
            encode_message({":message-type": "event", ":event-type": event}, dumps(payload))
        )
    stream.close()

    assert stream.failed is not None


@pytest.mark.parametrize(("source", "target"), MATRIX)
def test_random_bytes_are_no_stream(source: str, target: str) -> None:
    stream = started(source, target)
    raw = b"".join(map(stream.feed, HELLO[target][:2]))
    raw += stream.feed(b"\x00\xff\r\n\r\ndata: \xff\n\n") + stream.close()

    assert stream.failed is not None
