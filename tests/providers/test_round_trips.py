"""What goes into another format and comes back means the same."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import Call, TargetInfo
from asgi_llmgate.providers.translate import INBOUND, OUTBOUND
from tests.providers import sdk
from tests.providers.accumulate import accumulate
from tests.providers.test_recorded import essence

# Models that lack nothing, so that nothing has to be dropped.
MODELS = {
    "openai-responses": "gpt-4o",
    "anthropic-messages": "claude-opus-4-1",
    "gemini": "gemini-2.5-flash",
}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
visible = texts.filter(lambda text: text.strip() != "")
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,20}", fullmatch=True)
signatures = st.binary(min_size=3, max_size=12).map(lambda raw: base64.b64encode(raw).decode())
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
objects = st.dictionaries(texts, scalars | st.lists(scalars, max_size=3), max_size=3)


@st.composite
def tool_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return an assistant's turn with parallel calls, and the results of all of them."""
    calls = []
    for number in range(draw(st.integers(1, 3))):
        arguments = json.dumps(draw(objects))
        function = {"name": draw(names), "arguments": arguments}
        identifier = f"call_{draw(st.integers(0, 10**9))}_{number}"
        calls.append({"id": identifier, "type": "function", "function": function})
    said = draw(st.none() | visible)
    turn: dict[str, Any] = {"role": "assistant", "content": said, "tool_calls": calls}
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": draw(visible)} for call in calls
    ]
    return [turn, *results]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(visible)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(visible)})
        if draw(st.booleans()):
            messages += draw(tool_turns())
        messages.append({"role": "assistant", "content": draw(visible)})
    messages.append({"role": "user", "content": draw(visible)})
    return messages


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    request: dict[str, Any] = {"model": "m", "messages": draw(conversations())}
    if draw(st.booleans()):
        request["max_completion_tokens"] = draw(st.integers(1, 10**5))
    if draw(st.booleans()):
        request["temperature"] = draw(st.floats(0, 1))
    if draw(st.booleans()):
        function = {"name": draw(names), "description": draw(visible)}
        schema = {"type": "object", "properties": {draw(names): {"type": "string"}}}
        request["tools"] = [{"type": "function", "function": function | {"parameters": schema}}]
        named = {"type": "function", "function": {"name": function["name"]}}
        request["tool_choice"] = draw(st.sampled_from(["auto", "required", "none", named]))
    return request


def flat(messages: list[dict[str, Any]]) -> list[Any]:
    """Return what is said, by whom, neighbours of one role joined."""
    said: list[Any] = []
    for message in messages:
        one = essence(message)
        role = message["role"]
        if role == "tool":
            said.append(("tool", message["tool_call_id"], result(one["content"])))
        elif said and said[-1][0] == role == "assistant" and not said[-1][2]:
            said[-1] = (role, (said[-1][1] or "") + (one["content"] or ""), one["calls"])
        else:
            said.append((role, one["content"], one["calls"]))
    return said


def result(content: str) -> Any:
    """Return what a tool returned; JSON objects travel as objects where a format has them."""
    try:
        value = json.loads(content)
    except ValueError:
        return content
    return value if isinstance(value, dict) else content


@pytest.mark.parametrize("wire_format", MODELS)
@settings(max_examples=25, deadline=None)
@given(request=requests())
def test_a_request_survives_the_way_there_and_back(
    wire_format: str, request: dict[str, Any]
) -> None:
    model = MODELS[wire_format]
    target = TargetInfo(model, "someone", capabilities_of(model))
    encoded = OUTBOUND[wire_format].encode_request(request, target)
    back = INBOUND[wire_format].decode_request(json.loads(json.dumps(encoded.body)), model="m")

    assert flat(back["messages"]) == flat(request["messages"])
    for name in ("temperature", "max_completion_tokens"):
        if name in request:
            assert back[name] == request[name]
    if request.get("tools"):
        sent, came = request["tools"][0]["function"], back["tools"][0]["function"]
        assert {name: came[name] for name in sent} == sent
        assert back.get("tool_choice", "auto") == request["tool_choice"]


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | visible)}
    finish = "stop"
    if draw(st.booleans()):
        message |= {"tool_calls": draw(tool_turns())[0]["tool_calls"]}
        finish = "tool_calls"
    if draw(st.booleans()):
        thought = draw(visible)
        message["reasoning_content"] = thought
        if draw(st.booleans()):
            block = {"type": "thinking", "thinking": thought, "signature": draw(signatures)}
            origin = draw(st.sampled_from(["anthropic", "gemini", "openai", "bedrock"]))
            message["thinking_blocks"] = [block | {"origin": origin}]
    if not message.get("tool_calls") and message["content"] is None:
        message["content"] = "."
    if draw(st.booleans()) and finish == "stop":
        finish = "length"
    prompt, completion = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    cached, reasoning = draw(st.integers(0, prompt)), draw(st.integers(0, completion))
    counted = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "x", "model": "m", "choices": [choice], "usage": counted}


def call() -> Call:
    return Call("0198-aa", 1700000000, "m", {"messages": [], "include_thoughts": True})


@pytest.mark.parametrize("wire_format", INBOUND)
@settings(max_examples=25, deadline=None)
@given(answer=answers())
def test_an_answer_survives_the_way_there_and_back(
    wire_format: str, answer: dict[str, Any]
) -> None:
    sent = INBOUND[wire_format].encode_response(answer, call())
    back = OUTBOUND[wire_format].decode_response(json.loads(json.dumps(sent)), call())

    (one,), (other,) = answer["choices"], back["choices"]
    assert back["usage"] == answer["usage"]
    assert other["finish_reason"] == one["finish_reason"] or (
        # Where the format has one word for both, a tool call counts.
        one["finish_reason"] == "length" and "tool_calls" in one["message"]
    )
    said, came = essence(one["message"]), essence(other["message"])
    assert came["content"] == said["content"]
    assert unsigned(came["calls"]) == unsigned(said["calls"])


def unsigned(calls: list[Any]) -> list[Any]:
    return [call[:3] for call in calls]


@pytest.mark.parametrize("dialect", INBOUND)
@settings(max_examples=25, deadline=None)
@given(answer=answers(), signs_call=st.booleans())
def test_signatures_come_back_with_the_callers_next_turn(
    dialect: str, answer: dict[str, Any], signs_call: bool
) -> None:
    message = answer["choices"][0]["message"]
    if signs_call and message.get("tool_calls"):
        signed = {"google": {"thought_signature": "R29vZ2xl"}}
        message["tool_calls"][0]["extra_content"] = signed
    sent = json.loads(json.dumps(INBOUND[dialect].encode_response(answer, call())))
    turn = INBOUND[dialect].decode_request({"model": "m", **sdk.whole(dialect, sent)})

    assert essence(turn["messages"][-1]) == essence(message)


def chunks_of(answer: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Return `answer` as a stream, texts cut into pieces of `size`."""
    message = answer["choices"][0]["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    thought = message.get("reasoning_content") or ""
    deltas += [{"reasoning_content": piece} for piece in cut(thought, size)]
    if message.get("thinking_blocks"):
        deltas.append({"thinking_blocks": message["thinking_blocks"]})
    deltas += [{"content": piece} for piece in cut(message["content"] or "", size)]
    for index, made in enumerate(message.get("tool_calls") or ()):
        function = {"name": made["function"]["name"], "arguments": ""}
        started = {"index": index, "id": made["id"], "type": "function", "function": function}
        deltas.append({"tool_calls": [started]})
        for piece in cut(made["function"]["arguments"], size):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    finish = answer["choices"][0]["finish_reason"]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [*chunks, {"choices": [], "usage": answer["usage"]}]


def cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@pytest.mark.parametrize("wire_format", INBOUND)
@settings(max_examples=25, deadline=None)
@given(answer=answers(), size=st.integers(1, 9), step=st.integers(1, 200))
def test_a_stream_survives_the_way_there_and_back(
    wire_format: str, answer: dict[str, Any], size: int, step: int
) -> None:
    asked = call()
    asked.request["stream_options"] = {"include_usage": True}
    encoder = INBOUND[wire_format].stream_encoder(asked)
    raw = b"".join(encoder.feed(chunk) for chunk in chunks_of(answer, size)) + encoder.close()
    decoder = OUTBOUND[wire_format].stream_decoder(asked)
    chunks = []
    for start in range(0, len(raw), step):
        chunks += decoder.feed(raw[start : start + step])
    back = accumulate(chunks + decoder.close())

    (one,), (other,) = answer["choices"], back["choices"]
    assert decoder.complete
    assert back["usage"] == answer["usage"]
    assert other["finish_reason"] == one["finish_reason"]
    said, came = essence(one["message"]), essence(other["message"])
    assert came["content"] == said["content"]
    assert unsigned(came["calls"]) == unsigned(said["calls"])
    shown = other["message"].get("reasoning_content") or ""
    assert shown == (one["message"].get("reasoning_content") or "")
