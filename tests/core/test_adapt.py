from __future__ import annotations

from typing import Any

import pytest

from asgi_llmgate.core.adapt import changes_for
from asgi_llmgate.core.registry import Provider

OLD = Provider("old", "Old", renames={"max_completion_tokens": "max_tokens"})
PLAIN = Provider("plain", "Plain", content_must_be_string=True)
PARTS = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}


@pytest.mark.parametrize(
    ("provider", "request_", "expected"),
    [
        (OLD, {"max_completion_tokens": 5}, ({"max_tokens": 5}, {"max_completion_tokens"})),
        (OLD, {"max_completion_tokens": 5, "max_tokens": 6}, ({}, set())),
        (OLD, {"messages": [PARTS]}, ({}, set())),
        (PLAIN, {"messages": [PARTS]}, ({"messages": [{"role": "user", "content": "ab"}]}, set())),
        (PLAIN, {"messages": [IMAGE, {"role": "user", "content": "x"}, 7]}, ({}, set())),
        (PLAIN, {"messages": [{"role": "user", "content": []}]}, ({}, set())),
        (PLAIN, {"messages": "nonsense"}, ({}, set())),
        (Provider("any", "Any"), {"max_completion_tokens": 5}, ({}, set())),
    ],
    ids=["renamed", "both", "parts pass", "flat", "images stay", "empty", "nonsense", "any"],
)
def test_what_a_provider_spells_differently_is_changed(
    provider: Provider, request_: dict[str, Any], expected: tuple[dict[str, Any], set[str]]
) -> None:
    changes, dropped = changes_for(provider, "openai-chat", request_)

    assert (changes, set(dropped)) == expected


def test_other_dialects_are_left_alone() -> None:
    assert changes_for(OLD, "anthropic-messages", {"max_completion_tokens": 5}) == ({}, frozenset())
