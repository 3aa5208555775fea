"""What the tests of the matrix share: the cells, the question, and what a record must say."""

from __future__ import annotations

from typing import Any

import pytest

from tests import wire
from tests.e2e.conftest import Calls
from tests.e2e.speakers import FORMATS, MODELS, PROVIDERS

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
QUESTION = "What is the weather in Paris?"


def targets_but(source: str) -> pytest.MarkDecorator:
    """Run a test once per format that is not the caller's."""
    return pytest.mark.parametrize("target", [each for each in FORMATS if each != source])


WHOLE_AND_STREAM = pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])


def model_of(target: str, mark: str = "") -> str:
    """Return the model by which a caller reaches the provider of that format."""
    return f"{PROVIDERS[target]}/{MODELS[target]}{mark}"


def check(recorded: Calls, target: str, dialect: str, *, is_stream: bool = False) -> None:
    """Assert that the record tells the call as one of the caller's dialect, and its tokens."""
    record = recorded.one()
    expected = {
        "dialect": dialect,
        "provider": PROVIDERS[target],
        "model_requested": model_of(target),
        "status": 200,
        "is_stream": is_stream,
        "complete": True,
        "input_tokens": wire.INPUT_TOKENS,
        "output_tokens": wire.OUTPUT_TOKENS,
        "usage_estimated": False,
    }
    assert {name: record[name] for name in expected} == expected
