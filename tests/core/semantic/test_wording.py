from __future__ import annotations

import pytest

from asgi_llmgate.core.semantic.verdict import Verdict, compare
from asgi_llmgate.core.semantic.wording import MAX_CHARS, unfit


@pytest.mark.parametrize(
    "question",
    [
        "What's the weather in Oslo?",
        "What is the exchange rate today?",
        "What's my current balance?",
        "what time is it in rome",
        "Show my balance right now",
        "What\u2019s my checking account balance",
        "How much do I have in savings?",
        "latest news about the merger",
        "What is the share price of Acme?",
    ],
)
def test_what_changes_by_the_hour_is_volatile(question: str) -> None:
    assert unfit(question) == "volatile"


@pytest.mark.parametrize(
    "question",
    [
        "Cancel my subscription",
        "Please transfer $50 to Anna",
        "Could you delete this file?",
        "I want to close my account",
        "Stop the transfer I just sent.",
        "Open a dispute on the $129.99 charge.",
    ],
)
def test_what_is_to_be_done_is_an_action(question: str) -> None:
    assert unfit(question) == "action"


@pytest.mark.parametrize("question", ["who are you", "What can you do?", "How are you?", "?!"])
def test_what_has_no_word_of_its_own_is_vague(question: str) -> None:
    assert unfit(question) == "vague"


@pytest.mark.parametrize(
    "question",
    [
        "How do I cancel my subscription?",
        "What does it cost to transfer $50?",
        "Where can I open a current account?",
        "Why was my transfer cancelled this morning?",
        "Is there a fee for closing an account?",
        "How does a weatherproof coat work?",
        "What is a balance sheet?",
    ],
)
def test_questions_about_such_things_are_neither(question: str) -> None:
    assert unfit(question) is None


def test_what_the_embedder_cannot_read_whole_is_long() -> None:
    assert unfit("hat " * (MAX_CHARS // 4)) is None
    assert unfit("hat " * MAX_CHARS) == "long"


@pytest.mark.parametrize(
    ("one", "other", "similarity", "verdict"),
    [
        ("Yes.", "  yes ", None, Verdict.SAME),
        ("**Paris**", "Paris", None, Verdict.SAME),
        ("It costs $5.", "It costs $6.", 0.99, Verdict.DIFFERENT),
        ("1. Open it.\n2. Press start.", "- Open it.\n- Press start.", None, Verdict.SAME),
        ("Open the app.", "Close the app.", 0.97, Verdict.UNSURE),
        ("Open the app and sign in.", "Sign in after opening the app.", 0.97, Verdict.SAME),
        ("Open the app and sign in.", "Sign in after opening the app.", 0.80, Verdict.UNSURE),
        ("Open the app and sign in.", "Sign in after opening the app.", None, Verdict.UNSURE),
        ("Open the app.", "Whales are mammals.", 0.1, Verdict.DIFFERENT),
        ("It works. " * 500, "It does work. " * 500, 0.99, Verdict.UNSURE),
        ('{"a": 1, "b": [2]}', '{"b": [2.0], "a": 1}', None, Verdict.SAME),
        ('{"a": 1}', '{"a": 2}', 0.99, Verdict.DIFFERENT),
        ('{"a": 1}', '{"b": 1}', 0.99, Verdict.DIFFERENT),
        ('{"a": 1}', '{"a": true}', 0.99, Verdict.DIFFERENT),
        ('{"a": "good day"}', '{"a": "hello"}', 0.99, Verdict.UNSURE),
        ("[1, 2]", "[1]", 0.99, Verdict.DIFFERENT),
        ('{"a": 1}', "a is 1", 0.99, Verdict.DIFFERENT),
        ("[not json", "[not  json", None, Verdict.SAME),
    ],
)
def test_answers_are_compared(
    one: str, other: str, similarity: float | None, verdict: Verdict
) -> None:
    assert compare(one, other, similarity) is verdict
    assert compare(other, one, similarity) is verdict
