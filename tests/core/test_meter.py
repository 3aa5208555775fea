from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llmgate.core import observe
from asgi_llmgate.core.eventstream import encode_message
from asgi_llmgate.core.meter import StreamMeter, meter_json
from asgi_llmgate.core.routes import FORMATS
from asgi_llmgate.types import Usage
from tests.conftest import requires_data
from tests.core.answers import Case, golden, metered, pieces, recorded

GOLDEN = golden()
STREAMS = [case for case in GOLDEN if case.is_stream]
RECORDED = recorded()
RECORDED_STREAMS = [case for case in RECORDED if case.is_stream]

by_name = pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.id)


@by_name
def test_an_answer_is_read_as_written_down(case: Case) -> None:
    assert metered(case) == case.expected


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)
def test_a_stream_fed_byte_by_byte_is_the_same(case: Case) -> None:
    assert metered(case, range(len(case.body))) == case.expected


@given(data=st.data())
def test_a_stream_cut_anywhere_is_the_same(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(STREAMS))
    cuts = data.draw(st.lists(st.integers(1, len(case.body)), max_size=12))

    assert metered(case, cuts) == case.expected


@requires_data("exchanges")
@pytest.mark.parametrize("case", RECORDED_STREAMS, ids=lambda case: case.name)
def test_a_recorded_stream_is_the_same_however_it_is_cut(case: Case) -> None:
    whole = metered(case)

    assert metered(case, range(len(case.body))) == whole
    assert metered(case, range(0, len(case.body), 7)) == whole
    assert metered(case, range(0, len(case.body), 1461)) == whole


@requires_data("exchanges")
def test_every_recorded_stream_ended_or_failed_and_named_its_tokens() -> None:
    for case in RECORDED_STREAMS:
        seen = metered(case)

        assert seen.complete != seen.failed or seen.error == "Token limit reached", case.name
        assert seen.usage is not None or seen.failed, case.name
        assert seen.output_bytes, case.name


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)
def test_a_stream_is_cut_short_if_neither_end_nor_error_came(case: Case) -> None:
    meter = StreamMeter(case.format, provider=case.provider)
    meter.feed(case.body)
    meter.rest()

    assert case.expected is not None
    is_odd = "only Bedrock counts" in case.name  # a dialect without a mark
    assert meter.is_cut_short is (not case.expected.complete and not case.expected.failed) or is_odd


def test_a_stream_without_a_byte_is_cut_short() -> None:
    assert StreamMeter("openai-chat").is_cut_short
    assert not StreamMeter("openai-files").is_cut_short


def test_the_first_content_shows_at_once() -> None:
    meter = StreamMeter("openai-chat")
    meter.feed(chunk({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
    before = meter.first_content
    meter.feed(chunk({"choices": [{"delta": {"content": "a"}}]}))

    assert (before, meter.first_content) == (False, True)


@pytest.mark.parametrize(
    ("wire_format", "event"),
    [
        (
            "anthropic-messages",
            {"type": "content_block_start", "content_block": {"type": "tool_use"}},
        ),
        ("openai-responses", {"type": "response.output_item.added", "item": {"type": "mcp_call"}}),
        ("gemini", {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]}),
        ("openai-images", {"type": "image_generation.partial_image"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tool_call_is_content(wire_format: str, event: Any) -> None:
    meter = StreamMeter(wire_format)
    meter.feed(chunk(event))

    assert meter.first_content


def test_close_in_the_middle_tells_what_was_seen() -> None:
    meter = StreamMeter("openai-chat")
    meter.feed(chunk({"model": "m", "choices": [{"delta": {"content": "abc"}}]}) + b'data: {"cho')
    seen = meter.close()

    assert (seen.usage, seen.model, seen.complete, seen.output_bytes) == (None, "m", False, 3)


def test_a_failing_observer_costs_the_figures_and_not_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(seen: observe.Seen, event: dict[str, Any]) -> None:
        raise RuntimeError

    monkeypatch.setitem(observe._OBSERVERS, "openai-chat", fail)
    meter = StreamMeter("openai-chat")
    event = chunk({"choices": []})

    assert [meter.feed(event), meter.feed(event[:-1]), meter.rest()] == [event, event[:-1], b""]
    assert meter.close().usage is None

    meter = StreamMeter("openai-chat")
    meter.feed(b"\n" + event[:-1])
    assert meter.rest() == b""


def test_frames_with_a_wrong_checksum_are_relayed_uncounted() -> None:
    case = next(case for case in STREAMS if case.format == "bedrock-converse")
    damaged = case.body[:-1] + bytes([case.body[-1] ^ 1])
    meter = StreamMeter("bedrock-converse")

    assert meter.feed(damaged) is damaged
    assert meter.feed(case.body) is case.body
    assert meter.close().usage is None


def test_a_frame_may_say_that_the_stream_failed() -> None:
    headers = {":message-type": "error", ":error-code": "internal", ":error-message": "It broke."}
    meter = StreamMeter("bedrock-converse")
    meter.feed(encode_message(headers, b""))
    seen = meter.close()

    assert (seen.failed, seen.error) == (True, "It broke.")


def test_bedrock_counts_for_models_that_do_not() -> None:
    metrics = {"inputTokenCount": 3, "outputTokenCount": 1, "cacheReadInputTokenCount": 2}
    event = {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}
    meter = StreamMeter("bedrock-invoke")
    meter.feed(chunk(event))

    assert meter.close().usage == Usage(5, 1, 2)


def test_an_endless_json_body_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_llmgate.core.meter.MAX_JSON_BYTES", 10)
    meter = StreamMeter("openai-chat")
    for _ in range(3):
        meter.feed(b'{"usage": ')

    assert meter.close() == meter_json("openai-chat", b"")


def test_blank_lines_may_come_before_everything() -> None:
    meter = StreamMeter("openai-chat")
    meter.feed(b"\n\r")
    meter.feed(b"\n" + chunk({"usage": {"prompt_tokens": 1}, "choices": []}))

    assert meter.close().usage == Usage(1, 0)


# Values that nobody expects where a count, a text or an object belongs.
odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([-1, 10**30, 1.5, "12", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            [
                "choices", "delta", "message", "content", "tool_calls", "function", "usage",
                "prompt_tokens", "prompt_tokens_details", "completion_tokens_details", "type",
                "input_tokens", "output_tokens", "cache_creation", "iterations", "error", "model",
                "usageMetadata", "promptTokenCount", "promptTokensDetails", "candidates", "parts",
                "contentBlockDelta", "metadata", "cacheDetails", "billed_units", "response", "item",
                "content_block", "x_groq", "audio", "functionCall", "output", "meta", "seconds",
                "promptFeedback", "usage", "delta", "text", "bytes", "toolUse", "input",
            ]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
types = st.sampled_from(
    [
        "message_start", "message_delta", "content_block_start", "content_block_delta",
        "message_stop", "error", "response.completed", "response.failed", "response.created",
        "response.output_item.added", "response.output_text.delta", "content-delta", "message-end",
        "transcript.text.delta",
    ]
)  # fmt: skip


@settings(max_examples=300)
@given(st.sampled_from(sorted(FORMATS)), odd, types, st.booleans())
def test_no_event_and_no_answer_makes_a_meter_raise(
    wire_format: str, value: Any, kind: str, is_named: bool
) -> None:
    if is_named and isinstance(value, dict):
        value["type"] = kind
    seen = observe.Seen()
    if isinstance(value, dict):
        # The guard of `feed` would hide what raises here.
        observe.observer_for(wire_format)(seen, value)
        observe.observer_for(None)(seen, value)
    body = json.dumps(value).encode()
    whole = meter_json(wire_format, body, "xai")

    for usage in (whole.usage, meter_json(None, body).usage):
        if usage is not None:
            assert 0 <= usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
            assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
            assert 0 <= usage.reasoning_tokens <= usage.output_tokens
            assert max(usage.input_tokens, usage.output_tokens) < 2**63


@given(
    st.sampled_from(sorted(FORMATS)), st.lists(st.binary(max_size=80), max_size=6), st.booleans()
)
def test_bytes_that_mean_nothing_pass_untouched(
    wire_format: str, chunks: list[bytes], withhold: bool
) -> None:
    meter = StreamMeter(wire_format, withhold_usage=withhold)
    relayed = b"".join(meter.feed(chunk) for chunk in chunks) + meter.rest()
    meter.close()

    assert relayed == b"".join(chunks)


def chunk(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


USAGE = chunk({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
TEXT = chunk({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
DONE = b"data: [DONE]\n\n"


def relayed(chunks: list[bytes]) -> list[bytes]:
    meter = StreamMeter("openai-chat", withhold_usage=True)
    out = [meter.feed(chunk) for chunk in chunks]
    out.append(meter.rest())
    assert meter.close().usage == Usage(3, 1)
    return out


def test_the_usage_event_is_withheld_and_nothing_else() -> None:
    assert relayed([TEXT, USAGE, DONE]) == [TEXT, b"", DONE, b""]
    assert relayed([TEXT + USAGE + DONE]) == [TEXT + DONE, b""]


def test_a_whole_event_is_relayed_as_the_same_object() -> None:
    meter = StreamMeter("openai-chat", withhold_usage=True)

    assert meter.feed(TEXT) is TEXT


def test_an_event_is_relayed_as_soon_as_it_is_complete() -> None:
    assert relayed([TEXT[:20], TEXT[20:] + USAGE[:9], USAGE[9:] + DONE]) == [b"", TEXT, DONE, b""]


@pytest.mark.parametrize(
    "kept",
    [
        {"choices": [], "usage": None},
        {"choices": [], "prompt_filter_results": []},
        {"choices": [], "moderation": {}, "usage": None},
        {"choices": [{"delta": {"content": '{"choices":[],"usage":{}}'}}]},
        'no JSON "usage"',
    ],
    ids=["null", "filter", "moderation", "quoted", "no JSON"],
)
def test_an_event_that_only_looks_like_usage_is_kept(kept: dict[str, Any] | str) -> None:
    event = chunk(kept) if isinstance(kept, dict) else b"data: " + kept.encode() + b"\n\n"

    assert relayed([event + USAGE]) == [event, b""]


def test_usage_beside_a_choice_is_kept() -> None:
    last = {"choices": [{"delta": {}}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}

    assert relayed([chunk(last)]) == [chunk(last), b""]


def test_a_json_answer_is_not_held_back() -> None:
    body = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'

    assert relayed([body[:9], body[9:]]) == [body[:9], body[9:], b""]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@given(data=st.data())
def test_withholding_is_the_same_however_the_stream_is_cut(end: bytes, data: st.DataObject) -> None:
    events = [TEXT, b": comment\n\n", USAGE, TEXT, b"event: x\ndata: 1\n\n", DONE, TEXT[:30]]
    order = data.draw(st.permutations(events[:-1])) + events[-1:]
    body = b"".join(order).replace(b"\n", end)
    cuts = data.draw(st.lists(st.integers(1, len(body)), max_size=30))
    if data.draw(st.booleans()):
        cuts = list(range(len(body)))

    assert b"".join(relayed(pieces(body, cuts))) == body.replace(USAGE.replace(b"\n", end), b"")


def test_a_usage_event_without_its_blank_line_is_withheld_too() -> None:
    assert relayed([TEXT, USAGE[:-1]]) == [TEXT, b"", b""]


def test_an_event_too_long_to_hold_passes_in_pieces() -> None:
    long = chunk({"choices": [{"index": 0, "delta": {"content": "a" * 200_000}}]})
    parts = pieces(long + USAGE + TEXT, range(0, 300_000, 40_000))
    out = relayed(parts)

    assert b"".join(out) == long + TEXT
    # Two pieces are held; the third brings them out.
    assert [len(part) for part in out[:4]] == [0, 80_000, 40_000, 40_000]


def test_the_end_of_a_long_event_may_be_cut_anywhere() -> None:
    for end in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        long = b"data: " + b"a" * 70_000 + end
        for cut in range(len(long) - 5, len(long)):
            usage = USAGE.replace(b"\n\n", end)
            tail = long[cut:] + usage + TEXT
            assert b"".join(relayed([long[:cut], tail[:1], tail[1:]])) == long + TEXT
