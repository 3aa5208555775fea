from __future__ import annotations

import pytest

from asgi_llmgate.core.semantic.features import MADE_OF, NAMES
from asgi_llmgate.core.semantic.label import Source
from asgi_llmgate.core.semantic.mind import WINDOW, Decision, Mind
from tests.core.semantic.making import label, neighbour, scored, sure

ASKED = "How do I reset my password?"
NEAR = "How can I reset my password?"


def certain() -> Mind:
    mind = Mind()
    mind.model = sure()
    return mind


def decide(mind: Mind, *near: str, question: str = ASKED, shared: bool = False) -> Decision:
    found = [neighbour(text, 0.95 - at / 100) for at, text in enumerate(near)]
    return mind.decide(question, found, max_error=0.02, principal="me", is_shared=shared)


def test_without_neighbours_there_is_nothing_to_serve() -> None:
    decision = decide(certain())

    assert (decision.neighbour, decision.serves, decision.reason) == (None, False, "none")


def test_who_has_learned_nothing_serves_nothing_but_says_what_is_near() -> None:
    decision = decide(Mind(), NEAR)

    assert (decision.serves, decision.reason) == (False, "cold")
    assert decision.neighbour is not None
    assert len(decision.features) == MADE_OF


def test_a_likely_answer_is_served() -> None:
    decision = decide(certain(), NEAR)

    assert decision.serves
    assert decision.reason is None
    assert decision.similarity == pytest.approx(0.95)
    assert 0 < decision.look <= 1


def test_an_unlikely_answer_is_not_served() -> None:
    mind = Mind()
    mind.model = sure(0.3)

    assert decide(mind, NEAR).reason == "below"


def test_a_bound_that_nothing_proves_serves_nothing() -> None:
    mind = certain()
    found = [neighbour(NEAR)]

    assert mind.decide(ASKED, found, max_error=0.0, principal="me").reason == "unproven"


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("How do I reset my password 2 times?", "veto:number"),
        ("How do I reset my password on monday?", "veto:date"),
        ("How do I reset my password of AB-123?", "veto:id"),
        ("How do I not reset my password?", "veto:negation"),
    ],
)
def test_a_question_that_differs_in_a_fact_is_not_served(question: str, reason: str) -> None:
    decision = decide(certain(), NEAR, question=question)

    assert (decision.serves, decision.reason) == (False, reason)
    assert decision.features[NAMES.index("is_proposed")] == 0


def test_no_number_of_phrasings_makes_up_for_another_number() -> None:
    near = [f"{word} I reset my password 3 times?" for word in ("Can", "May", "Do", "Should")]

    assert decide(certain(), *near, question="Can I reset my password 4 times?").reason == (
        "veto:number"
    )


def test_enough_phrasings_without_a_difference_outvote_one_with_one() -> None:
    question = "Why is my card not accepted"
    near = [
        "For what reason is my card accepted",
        "Why is my card never accepted",
        "My card isn't accepted why",
    ]

    assert decide(certain(), near[0], question=question).reason == "veto:negation"
    assert decide(certain(), *near, question=question).serves


TWINS = [
    ("Why is my card accepted", "veto:negation"),
    ("Why is my card not rejected", "veto:opposite"),
]


@pytest.mark.parametrize(("twin", "reason"), TWINS, ids=[reason for _, reason in TWINS])
def test_no_number_of_phrasings_makes_up_for_one_with_another_word(twin: str, reason: str) -> None:
    question = "Why is my card not accepted"
    near = ["Why is my card never accepted", "My card isn't accepted why", "Card not accepted"]

    assert decide(certain(), *near, question=question).serves
    assert decide(certain(), *near, twin, question=question).reason == reason
    # It was asked before in these very words, and this was the answer.
    assert decide(certain(), question, *near, twin, question=question).serves


def test_what_shares_no_word_with_any_phrasing_is_not_served() -> None:
    assert decide(certain(), "Zebras graze quietly beyond hills").reason == "floor"


def test_what_is_many_times_as_long_is_not_served() -> None:
    assert decide(certain(), NEAR + " reset password" * 20).reason == "length"


def test_answers_of_others_are_not_served_to_somebody_who_shares_them_alone() -> None:
    assert decide(certain(), NEAR, shared=True).reason == "unconfirmed"


@pytest.mark.parametrize("principals", [("a", "b"), ("me",)], ids=["two others", "the asker"])
def test_answers_that_are_confirmed_are_shared(principals: tuple[str, ...]) -> None:
    found = [
        neighbour(f"{NEAR} {at * '!'}", 0.95, principal=one) for at, one in enumerate(principals)
    ]
    decision = certain().decide(ASKED, found, max_error=0.02, principal="me", is_shared=True)

    assert decision.serves


def test_one_principal_with_two_phrasings_confirms_nothing() -> None:
    assert decide(certain(), NEAR, NEAR + "!", shared=True).reason == "unconfirmed"


def test_further_candidates_are_told() -> None:
    found = [neighbour(NEAR, 0.95, "a"), neighbour(NEAR + "!", 0.9, "b")]
    decision = certain().decide(ASKED, found, max_error=0.02, principal="me")

    assert decision.neighbour is not None
    answers = {
        decision.neighbour.alias.answer,
        *(o.neighbour.alias.answer for o in decision.others),
    }
    assert answers == {"a", "b"}


def test_threshold_mode_serves_by_cosine_alone() -> None:
    mind, found = Mind(), [neighbour(NEAR, 0.9)]

    def by(threshold: float) -> Decision:
        return mind.decide_by_threshold(ASKED, found, threshold=threshold, principal="me")

    assert by(0.85).serves
    assert by(0.95).reason == "below"
    assert not mind.decide_by_threshold(ASKED, [], threshold=0.9, principal="me").serves


def test_threshold_mode_keeps_the_hard_guards_only() -> None:
    def by(near: str) -> Decision:
        found = [neighbour(near, 0.99)]
        return Mind().decide_by_threshold(ASKED, found, threshold=0.8, principal="me")

    assert by("How do I reset my password 5 times?").reason == "veto:number"
    assert by("How do I not reset my password?").serves


def test_threshold_mode_shares_only_what_is_confirmed() -> None:
    found = [neighbour(NEAR, 0.99)]
    decision = Mind().decide_by_threshold(
        ASKED, found, threshold=0.8, principal="me", is_shared=True
    )

    assert decision.reason == "unconfirmed"


def test_a_fit_needs_labels_and_right_ones() -> None:
    mind = Mind()
    mind.learn(label(is_right=False) for _ in range(200))
    assert not mind.needs_fit(0.0)
    mind.learn(label() for _ in range(20))

    assert mind.needs_fit(0.0)


def test_a_fit_is_due_after_many_labels_or_some_time() -> None:
    mind = Mind()
    mind.learn(scored(2500))
    assert mind.needs_fit(0.0)
    mind.snapshot()
    assert not mind.needs_fit(100.0)
    mind.learn(scored(10))
    assert not mind.needs_fit(20.0)

    assert mind.needs_fit(31.0)
    mind.learn(scored(250))
    assert mind.needs_fit(1.0)


def test_only_the_newest_labels_are_known() -> None:
    mind = Mind()
    mind.learn([label(is_right=False, answer="old")])
    mind.learn(label(answer="new") for _ in range(WINDOW))

    assert mind.labels == WINDOW
    assert mind.snapshot().is_right.all()


def test_forgetting_leaves_nothing() -> None:
    mind = certain()
    mind.learn(scored(200))
    mind.forget()

    assert (mind.labels, mind.model) == (0, None)
    assert decide(mind, NEAR).reason == "cold"
    assert not mind.needs_fit(1e9)


def test_labels_of_another_make_are_passed_over() -> None:
    mind = Mind()
    mind.learn([label()._replace(features=(1.0, 2.0))])

    assert mind.labels == 0


def test_two_wrong_hits_in_a_row_discredit_an_answer() -> None:
    mind = Mind()
    wrong = label(is_right=False, source=Source.SHADOW)
    mind.learn([wrong, label(), wrong])
    assert not mind.is_discredited("a")
    mind.learn([wrong])

    assert mind.is_discredited("a")
    assert not mind.is_discredited("b")


def test_misses_discredit_nothing() -> None:
    mind = Mind()
    mind.learn(label(is_right=False) for _ in range(9))

    assert not mind.is_discredited("a")
