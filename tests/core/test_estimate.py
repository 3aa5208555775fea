from __future__ import annotations

import base64
from typing import Any

import pytest

from asgi_llmgate.core.estimate import (
    FAMILIES,
    complete_usage,
    estimate_input_tokens,
    estimate_output_tokens,
    family_of,
    prompt_size,
)
from asgi_llmgate.core.meter import Metered
from asgi_llmgate.types import Usage
from tests.conftest import DATA, requires_data

NOTHING = Metered(None, None, False, False, 0, None, None)
PROMPT = "The quick brown fox jumps over the lazy dog. " * 20
FILE = base64.b64encode(b"x" * 90_000).decode()


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-sonnet-4-5", "claude"),
        ("us.anthropic.claude-opus-4-8", "claude"),
        ("gpt-4o", "gpt"),
        ("openai/gpt-oss-120b", "gpt"),
        ("o3-mini", "gpt"),
        ("openai/o3", "gpt"),
        ("text-embedding-3-small", "gpt"),
        ("gemini-2.5-flash", "gemini"),
        ("google.gemma-3-27b-it", "gemini"),
        ("models/llama-3", "other"),
        ("solo3", "other"),
        ("", "other"),
        (None, "other"),
    ],
)
def test_the_family_is_told_by_the_model_name(model: str | None, family: str) -> None:
    assert family_of(model) == family


@pytest.mark.parametrize("family", FAMILIES)
def test_english_has_four_to_six_bytes_per_token(family: str) -> None:
    assert 3.5 <= FAMILIES[family].text_bytes <= 6
    assert 3.5 <= FAMILIES[family].output_bytes <= 6


REQUESTS: dict[str, dict[str, Any]] = {
    "openai-chat": {"messages": [{"role": "user", "content": PROMPT}], "model": "m", "n": 1},
    "openai-chat parts": {"messages": [{"content": [{"type": "text", "text": PROMPT}]}]},
    "openai-completions": {"prompt": PROMPT},
    "openai-responses": {"input": [{"content": [{"type": "input_text", "text": PROMPT}]}]},
    "openai-responses text": {"instructions": PROMPT[:450], "input": PROMPT[450:]},
    "openai-embeddings": {"input": [PROMPT[:450], PROMPT[450:]]},
    "anthropic-messages": {"system": [{"type": "text", "text": PROMPT}], "messages": []},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]},
    "gemini system": {"systemInstruction": {"parts": [{"text": PROMPT}]}, "contents": []},
    "gemini-embeddings": {"requests": [{"content": {"parts": [{"text": PROMPT}]}}]},
    "bedrock-converse": {"messages": [{"content": [{"text": PROMPT}]}]},
    "cohere-v2": {"messages": [{"role": "user", "content": PROMPT}]},
    "tool results": {"messages": [{"content": [{"type": "tool_result", "content": PROMPT}]}]},
    "text document": {
        "messages": [
            {"content": [{"type": "document", "source": {"type": "text", "data": PROMPT}}]}
        ]
    },
}


@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_the_same_prompt_has_the_same_size_in_every_dialect(request_body: dict[str, Any]) -> None:
    assert prompt_size(request_body).text_bytes == len(PROMPT)


def test_umlauts_are_counted_in_bytes() -> None:
    assert prompt_size({"prompt": "ä\ud800"}).text_bytes == 3


def test_tools_are_measured_as_json_and_cost_something_once() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    plain = {"messages": [{"content": PROMPT}]}
    one, two = {**plain, "tools": [tool]}, {**plain, "tools": [tool] * 2}
    tokens = [estimate_input_tokens("openai-chat", each, "claude-x") for each in (plain, one, two)]

    written = '[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]'
    assert prompt_size(one).schema_bytes == len(written)
    assert tokens[1] - tokens[0] > 400 > tokens[2] - tokens[1] > 0


MEDIA: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "openai image": ({"type": "image_url", "image_url": {"url": "data:x"}}, (1, 0, 0)),
    "responses image": ({"type": "input_image", "image_url": "https://x.test/a"}, (1, 0, 0)),
    "anthropic image": ({"type": "image", "source": {"type": "base64", "data": FILE}}, (1, 0, 0)),
    "gemini image": ({"inlineData": {"mimeType": "image/png", "data": FILE}}, (1, 0, 0)),
    "converse image": ({"image": {"format": "png", "source": {"bytes": FILE}}}, (1, 0, 0)),
    "openai file": ({"type": "file", "file": {"file_data": FILE}}, (0, 2, 0)),
    "anthropic pdf": ({"type": "document", "source": {"type": "base64", "data": FILE}}, (0, 2, 0)),
    "gemini pdf": ({"inline_data": {"mime_type": "application/pdf", "data": FILE}}, (0, 2, 0)),
    "gemini file": ({"fileData": {"fileUri": "gs://x"}}, (0, 1, 0)),
    "converse document": ({"document": {"source": {"bytes": FILE}}}, (0, 2, 0)),
    "openai audio": ({"type": "input_audio", "input_audio": {"data": FILE}}, (0, 0, 90_000)),
    "gemini audio": ({"inlineData": {"mimeType": "audio/mp3", "data": FILE}}, (0, 0, 90_000)),
}


@pytest.mark.parametrize(("part", "expected"), MEDIA.values(), ids=MEDIA)
def test_media_are_counted_apart_from_text(
    part: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    size = prompt_size({"messages": [{"role": "user", "content": [part]}]})

    assert (size.images, size.pages, size.audio_bytes) == expected
    assert size.text_bytes == 0


def test_an_image_costs_what_its_family_says() -> None:
    request = {"messages": [{"content": [{"type": "image_url"}]}]}

    assert estimate_input_tokens("openai-chat", request, "gpt-4o") == 765 + 6


def test_embeddings_have_no_template() -> None:
    assert estimate_input_tokens("openai-embeddings", {"input": "Hi"}, "text-embedding-3") == 1
    assert estimate_input_tokens("openai-chat", {"input": "Hi"}, "gpt-4o") == 7


def test_no_output_is_no_token_and_any_output_is_one() -> None:
    assert [estimate_output_tokens(size, "gpt-4o") for size in (-1, 0, 1, 420)] == [0, 0, 1, 100]


def test_counted_usage_is_left_alone() -> None:
    usage = Usage(10, 20)

    assert complete_usage(NOTHING._replace(usage=usage), "openai-chat", {}, "gpt-4o") is usage


def test_provisional_usage_keeps_its_input_and_gets_an_output() -> None:
    metered = NOTHING._replace(usage=Usage(12, 1, 5), is_provisional=True, output_bytes=400)

    assert complete_usage(metered, "anthropic-messages", {}, "claude-x") == Usage(
        12, 100, 5, estimated=True
    )
    # Thoughts that were counted and not shown weigh more than what was.
    more = metered._replace(usage=Usage(12, 300))
    assert complete_usage(more, "gemini", {}, "gemini-x") == Usage(12, 300, estimated=True)


def test_missing_usage_is_estimated_on_both_sides() -> None:
    metered = NOTHING._replace(output_bytes=42)
    request = {"messages": [{"content": "x" * 370}]}

    assert complete_usage(metered, "openai-chat", request, "gpt-4o") == Usage(
        106, 10, estimated=True
    )
    assert complete_usage(metered, None, None, "gpt-4o") == Usage(0, 10, estimated=True)


def test_a_document_without_its_bytes_is_one_page() -> None:
    part = {"type": "document", "source": {"type": "file", "pages": [1, 2]}}

    assert prompt_size({"messages": [{"content": [part]}]}).pages == 1


@pytest.mark.parametrize("wire_format", ["openai-images", "openai-files", "gemini-count-tokens"])
def test_what_generates_no_text_is_not_estimated(wire_format: str) -> None:
    assert complete_usage(NOTHING, wire_format, {"prompt": PROMPT}, "m") is None


def test_an_error_before_the_first_word_costs_nothing() -> None:
    failed = NOTHING._replace(failed=True)

    assert complete_usage(failed, "openai-chat", {"messages": []}, "m") is None
    assert complete_usage(NOTHING, "openai-chat", None, "m") is None


@requires_data("exchanges")
def test_the_errors_in_the_docstring_are_those_of_the_recorded_traffic() -> None:
    from asgi_llmgate.core import estimate
    from bench.fit_estimate import report

    documented = [row for row in (estimate.__doc__ or "").splitlines() if "%  " in row]
    measured = [
        f"{family:12} {row.input.calls:8} {row.input.median:7.0%} {row.input.p90:4.0%}"
        f"  {row.output.calls:16} {row.output.median:7.0%}  {row.output.p90:.0%}"
        for family, row in report(DATA).items()
    ]

    assert [row.split() for row in measured] == [row.split() for row in documented]
