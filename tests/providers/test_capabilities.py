"""The table of what models can do."""

from __future__ import annotations

import pytest

from asgi_llmgate.providers.capabilities import capabilities_of, chat_provider


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-4-8",
        "claude-opus-4-8-20260528",
        "anthropic/claude-opus-4-8",
        "us.anthropic.claude-opus-4-8-v1:0",
        "global.anthropic.claude-opus-4-8",
        "publishers/anthropic/models/claude-opus-4-8",
        "CLAUDE-OPUS-4-8",
    ],
)
def test_a_model_is_known_by_all_its_names(name: str) -> None:
    can = capabilities_of(name)

    assert can.known
    assert (can.thinking, can.sampling, can.max_output) == ("adaptive", False, 128_000)


def test_the_longest_name_counts() -> None:
    assert capabilities_of("claude-opus-5").thinking_off
    assert not capabilities_of("claude-opus-5-5").thinking_off
    assert capabilities_of("claude-opus-4-20250514").max_output == 32_000
    assert capabilities_of("claude-opus-4-5-20251101").max_output == 64_000
    assert capabilities_of("gpt-5").thinking_off is False
    assert capabilities_of("gpt-5.4-mini").thinking_off is True
    assert capabilities_of("gemini-3-pro-preview").efforts == ("low", "high")
    assert capabilities_of("gemini-3.6-flash").efforts == ("minimal", "low", "medium", "high")


def test_nothing_is_held_against_an_unknown_model() -> None:
    can = capabilities_of("brand-new-model")

    assert not can.known
    assert can.sampling
    assert can.forced_tools
    assert can.thinking_off


def test_forced_tool_choice_is_refused_by_some() -> None:
    assert not capabilities_of("claude-fable-5-1").forced_tools
    assert not capabilities_of("claude-sonnet-5-5").forced_tools
    assert capabilities_of("claude-sonnet-5").forced_tools


def test_an_unknown_chat_provider_gets_the_common_ground() -> None:
    provider = chat_provider("nobody")

    assert (provider.max_tokens, provider.user) == ("max_tokens", "user")
    assert not provider.request
    assert chat_provider("openai").max_tokens == "max_completion_tokens"
