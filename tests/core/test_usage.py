from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from asgi_llmgate.core.routes import FORMATS
from asgi_llmgate.core.usage import read_model, read_usage
from asgi_llmgate.types import Usage
from tests.conftest import requires_data
from tests.core.answers import Case, metered, payloads_of, recorded

RECORDED = recorded()


def chat(usage: object, provider: str | None = None) -> Usage | None:
    return read_usage("openai-chat", {"usage": usage}, provider)


@pytest.mark.parametrize(
    "usage",
    [None, [], "12", {}, {"prompt_tokens": None}, {"prompt_tokens": "5"}, {"prompt_tokens": True}],
    ids=str,
)
def test_usage_without_a_number_is_no_usage(usage: object) -> None:
    for wire_format in ("openai-chat", "openai-responses", "anthropic-messages", "gemini", ""):
        assert read_usage(wire_format, {"usage": usage, "usageMetadata": usage}) is None
    assert read_usage("bedrock-converse", {"usage": usage}) is None
    assert read_usage("cohere-v2", {"usage": usage}) is None


@pytest.mark.parametrize("bad", [-1, 10**13, float("inf"), float("nan"), "7", [7], {}], ids=str)
def test_a_number_that_is_none_counts_as_0(bad: object) -> None:
    details = {"cached_tokens": bad, "audio_tokens": bad, "cache_write_tokens": bad}
    usage = {"prompt_tokens": bad, "completion_tokens": 3, "prompt_tokens_details": details}

    assert chat(usage) == Usage(0, 3)


def test_parts_are_cut_to_their_whole() -> None:
    details = {"cached_tokens": 70, "cache_write_tokens": 70, "audio_tokens": 999}
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": 9, "audio_tokens": 9},
    }

    assert chat(usage) == Usage(100, 5, 70, 30, 0, 5, 100, 5)


@pytest.mark.parametrize(
    "cached",
    [
        {"prompt_tokens_details": {"cached_tokens": 4}},
        {"prompt_tokens_details": {"cached_tokens": None}, "prompt_cache_hit_tokens": 4},
        {"cached_tokens": 4},
        {"num_cached_tokens": 4},
        {"cache_read_input_tokens": 4},
        {"cached_prompt_text_tokens": 4},
        {"input_tokens_details": {"cache_read_input_tokens": 4}},
    ],
    ids=["openai", "deepseek", "together", "mistral", "databricks", "older xai", "perplexity"],
)
def test_every_vendor_has_its_name_for_cached_tokens(cached: Mapping[str, Any]) -> None:
    usage = chat({"prompt_tokens": 10, "completion_tokens": 1, **cached})

    assert usage is not None
    assert usage.cache_read_tokens == 4


def test_litellm_and_databricks_write_what_the_details_lack() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cache_creation_input_tokens": 4,
        "reasoning_tokens": 3,
        "prompt_tokens_details": {"video_tokens": 2},
    }

    assert chat(usage) == Usage(10, 5, 0, 4, 0, 3, others=(("input_video_tokens", 2),))


@pytest.mark.parametrize(
    ("total", "provider", "output"),
    [(15, None, 10), (22, None, 17), (22, "vertex", 17), (None, "xai", 17), (15, "xai", 10)],
    ids=["included", "left out", "left out behind another", "xai tells no total", "xai included"],
)
def test_reasoning_is_added_where_the_total_says_it_was_left_out(
    total: int | None, provider: str | None, output: int
) -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 10,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": 7},
    }

    assert chat(usage, provider) == Usage(5, output, reasoning_tokens=7)


UNMETERED = """openai-files openai-batches openai-models openai-stored-responses openai-input-tokens
anthropic-count-tokens anthropic-files gemini-count-tokens never-heard-of"""


@pytest.mark.parametrize("wire_format", UNMETERED.split())
def test_formats_that_generate_nothing_have_no_usage(wire_format: str) -> None:
    answer = {
        "usage": {"prompt_tokens": 1, "input_tokens": 1},
        "usageMetadata": {"promptTokenCount": 1},
    }

    assert read_usage(wire_format, answer) is None


@pytest.mark.parametrize("answer", [None, [], "x", 3], ids=str)
def test_what_is_no_object_says_nothing(answer: Any) -> None:
    for wire_format in (*FORMATS, "", None):
        assert read_usage(wire_format, answer) is None
    assert read_model("openai-chat", answer) is None


@pytest.mark.parametrize(
    ("answer", "model"),
    [
        ({"model": "gpt-test"}, "gpt-test"),
        ({"modelVersion": "gemini-test"}, "gemini-test"),
        ({"model": ""}, None),
        ({"model": 4}, None),
        ({"model": "x" * 300}, None),
        ({}, None),
    ],
    ids=["model", "version", "empty", "number", "too long", "absent"],
)
def test_the_model_that_answered_is_read(answer: dict[str, Any], model: str | None) -> None:
    assert read_model("openai-chat", answer) == model


LOOKS: dict[str, tuple[dict[str, Any], Usage | None]] = {
    "chat": ({"usage": {"prompt_tokens": 3, "completion_tokens": 1}}, Usage(3, 1)),
    "responses": ({"usage": {"input_tokens": 3, "output_tokens": 1}}, Usage(3, 1)),
    "converse": ({"usage": {"inputTokens": 3, "cacheReadInputTokens": 2}}, Usage(5, 0, 2)),
    "cohere": ({"usage": {"billed_units": {"input_tokens": 3}}}, Usage(3, 0)),
    "cohere embed": ({"meta": {"billed_units": {"input_tokens": 3}}}, Usage(3, 0)),
    "gemini": ({"usageMetadata": {"promptTokenCount": 3}}, Usage(3, 0)),
    "anthropic": (
        {"type": "message", "usage": {"input_tokens": 3, "cache_read_input_tokens": 2}},
        Usage(5, 0, 2),
    ),
    "invocation": ({"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}}, Usage(3, 0)),
    "invocation without": ({"amazon-bedrock-invocationMetrics": {}}, None),
}


@pytest.mark.parametrize(("answer", "usage"), LOOKS.values(), ids=LOOKS)
def test_an_answer_of_unknown_format_is_told_by_its_names(
    answer: dict[str, Any], usage: Usage | None
) -> None:
    assert read_usage(None, answer) == usage
    assert read_usage("bedrock-invoke", answer) == usage


def test_modalities_that_are_no_objects_are_passed_over() -> None:
    details = ["odd", {"modality": 3, "tokenCount": 9}, {"modality": "AUDIO", "tokenCount": 4}]
    usage = {"promptTokenCount": 9, "promptTokensDetails": details}

    assert read_usage("gemini", {"usageMetadata": usage}) == Usage(9, 0, input_audio_tokens=4)


# Below: another reading of the recorded answers, as plain as can be, to compare with.


def events_of(case: Case) -> list[dict[str, Any]]:
    if case.format == "bedrock-converse":
        return [json.loads(payload) for payload in payloads_of(case.body)]
    lines = case.body.decode().replace("\r\n", "\n").split("\n")
    texts = [line[5:].strip() for line in lines if line.startswith("data:")]
    return [json.loads(text) for text in texts if text != "[DONE]"]


def answer_of(case: Case) -> dict[str, Any]:
    """Return the answer, or for a stream an object with the same usage."""
    if not case.is_stream:
        answer: dict[str, Any] = json.loads(case.body)
        return answer
    found: dict[str, Any] = {}
    for event in events_of(case):
        if "response" in event:
            event = event["response"]
        if event.get("type") == "message_start":
            found = {"usage": dict(event["message"]["usage"])}
        elif event.get("type") == "message_delta":
            found["usage"].update(event["usage"])
        elif event.get("usage") or event.get("usageMetadata"):
            found = event
    return found


def plain_totals(case: Case) -> tuple[int, int, int, int, int] | None:
    """Return input, output, cached, written and reasoning tokens."""
    answer = answer_of(case)
    usage = answer.get("usage") or answer.get("usageMetadata")
    if usage is None:
        return None
    match case.format:
        case "openai-chat" | "openai-responses" | "openai-embeddings":
            side = "prompt" if "prompt_tokens" in usage else "input"
            other = "completion" if "prompt_tokens" in usage else "output"
            inside = usage.get(f"{side}_tokens_details") or {}
            made = usage.get(f"{other}_tokens_details") or {}
            output = usage.get(f"{other}_tokens", 0)
            return (
                usage.get(f"{side}_tokens", usage["total_tokens"]),
                output,
                inside.get("cached_tokens", 0) or usage.get("num_cached_tokens", 0),
                inside.get("cache_write_tokens", 0),
                # One recording of OpenRouter claims 11 of 10.
                min(made.get("reasoning_tokens", 0), output),
            )
        case "anthropic-messages" | "bedrock-invoke":
            read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
            thought = usage.get("output_tokens_details", {}).get("thinking_tokens", 0)
            total = usage["input_tokens"] + read + written
            return total, usage["output_tokens"], read, written, thought
        case "gemini":
            thought = usage.get("thoughtsTokenCount", 0)
            prompt = usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0)
            cached = usage.get("cachedContentTokenCount", 0)
            return prompt, usage["totalTokenCount"] - prompt, cached, 0, thought
        case "bedrock-converse":
            output = usage["outputTokens"]
            read, written = (
                usage.get("cacheReadInputTokens", 0),
                usage.get("cacheWriteInputTokens", 0),
            )
            assert usage["totalTokens"] == usage["inputTokens"] + read + written + output
            return usage["totalTokens"] - output, output, read, written, 0
        case "cohere-v2":
            billed = usage["billed_units"]
            return billed["input_tokens"], billed["output_tokens"], 0, 0, 0
    raise AssertionError(case.format)


@requires_data("exchanges")
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_recorded_usage_is_what_a_plain_reading_finds(case: Case) -> None:
    usage = metered(case).usage
    unmetered = {"anthropic-count-tokens", "bedrock-count-tokens", "gemini-count-tokens"}
    unmetered |= {"gemini-embeddings", "gemini-uploadToFileSearchStore"}
    expected = None if case.format in unmetered else plain_totals(case)
    found = usage and (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )

    assert found == expected


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({"embedding": [0.5], "inputTextTokenCount": 7}, Usage(7, 0)),
        (
            {"inputTextTokenCount": 7, "results": [{"tokenCount": 3}, {"tokenCount": 2}, None]},
            Usage(7, 5),
        ),
        ({"inputTextTokenCount": "odd", "results": 3}, Usage(0, 0)),
    ],
    ids=["embeddings", "text", "odd"],
)
def test_titan_counts_in_fields_of_its_own(answer: dict[str, Any], usage: Usage) -> None:
    assert read_usage("bedrock-invoke", answer) == usage
