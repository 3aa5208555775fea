"""The labelled questions: what is in the data folder, and streams made of it."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from asgi_llmgate.core.semantic.alias import Vector
from asgi_llmgate.core.semantic.simulate import Asked

__all__ = ["Files", "Pair", "Texts", "long_tail", "read", "stream"]

MOST_ASKINGS = 23


class Files(NamedTuple):
    """Where the sets are. One that is missing is left out.

    Args:
        banking, clinc: JSON lines {text, intent}.
        paws: Tab-separated id, sentence1, sentence2, label.
        traps: JSON [{a, b, reuse, cat}].
        mock: JSON [{origin, similar}].
    """

    banking: Path
    clinc: Path
    paws: Path
    traps: Path
    mock: Path


class Pair(NamedTuple):
    one: str
    other: str
    is_same: bool
    kind: str


class Texts(NamedTuple):
    banking: list[tuple[str, str]]
    clinc: list[tuple[str, str]]
    paws: list[Pair]
    traps: list[Pair]
    mock: list[Pair]


def read(files: Files) -> Texts:
    return Texts(
        _intents(files.banking),
        _intents(files.clinc),
        _paws(files.paws),
        [Pair(row["a"], row["b"], row["reuse"], row["cat"]) for row in _json(files.traps)],
        [Pair(row["origin"], row["similar"], True, "mock") for row in _json(files.mock)],
    )


def stream(
    questions: Sequence[tuple[str, str]], vectors: dict[str, Vector], seed: int
) -> list[Asked]:
    """Return the questions shuffled, each with its vector."""
    asked = [Asked(text, answer, vectors[text]) for text, answer in questions]
    random.Random(seed).shuffle(asked)
    return asked


def long_tail(questions: Iterable[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """Return 1 to 23 askings of each question. What belongs to no intent is asked once."""
    chosen = random.Random(seed)
    by_answer: dict[str, list[tuple[str, str]]] = {}
    for question in questions:
        by_answer.setdefault(question[1], []).append(question)
    found = []
    for answer in sorted(by_answer):
        askings = by_answer[answer]
        found += chosen.sample(askings, min(len(askings), chosen.randint(1, MOST_ASKINGS)))
    return found


def _intents(path: Path) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else ()):
        row = json.loads(line)
        # Out of scope is no intent: two such questions have nothing in common.
        intent = f"oos {number}" if row["intent"] == "oos" else f"{path.stem} {row['intent']}"
        found.append((row["text"].strip(), intent))
    return found


def _paws(path: Path) -> list[Pair]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Pair(row[1], row[2], row[3] == "1", "paws") for row in rows if row[0].isdigit()]


def _json(path: Path) -> list[dict[str, str]]:
    return json.loads(path.read_text()) if path.is_file() else []
