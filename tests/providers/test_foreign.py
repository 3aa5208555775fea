"""What other families signed is taken out of a request whose bytes go home."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._parts import seal_envelope
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.foreign import may_hold_foreign, without_foreign
from asgi_llmgate.providers.gemini_contents import DUMMY_SIGNATURE
from asgi_llmgate.providers.gemini_encoder import UNSIGNED_CALL
from asgi_llmgate.providers.inner import TargetInfo
from asgi_llmgate.providers.translate import Translation
from tests.providers import sdk
from tests.providers.test_thinking import MODELS, TURNS

DIALECTS = ["openai-chat", "openai-responses", "anthropic-messages", "gemini"]
FOREIGN = {"type": "thinking", "thinking": "hm", "signature": "abc", "origin": "gemini"}


def turn_of(source: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the request that a caller makes with `answer` as the last turn."""
    match source:
        case "openai-chat":
            return {"messages": [answer["choices"][0]["message"]]}
        case "openai-responses":
            return {"input": answer["output"]}
        case "anthropic-messages":
            return {"messages": [{"role": "assistant", "content": answer["content"]}]}
    return {"contents": [answer["candidates"][0]["content"]]}


@pytest.mark.parametrize(
    ("source", "target"), [(s, t) for s in DIALECTS for t in sorted(TURNS) if s != t]
)
def test_a_turn_of_another_family_goes_home_without_its_signatures(
    source: str, target: str
) -> None:
    call = Translation(source, target, call_id="0198-aa", created=1)
    body = {"model": "m", "messages": [], "input": [], "contents": []}
    call.request(body, TargetInfo(MODELS[target], "x", capabilities_of(MODELS[target])), model="m")
    request = turn_of(source, call.response(TURNS[target]))
    raw = dumps(request)
    changed = request | without_foreign(source, request, "m")

    assert b"origin" not in dumps(changed)
    assert not may_hold_foreign(source, dumps(changed))
    # The tool that was called is still there.
    assert len(dumps(changed)) > len(raw) / 10


@pytest.mark.parametrize("source", DIALECTS)
def test_a_request_without_seals_is_not_looked_at(source: str) -> None:
    raw = dumps({"messages": [{"role": "assistant", "content": "llmgate. is a gateway"}]})

    assert not may_hold_foreign(source, raw)


def test_what_the_family_itself_signed_stays() -> None:
    own = {"type": "thinking", "thinking": "a", "signature": "EqQB"}
    sealed = {"type": "thinking", "thinking": "b", "signature": seal_envelope(FOREIGN)}
    text = {"type": "text", "text": "Hi"}
    request = {"messages": [{"role": "assistant", "content": [own, sealed, text]}]}

    assert without_foreign("anthropic-messages", request, "m") == {
        "messages": [{"role": "assistant", "content": [own, text]}]
    }


def test_a_turn_of_nothing_but_foreign_reasoning_is_left_out() -> None:
    sealed = {"type": "thinking", "thinking": "b", "signature": seal_envelope(FOREIGN)}
    user = {"role": "user", "content": "Hi"}
    request = {"messages": [user, {"role": "assistant", "content": [sealed]}, user]}

    assert without_foreign("anthropic-messages", request, "m") == {"messages": [user, user]}


def test_gemini_is_told_that_a_call_of_others_is_unsigned() -> None:
    call = Translation("gemini", "anthropic-messages", call_id="0198-aa", created=1)
    model = MODELS["anthropic-messages"]
    call.request({"contents": []}, TargetInfo(model, "x", capabilities_of(model)), model="m")
    request = turn_of("gemini", call.response(TURNS["anthropic-messages"]))
    changed = without_foreign("gemini", request, "gemini-3-flash")
    [signature] = {
        part["thoughtSignature"]
        for part in changed["contents"][0]["parts"]
        if "functionCall" in part and "thoughtSignature" in part
    }

    assert signature == DUMMY_SIGNATURE


def test_a_model_that_wants_no_signatures_gets_none() -> None:
    call = {"functionCall": {"name": "f"}, "thoughtSignature": UNSIGNED_CALL}
    request = {"contents": [{"role": "model", "parts": [call]}]}
    changed = without_foreign("gemini", request, "gemini-2.5-flash")

    assert changed["contents"][0]["parts"] == [{"functionCall": {"name": "f"}}]


@pytest.mark.parametrize("source", ["anthropic-messages", "openai-responses"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_reasoning_that_nobody_signed_stays_away_from_who_wants_signatures(
    source: str, is_stream: bool
) -> None:
    translation = Translation(source, "openai-chat", call_id="0198-aa", created=1)
    body = {"model": "m", "messages": [], "input": []}
    translation.request(body, TargetInfo("m", "x", capabilities_of("m")), model="m")
    message = {"role": "assistant", "reasoning_content": "hm", "content": "Hi"}
    if is_stream:
        choice = {"index": 0, "delta": message, "finish_reason": "stop"}
        stream = translation.stream()
        raw = stream.feed(b"data: " + dumps({"choices": [choice]}) + b"\n\n") + stream.close()
        request = sdk.stream(source, raw)
    else:
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        request = turn_of(source, translation.response({"choices": [choice]}))

    assert may_hold_foreign(source, dumps(request))
    assert b"hm" in dumps(request)
    assert b"hm" not in dumps(request | without_foreign(source, request, "m"))


def test_a_budget_for_thinking_gives_way_where_the_thinking_was_anothers() -> None:
    sealed = {"type": "thinking", "thinking": "b", "signature": seal_envelope(FOREIGN)}
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "1"}
    user = {"role": "user", "content": [result]}
    turns = [{"role": "assistant", "content": [sealed, call]}, user]
    budget = {"type": "enabled", "budget_tokens": 1024}

    assert without_foreign("anthropic-messages", {"messages": turns, "thinking": budget}, "m") == {
        "messages": [{"role": "assistant", "content": [call]}, user],
        "thinking": {"type": "disabled"},
    }
    assert "thinking" not in without_foreign(
        "anthropic-messages", {"messages": turns, "thinking": {"type": "adaptive"}}, "m"
    )


def test_chat_providers_do_not_get_our_thinking_blocks() -> None:
    message = {"role": "assistant", "content": "Hi", "thinking_blocks": [FOREIGN]}
    request = {"messages": [message]}

    assert without_foreign("openai-chat", request, "m") == {
        "messages": [{"role": "assistant", "content": "Hi"}]
    }


@pytest.mark.parametrize("request_body", [{}, {"messages": 3}, {"messages": ["x", None]}])
@pytest.mark.parametrize("source", DIALECTS)
def test_odd_bodies_are_the_providers_business(source: str, request_body: dict[str, Any]) -> None:
    assert without_foreign(source, request_body, "m") == {}
