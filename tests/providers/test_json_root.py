"""Lists and words as JSON answers, from models that are held to objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import TargetInfo
from asgi_llmgate.providers.json_root import opened, with_object_root
from asgi_llmgate.providers.translate import Translation
from tests.providers import sdk
from tests.providers.test_client_tools import MODELS
from tests.providers.test_streams import chat, sse

# What google-genai makes of `response_schema=list[Recipe]`.
RECIPES: dict[str, Any] = {
    "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
    "generationConfig": {
        "responseMimeType": "application/json",
        "responseSchema": {
            "type": "ARRAY",
            "items": {
                "type": "OBJECT",
                "properties": {"name": {"type": "STRING"}, "n": {"type": "INTEGER"}},
                "required": ["name"],
            },
        },
    },
}
ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from('a}{" \\n,:é')),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("answer"), inner),
    max_leaves=6,
)


def asked(target: str, body: dict[str, Any]) -> tuple[Translation, dict[str, Any]]:
    provider, model = MODELS[target]
    translation = Translation("gemini", target, call_id="0198-aa", created=1)
    to = TargetInfo(model, provider, capabilities_of(model))
    return translation, translation.request(body, to, model="m", stream=True).body


def text_of(turn: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in turn["contents"][0]["parts"])


def test_a_provider_is_asked_for_an_object() -> None:
    _, body = asked("openai-chat", RECIPES)
    schema = body["response_format"]["json_schema"]["schema"]

    assert (schema["type"], schema["required"]) == ("object", ["answer"])
    assert schema["properties"]["answer"]["type"] == "array"


@pytest.mark.parametrize("schema", [{"type": "object"}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}])
def test_an_object_stays_as_it_is(schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = {"response_format": wanted}

    assert with_object_root(request) is request


def test_definitions_stay_at_the_root() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    made = with_object_root({"response_format": wanted})["response_format"]["json_schema"]["schema"]

    assert made["$defs"] == {"a": {"type": "string"}}
    assert made["properties"]["answer"] == {"type": "array", "items": {"$ref": "#/$defs/a"}}


def test_gemini_itself_gets_what_it_was_asked() -> None:
    schema = {"type": "array", "items": {"type": "string"}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    translation = Translation("openai-chat", "gemini", call_id="0198-aa", created=1)
    to = TargetInfo("gemini-3-flash", "google", capabilities_of("gemini-3-flash"))
    body = {"messages": [{"role": "user", "content": "Hi"}], "response_format": wanted}

    assert translation.request(body, to).body["generationConfig"]["responseJsonSchema"] == schema


@pytest.mark.parametrize("space", ["", " ", "\n  "])
@settings(max_examples=100, deadline=None)
@given(answer=ANSWERS, size=st.integers(1, 12))
def test_an_answer_is_taken_out_of_its_object(space: str, answer: Any, size: int) -> None:
    text = f'{{{space}"answer":{space}{json.dumps(answer)}{space}}}{space}'
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    translation, _ = asked("openai-chat", RECIPES)
    stream = translation.stream()
    raw = stream.feed(b"".join(sse(*(chat({"content": p}) for p in pieces), chat({}, "stop"))))
    came = text_of(sdk.stream("gemini", raw + stream.close()))
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    whole = text_of(sdk.whole("gemini", translation.response({"choices": [choice]})))

    assert json.loads(came) == answer
    assert json.loads(whole) == answer


@pytest.mark.parametrize("text", ["Sorry.", '{"other": 1}', "{", '[{"a": 1}]', '{"answer'])
def test_what_is_no_such_object_is_passed_on(text: str) -> None:
    translation, _ = asked("openai-chat", RECIPES)
    stream = translation.stream()
    raw = stream.feed(b"".join(sse(*(chat({"content": c}) for c in text), chat({}, "stop"))))

    assert text_of(sdk.stream("gemini", raw + stream.close())) == text
    assert opened(text) == text


def test_an_answer_comes_as_it_is_written() -> None:
    translation, _ = asked("openai-chat", RECIPES)
    stream = translation.stream()
    out = [stream.feed(e) for e in sse(*(chat({"content": c}) for c in ('{"answer": [1', ",2")))]

    assert b'"[1"' in out[0]
    assert b'",2"' in out[1]


@pytest.mark.parametrize("target", MODELS)
def test_every_format_is_asked_for_an_object(target: str) -> None:
    _, body = asked(target, RECIPES)
    text = json.dumps(body).replace("\\", "")

    assert ('"answer"' in text) == (target != "gemini")
