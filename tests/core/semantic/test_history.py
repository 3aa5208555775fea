"""Logged calls and lines of files, as questions and answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llmgate.core.semantic.asking import NONE
from asgi_llmgate.core.semantic.history import Past, past_of_line, past_of_record
from tests.backends.records import PLAIN

REQUEST: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "When do you open?"},
    ],
}
RESPONSE: dict[str, Any] = {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "At nine."},
            "finish_reason": "stop",
        }
    ]
}
LOGGED: dict[str, Any] = {
    "tenant": "acme",
    "user_id": "ada",
    "dialect": "openai",
    "status": 200,
    "complete": True,
    "cost_nanousd": 7,
    "cache": None,
    "saved_nanousd": None,
    "request_body": json.dumps(REQUEST),
    "response_body": json.dumps(RESPONSE),
    "request_truncated": False,
    "response_truncated": False,
}
RECORD = PLAIN._replace(
    tenant="acme",
    status=200,
    complete=True,
    format="openai-chat",
    user_id="ada",
    cost_nanousd=7,
    request_body=json.dumps(REQUEST).encode(),
    response_body=json.dumps(RESPONSE).encode(),
    request_truncated=False,
    response_truncated=False,
)


def read(line: Any) -> Past:
    found = past_of_line(json.dumps(line).encode())
    assert isinstance(found, Past), found
    return found


def test_a_question_and_its_answer() -> None:
    past = read(
        {
            "question": " When do hats come? ",
            "answer": "At nine.",
            "cost_usd": "0.001",
            "user": "ada",
        }
    )

    assert past == Past(
        "When do hats come?", "", "When do hats come?", "At nine.", "ada", 1_000_000
    )


def test_what_is_true_only_now_is_for_the_very_same_request() -> None:
    past = read({"question": "What is the weather today?", "answer": "Rain."})

    assert past.question is None


def test_a_pair_of_bodies() -> None:
    past = read({"request": REQUEST, "response": RESPONSE})

    assert (past.question, past.answer) == ("When do you open?", "At nine.")
    assert len(past.scope) == len(past.key) == 64


def test_a_logged_call_is_read_alike_from_the_journal_and_from_its_line() -> None:
    printed = read(LOGGED)
    logged = past_of_record(RECORD)

    assert printed == logged
    assert printed.asker == "ada"
    assert printed.cost_nanousd == 7


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt-4o-mini"},
        {"messages": [{"role": "user", "content": "When do you open?"}]},
        {"tools": [{"type": "function"}]},
    ],
    ids=["model", "system", "tools"],
)
def test_another_rest_is_another_scope(change: dict[str, Any]) -> None:
    one = read({"request": REQUEST, "response": RESPONSE})
    other = read({"request": REQUEST | change, "response": RESPONSE})

    assert one.question == other.question
    assert one.scope != other.scope


def test_a_tenant_is_another_scope_and_form_is_none() -> None:
    one = read(LOGGED)

    assert read(LOGGED | {"tenant": "other"}).scope != one.scope
    streamed = json.dumps(REQUEST | {"stream": True})
    assert read(LOGGED | {"request_body": streamed}).key == one.key


def test_context_none_leaves_the_history_out() -> None:
    longer = REQUEST | {
        "messages": [
            REQUEST["messages"][0],
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            REQUEST["messages"][1],
        ]
    }
    lines = [
        json.dumps({"request": request, "response": RESPONSE}).encode()
        for request in (REQUEST, longer)
    ]
    one, other = (past_of_line(line, NONE) for line in lines)

    assert isinstance(one, Past)
    assert isinstance(other, Past)
    assert one.scope == other.scope
    assert one.key != other.key


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (
            {"model": "claude", "messages": [{"role": "user", "content": "Hats?"}]},
            {"type": "message", "content": [{"type": "text", "text": "Hello"}]},
        ),
        (
            {"contents": [{"role": "user", "parts": [{"text": "Hats?"}]}]},
            {"candidates": [{"content": {"parts": [{"text": "Hello"}]}}]},
        ),
        (
            {"model": "gpt-4o", "input": "Hats?"},
            {
                "output": [
                    {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
                ]
            },
        ),
        ({"model": "x", "prompt": "Hats?"}, {"choices": [{"index": 0, "text": "Hello"}]}),
    ],
    ids=["anthropic", "gemini", "responses", "completions"],
)
def test_every_dialect_is_known_by_its_bodies(
    request_: dict[str, Any], response: dict[str, Any]
) -> None:
    past = read({"request": request_, "response": response})

    assert (past.question, past.answer) == ("Hats?", "Hello")


def test_a_hit_cost_what_it_saved() -> None:
    hit = {"cache": "HIT", "cost_nanousd": 0, "saved_nanousd": 9}
    record = RECORD._replace(cache="HIT", cost_nanousd=0, saved_nanousd=9)
    past = past_of_record(record)

    assert read(LOGGED | hit).cost_nanousd == 9
    assert isinstance(past, Past)
    assert past.cost_nanousd == 9


@pytest.mark.parametrize("cost", [None, "much", "NaN", "Infinity", [1]])
def test_an_odd_cost_is_unknown(cost: Any) -> None:
    assert read({"question": "a", "answer": "b", "cost_usd": cost}).cost_nanousd is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "no JSON"),
        (b"[]", "no object"),
        (b"{}", "neither question and answer, nor request and response"),
        (b'{"question": "", "answer": "x"}', "empty"),
        (b'{"question": "x", "answer": " "}', "empty"),
        (b'{"request": "{", "response": {}}', "no JSON"),
        (b'{"request": 1, "response": {}}', "no JSON"),
        (b'{"request": "[]", "response": {}}', "no object"),
        (b'{"request": {}, "response": {}}', "another route"),
        (b'{"request": {"messages": []}, "response": {"choices": []}}', "answers that are no text"),
    ],
    ids=str,
)
def test_a_line_that_is_no_call_says_why(line: bytes, reason: str) -> None:
    assert past_of_line(line) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"request_body": None}, "no bodies"),
        ({"response_body": None}, "no bodies"),
        ({"response_truncated": True}, "bodies cut off"),
        ({"status": 500}, "failed"),
        ({"complete": False}, "failed"),
        ({"properties": {"purpose": "semantic-cache"}}, "the cache's own"),
    ],
    ids=str,
)
def test_a_logged_call_that_cannot_be_gone_through_says_why(
    change: dict[str, Any], reason: str
) -> None:
    assert past_of_line(json.dumps(LOGGED | change).encode()) == reason
    assert past_of_record(RECORD._replace(**change)) == reason
