from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.semantic.candidate import candidates
from asgi_llmgate.core.semantic.features import Evidence
from asgi_llmgate.core.semantic.guards import HARD, differences
from asgi_llmgate.core.semantic.words import MAX_CHARS, stem, words
from tests.core.semantic.making import neighbour

CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())
WORDS = re.findall(
    r"\S+", "How do I not send 20 euros from Paris to Rome on Monday AB-12 can't open close"
)
TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(WORDS),
        max_size=12,
    ).map(" ".join),
)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [(kind, *pair) for kind, pairs in CORPUS["swaps"].items() for pair in pairs],
)
def test_a_swapped_fact_is_seen(kind: str, one: str, other: str) -> None:
    assert kind in differences(words(one), words(other))


@pytest.mark.parametrize(("one", "other"), CORPUS["paraphrases"])
def test_no_paraphrase_is_vetoed(one: str, other: str) -> None:
    assert differences(words(one), words(other)) == ()


@pytest.mark.parametrize(("asked", "attack"), CORPUS["suffixes"])
def test_no_text_with_a_foreign_suffix_is_served(asked: str, attack: str) -> None:
    found = candidates(
        asked, [neighbour(attack, 0.97)], lambda _: Evidence(), lambda _: Evidence(), 0.5
    )

    assert found[0].forbidden is not None


@given(TEXTS, TEXTS)
def test_guards_are_symmetric(one: str, other: str) -> None:
    assert differences(words(one), words(other)) == differences(words(other), words(one))


@given(TEXTS)
def test_nothing_differs_from_itself(text: str) -> None:
    assert differences(words(text), words(text)) == ()


@given(TEXTS)
def test_case_at_the_beginning_and_white_space_say_nothing(text: str) -> None:
    assert not HARD & set(differences(words(text), words(f"  {text} ")))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2,000 dollars", ("2000",)),
        ("two thousand", ("1000", "2")),
        ("1.50 and 1.5", ("1.5", "1.5")),
        ("at 3pm", ("3",)),
        ("the 2nd of 5kg", ("2", "5")),
        ("which one", ()),
        ("code 007", ("007",)),
    ],
)
def test_numbers_are_read_in_several_spellings(text: str, numbers: tuple[str, ...]) -> None:
    assert words(text).numbers == numbers


def test_ids_are_read_in_several_spellings() -> None:
    assert words("order #WT-44219?").ids == words("order WT-44219").ids == {"wt-44219"}
    assert words("write to a.b@example.org").ids == {"a.b@example.org"}
    assert words('say "good night"').ids == {"good night"}


def test_names_are_words_with_a_capital_letter_inside_a_sentence() -> None:
    assert words("Is Berlin big? Please tell Anna's age").names == {"berlin", "anna"}
    assert words("WHERE IS MY CARD").names == frozenset()


def test_a_very_long_text_is_read_at_its_beginning_only() -> None:
    assert len(words("word " * 10_000).tokens) == MAX_CHARS // 5


@pytest.mark.parametrize(
    ("word", "bare"), [("cards", "card"), ("cities", "city"), ("Anna's", "Anna"), ("as", "as")]
)
def test_endings_are_dropped(word: str, bare: str) -> None:
    assert stem(word) == bare
