"""What labels and a model say, for people."""

from __future__ import annotations

import random

import pytest

from asgi_llmgate.core.semantic import report
from asgi_llmgate.core.semantic.features import MADE_OF, NAMES
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.mind import Mind
from asgi_llmgate.core.semantic.model import Model, fit


def label(right: bool, similarity: float, *, proposed: bool = True) -> Label:
    features = [0.0] * MADE_OF
    features[0], features[1] = float(proposed), similarity
    return Label(tuple(features), right, 1.0, Source.MISS, f"{similarity}", "answer", similarity, 1)


def learned() -> tuple[list[Label], Model]:
    chance = random.Random(1)
    labels = [label(True, chance.uniform(0.8, 1)) for _ in range(600)]
    labels += [label(False, chance.uniform(0.3, 0.6)) for _ in range(200)]
    chance.shuffle(labels)
    mind = Mind()
    mind.learn(labels)
    return labels, fit(mind.snapshot())


def test_labels_are_counted_by_verdict_and_source() -> None:
    labels = [label(True, 0.9), label(False, 0.8)._replace(source=Source.SHADOW)]

    assert report.label_counts(labels) == {
        "total": 2,
        "right": 1,
        "wrong": 1,
        "by_source": {"miss": {"right": 1, "wrong": 0}, "shadow": {"right": 0, "wrong": 1}},
    }


@pytest.mark.parametrize(
    ("similarity", "start"), [(1.0, 0.95), (0.95, 0.95), (0.9499, 0.9), (0.0, 0.0), (-0.4, 0.0)]
)
def test_a_label_is_in_the_cell_of_its_similarity(similarity: float, start: float) -> None:
    first, *_, last = [*report.histogram([label(True, similarity)]), None]

    assert last is None
    assert first is not None
    assert (first["from"], first["right"], first["wrong"]) == (start, 1, 0)


def test_a_histogram_begins_where_there_is_something() -> None:
    cells = report.histogram([label(True, 0.86), label(False, 0.97)])

    assert [cell["from"] for cell in cells] == [0.85, 0.9, 0.95]
    assert report.histogram([]) == []


def test_a_stricter_bound_serves_no_more() -> None:
    labels, model = learned()
    rows = report.bounds(labels, model, [0.05, 0.01, 0.02, 0.02])

    assert [row["max_error"] for row in rows] == [0.01, 0.02, 0.05]
    served = [row["would_serve"] for row in rows]
    assert served == sorted(served)
    assert served[-1] >= 500
    for row in rows:
        assert row["precision_low"] >= 1 - row["max_error"]
        assert row["would_be_wrong"] <= row["max_error"] * row["would_serve"]


def test_what_was_not_proposed_is_no_candidate() -> None:
    [row] = report.bounds([label(True, 0.9, proposed=False)], None, [0.02])

    assert row["candidates"] == row["would_serve"] == 0
    assert row["threshold"] is row["precision"] is None


def test_the_state_says_what_is_lacking() -> None:
    labels, model = learned()

    assert report.state_of(labels[:3], None, 0.02).startswith("cold: 3 of 100 labels")
    assert report.state_of(labels, model, 0.02) == "serving"
    assert report.state_of(labels, model, 1e-9).startswith("unproven")


def test_weights_and_labels_are_exported_by_name() -> None:
    _, model = learned()
    weights = report.weights(model)

    assert weights is not None
    assert list(weights) == ["bias", *NAMES[1:]]
    assert report.weights(None) is None
    assert report.export_label(label(True, 0.9))["features"]["similarity"] == 0.9
