"""Read what a provider says it counted, from any dialect, into one `Usage`.

`Usage` totals include their parts, so what a dialect leaves out of its total is added here:

dialect      input total                             output total
-----------  --------------------------------------  ------------------------------------------
OpenAI       prompt_tokens or input_tokens           completion_tokens or output_tokens; xAI and
                                                     Perplexity leave reasoning out: added
Anthropic    input_tokens + cache read + cache       output_tokens
             creation, plus compaction iterations
Gemini       promptTokenCount +                      candidatesTokenCount + thoughtsTokenCount
             toolUsePromptTokenCount
Converse     inputTokens + cache read + cache write  outputTokens
Cohere       billed_units, which leaves out Cohere's own prompt around the caller's

Not counted, because one call has one model and one price: Anthropic's advisor iterations, which
another model did.

No answer makes a reader raise; `core/counts.py` says what becomes of odd numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asgi_llmgate.core.counts import count, make_usage, mapping, named, number
from asgi_llmgate.core.usage_openai import read_openai
from asgi_llmgate.types import Usage

__all__ = ["read_model", "read_usage"]

# Model ids are short; longer strings are something else, and would end up in every record.
MAX_MODEL_CHARS = 256

Read = Callable[[Mapping[str, Any], str | None], Usage | None]


def read_usage(
    wire_format: str | None, answer: Mapping[str, Any], provider: str | None = None
) -> Usage | None:
    """Return what `answer` says was used, or None if it says nothing.

    Args:
        wire_format: As in `Route.format`; None or empty goes by the look of the answer. Formats
            that generate nothing (counting, files, stored responses …) have no usage.
        answer: The decoded JSON of a whole answer, or an event that has the same shape.
        provider: The provider's id, where known; some count differently in the same dialect.
    """
    if not isinstance(answer, dict):
        return None
    if not wire_format:
        return _read_any(answer, provider)
    read = _READERS.get(wire_format)
    return None if read is None else read(answer, provider)


def read_model(wire_format: str | None, answer: Mapping[str, Any]) -> str | None:
    """Return the model that answered, as the provider names it, or None if it does not say."""
    if not isinstance(answer, dict):
        return None
    model = answer.get("model") or answer.get("modelVersion")
    return model if isinstance(model, str) and len(model) <= MAX_MODEL_CHARS else None


def _read_anthropic(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    fresh = number(usage.get("input_tokens"))
    output = number(usage.get("output_tokens"))
    if fresh is None and output is None:
        return None
    fresh, output = fresh or 0, output or 0
    read, written, written_1h = _anthropic_cache(usage)
    iterations = usage.get("iterations")
    if isinstance(iterations, list):
        for iteration in iterations:
            # The only ones that the totals leave out, and that the same model did.
            if isinstance(iteration, dict) and iteration.get("type") == "compaction":
                fresh += count(iteration.get("input_tokens"))
                output += count(iteration.get("output_tokens"))
                more = _anthropic_cache(iteration)
                read, written, written_1h = read + more[0], written + more[1], written_1h + more[2]
    details = usage.get("output_tokens_details")
    thinking = count(details.get("thinking_tokens")) if isinstance(details, dict) else 0
    tools = usage.get("server_tool_use")
    searches = count(tools.get("web_search_requests")) if isinstance(tools, dict) else 0
    others = (("web_searches", searches),) if searches else ()
    return make_usage(
        fresh + read + written, output, read, written, written_1h, thinking, 0, 0, others
    )


def _anthropic_cache(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return tokens read, tokens written, and those of them written for an hour."""
    read = count(usage.get("cache_read_input_tokens"))
    written = count(usage.get("cache_creation_input_tokens"))
    split = usage.get("cache_creation")
    if not isinstance(split, dict):
        return read, written, 0
    written_1h = count(split.get("ephemeral_1h_input_tokens"))
    written_5m = count(split.get("ephemeral_5m_input_tokens"))
    return read, max(written, written_1h + written_5m), written_1h


def _read_gemini(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = answer.get("usageMetadata")
    if not isinstance(usage, dict):
        return None
    prompt = number(usage.get("promptTokenCount"))
    total = number(usage.get("totalTokenCount"))
    if prompt is None and total is None:
        return None
    tools = count(usage.get("toolUsePromptTokenCount"))
    thoughts = count(usage.get("thoughtsTokenCount"))
    output = count(usage.get("candidatesTokenCount"))
    inputs = _modalities(usage.get("promptTokensDetails"))
    if tools:
        for kind, tokens in _modalities(usage.get("toolUsePromptTokensDetails")).items():
            inputs[kind] = inputs.get(kind, 0) + tokens
    cached = count(usage.get("cachedContentTokenCount"))
    outputs = _modalities(usage.get("candidatesTokensDetails"))
    others = _gemini_others("input", inputs) + _gemini_others("output", outputs)
    if cached:
        kept = _modalities(usage.get("cacheTokensDetails"))
        others += tuple((f"cache_{kind}_read_tokens", kept[kind]) for kind in kept if kept[kind])
    return make_usage(
        (prompt or 0) + tools,
        output + thoughts,
        cached,
        0,
        0,
        thoughts,
        inputs.get("audio", 0),
        outputs.get("audio", 0),
        others,
    )


def _modalities(details: object) -> dict[str, int]:
    """Return tokens by modality, text left out. Documents are billed as images."""
    found: dict[str, int] = {}
    if isinstance(details, list):
        for detail in details:
            if not isinstance(detail, dict):
                continue
            kind = detail.get("modality")
            if kind == "TEXT":
                continue
            name = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}.get(
                kind if isinstance(kind, str) else ""
            )
            if name is not None:
                found[name] = found.get(name, 0) + count(detail.get("tokenCount"))
    return found


def _gemini_others(side: str, tokens: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(
        (f"{side}_{kind}_tokens", number_of)
        for kind, number_of in tokens.items()
        if number_of and kind != "audio"  # Audio has a field of its own.
    )


def _read_converse(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    fresh = number(usage.get("inputTokens"))
    output = number(usage.get("outputTokens"))
    if fresh is None and output is None:
        return None
    read = count(usage.get("cacheReadInputTokens"))
    written = count(usage.get("cacheWriteInputTokens"))
    written_1h = 0
    details = usage.get("cacheDetails")
    if isinstance(details, list):
        for detail in details:
            if isinstance(detail, dict) and detail.get("ttl") == "1h":
                written_1h += count(detail.get("inputTokens"))
    # Only Claude says how much it thought, and only if it was asked for this field.
    more = mapping(mapping(answer.get("additionalModelResponseFields")).get("usage"))
    thought = count(mapping(more.get("output_tokens_details")).get("thinking_tokens"))
    prompt = (fresh or 0) + read + written
    return make_usage(prompt, output or 0, read, written, written_1h, thought)


def _read_cohere(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = mapping(answer.get("usage") or answer.get("meta"))
    billed = mapping(usage.get("billed_units"))
    prompt, output = number(billed.get("input_tokens")), number(billed.get("output_tokens"))
    searches = count(billed.get("search_units"))
    if prompt is None and output is None and not searches:
        tokens = mapping(usage.get("tokens"))
        prompt, output = number(tokens.get("input_tokens")), number(tokens.get("output_tokens"))
        if prompt is None and output is None:
            return None
        return make_usage(prompt or 0, output or 0, count(usage.get("cached_tokens")))
    # Cached tokens are counted with Cohere's own prompt, which is not billed, so they are no part.
    return make_usage(prompt or 0, output or 0, others=named(rerank_searches=searches))


def _read_rerank(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    return _read_cohere(answer, provider) if "meta" in answer else read_openai(answer, provider)


def _read_invocation(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    """Read the figures Bedrock adds to the last event of any model's stream."""
    metrics = mapping(answer.get("amazon-bedrock-invocationMetrics"))
    fresh, output = number(metrics.get("inputTokenCount")), number(metrics.get("outputTokenCount"))
    if fresh is None and output is None:
        return None
    read = count(metrics.get("cacheReadInputTokenCount"))
    written = count(metrics.get("cacheWriteInputTokenCount"))
    return make_usage((fresh or 0) + read + written, output or 0, read, written)


def _read_titan(answer: Mapping[str, Any]) -> Usage:
    """Read Amazon's own models behind `invoke`: text and embeddings."""
    results = answer.get("results")
    written = (
        count(mapping(result).get("tokenCount"))
        for result in (results if isinstance(results, list) else ())
    )
    return make_usage(count(answer.get("inputTextTokenCount")), sum(written))


def _read_any(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    """Read an answer of unknown format by the names it uses."""
    if "usageMetadata" in answer:
        return _read_gemini(answer, provider)
    if "amazon-bedrock-invocationMetrics" in answer:
        return _read_invocation(answer, provider)
    if "inputTextTokenCount" in answer:
        return _read_titan(answer)
    usage = mapping(answer.get("usage"))
    if "inputTokens" in usage:
        return _read_converse(answer, provider)
    if "billed_units" in usage or "billed_units" in mapping(answer.get("meta")):
        return _read_cohere(answer, provider)
    is_anthropic = answer.get("type") == "message" or "cache_creation_input_tokens" in usage
    if is_anthropic and "prompt_tokens" not in usage:
        return _read_anthropic(answer, provider)
    return read_openai(answer, provider)


_READERS: dict[str, Read] = {
    "openai-chat": read_openai,
    "openai-completions": read_openai,
    "openai-responses": read_openai,
    "openai-embeddings": read_openai,
    "openai-images": read_openai,
    "openai-audio": read_openai,
    "openai-moderations": read_openai,
    "openai-rerank": _read_rerank,
    "azure-openai-deployments": read_openai,
    "anthropic-messages": _read_anthropic,
    "gemini": _read_gemini,
    "gemini-embeddings": _read_gemini,
    "bedrock-converse": _read_converse,
    "bedrock-invoke": _read_any,
    "cohere-v2": _read_cohere,
}
