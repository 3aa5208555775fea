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

Providers are trusted with nothing: a number that is missing, negative, absurd or of another type
counts as 0, a part larger than its total is cut to it, and no answer makes a reader raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asgi_llmgate.types import Usage

__all__ = ["read_model", "read_usage"]

# More than any call has; beyond it a number is garbage, and might not fit a database column.
MAX_COUNT = 10**12

# Model ids are short; longer strings are something else, and would end up in every record.
MAX_MODEL_CHARS = 256

# Where OpenAI-like vendors put cached tokens instead of `prompt_tokens_details.cached_tokens`:
# DeepSeek, Together and Moonshot, Mistral, Databricks and Perplexity, older xAI.
_CACHED = frozenset(
    {
        "prompt_cache_hit_tokens",
        "cached_tokens",
        "num_cached_tokens",
        "cache_read_input_tokens",
        "cached_prompt_text_tokens",
    }
)

_NOTHING: Mapping[str, Any] = {}

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


def number(value: object) -> int | None:
    """Return a JSON value as a count, or None if it is none. Cohere sends floats."""
    if type(value) is int or type(value) is float:
        return int(value) if 0 <= value <= MAX_COUNT else None
    return None


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def _count(value: object) -> int:
    return (number(value) or 0) if value else 0


def _usage(
    input_tokens: int,
    output_tokens: int,
    cache_read: int = 0,
    cache_write: int = 0,
    cache_write_1h: int = 0,
    reasoning: int = 0,
    input_audio: int = 0,
    output_audio: int = 0,
    others: tuple[tuple[str, int], ...] = (),
) -> Usage:
    if cache_read or cache_write:
        cache_read = min(cache_read, input_tokens)
        cache_write = min(cache_write, input_tokens - cache_read)
        cache_write_1h = min(cache_write_1h, cache_write)
    if reasoning or input_audio or output_audio:
        reasoning = min(reasoning, output_tokens)
        input_audio = min(input_audio, input_tokens)
        output_audio = min(output_audio, output_tokens)
    return Usage(
        input_tokens,
        output_tokens,
        cache_read,
        cache_write,
        cache_write_1h,
        reasoning,
        input_audio,
        output_audio,
        False,
        others,
    )


def _read_openai(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        # Groq's last choice chunk.
        usage = mapping(answer.get("x_groq")).get("usage")
        if not isinstance(usage, dict):
            return None
    prompt = number(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = number(usage.get("completion_tokens", usage.get("output_tokens")))
    total = number(usage.get("total_tokens"))
    if prompt is None and completion is None:
        seconds = number(usage.get("seconds"))
        if seconds is not None:
            # Whisper is billed by time, to the nearest second.
            return Usage(others=(("audio_seconds", int(usage["seconds"] + 0.5)),))
        if total is None:
            return None
        prompt = total  # Embeddings and rerankers of Voyage and Jina.
    prompt, completion = prompt or 0, completion or 0
    cached = written = reasoning = input_audio = output_audio = 0
    others: tuple[tuple[str, int], ...] = ()
    # Most details are 0 or null; looking before counting halves the time this takes.
    details = (
        usage.get("prompt_tokens_details")
        or usage.get("input_tokens_details")
        or usage.get("input_token_details")
    )
    if details and isinstance(details, dict):
        if value := details.get("cached_tokens") or details.get("cache_read_input_tokens"):
            cached = _count(value)
        if value := details.get("cache_write_tokens"):
            written = _count(value)
        if value := details.get("audio_tokens"):
            input_audio = _count(value)
        others = _pictures(details, "input")
    if not cached and not _CACHED.isdisjoint(usage):
        cached = max(_count(usage.get(name)) for name in _CACHED)
    if not written and "cache_creation_input_tokens" in usage:
        written = _count(usage["cache_creation_input_tokens"])
    details = (
        usage.get("completion_tokens_details")
        or usage.get("output_tokens_details")
        or usage.get("output_token_details")
    )
    if details and isinstance(details, dict):
        if value := details.get("reasoning_tokens"):
            reasoning = _count(value)
        if value := details.get("audio_tokens"):
            output_audio = _count(value)
        others += _pictures(details, "output")
    if not reasoning and "reasoning_tokens" in usage:
        reasoning = _count(usage["reasoning_tokens"])
    if provider == "perplexity" or "citation_tokens" in usage:
        citations = _count(usage.get("citation_tokens"))
        completion += reasoning + citations
        others += _named(output_citation_tokens=citations)
        others += _named(web_searches=_count(usage.get("num_search_queries")))
    elif reasoning and _leaves_out_reasoning(
        usage, provider, prompt + completion, reasoning, total
    ):
        completion += reasoning
    return _usage(
        prompt, completion, cached, written, 0, reasoning, input_audio, output_audio, others
    )


def _leaves_out_reasoning(
    usage: Mapping[str, Any], provider: str | None, counted: int, reasoning: int, total: int | None
) -> bool:
    """Tell whether the output total lacks the reasoning, as xAI's does, also behind Vertex AI.

    The provider's own total decides; only without one its name does.
    """
    if total is None:
        return provider == "xai" and "completion_tokens" in usage
    return total == counted + reasoning


def _pictures(details: Mapping[str, Any], side: str) -> tuple[tuple[str, int], ...]:
    found: tuple[tuple[str, int], ...] = ()
    if value := details.get("image_tokens"):
        found += _named(**{f"{side}_image_tokens": _count(value)})
    if value := details.get("video_tokens"):
        found += _named(**{f"{side}_video_tokens": _count(value)})
    return found


def _named(**counts: int) -> tuple[tuple[str, int], ...]:
    return tuple((name, count) for name, count in counts.items() if count)


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
                fresh += _count(iteration.get("input_tokens"))
                output += _count(iteration.get("output_tokens"))
                more = _anthropic_cache(iteration)
                read, written, written_1h = read + more[0], written + more[1], written_1h + more[2]
    details = usage.get("output_tokens_details")
    thinking = _count(details.get("thinking_tokens")) if isinstance(details, dict) else 0
    tools = usage.get("server_tool_use")
    searches = _count(tools.get("web_search_requests")) if isinstance(tools, dict) else 0
    others = (("web_searches", searches),) if searches else ()
    return _usage(fresh + read + written, output, read, written, written_1h, thinking, 0, 0, others)


def _anthropic_cache(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return tokens read, tokens written, and those of them written for an hour."""
    read = _count(usage.get("cache_read_input_tokens"))
    written = _count(usage.get("cache_creation_input_tokens"))
    split = usage.get("cache_creation")
    if not isinstance(split, dict):
        return read, written, 0
    written_1h = _count(split.get("ephemeral_1h_input_tokens"))
    written_5m = _count(split.get("ephemeral_5m_input_tokens"))
    return read, max(written, written_1h + written_5m), written_1h


def _read_gemini(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = answer.get("usageMetadata")
    if not isinstance(usage, dict):
        return None
    prompt = number(usage.get("promptTokenCount"))
    total = number(usage.get("totalTokenCount"))
    if prompt is None and total is None:
        return None
    tools = _count(usage.get("toolUsePromptTokenCount"))
    thoughts = _count(usage.get("thoughtsTokenCount"))
    output = _count(usage.get("candidatesTokenCount"))
    inputs = _modalities(usage.get("promptTokensDetails"))
    if tools:
        for kind, tokens in _modalities(usage.get("toolUsePromptTokensDetails")).items():
            inputs[kind] = inputs.get(kind, 0) + tokens
    cached = _count(usage.get("cachedContentTokenCount"))
    outputs = _modalities(usage.get("candidatesTokensDetails"))
    others = _gemini_others("input", inputs) + _gemini_others("output", outputs)
    if cached:
        kept = _modalities(usage.get("cacheTokensDetails"))
        others += tuple((f"cache_{kind}_read_tokens", kept[kind]) for kind in kept if kept[kind])
    return _usage(
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
                found[name] = found.get(name, 0) + _count(detail.get("tokenCount"))
    return found


def _gemini_others(side: str, tokens: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(
        (f"{side}_{kind}_tokens", count)
        for kind, count in tokens.items()
        if count and kind != "audio"  # Audio has a field of its own.
    )


def _read_converse(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    fresh = number(usage.get("inputTokens"))
    output = number(usage.get("outputTokens"))
    if fresh is None and output is None:
        return None
    read = _count(usage.get("cacheReadInputTokens"))
    written = _count(usage.get("cacheWriteInputTokens"))
    written_1h = 0
    details = usage.get("cacheDetails")
    if isinstance(details, list):
        for detail in details:
            if isinstance(detail, dict) and detail.get("ttl") == "1h":
                written_1h += _count(detail.get("inputTokens"))
    return _usage((fresh or 0) + read + written, output or 0, read, written, written_1h)


def _read_cohere(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    usage = mapping(answer.get("usage") or answer.get("meta"))
    billed = mapping(usage.get("billed_units"))
    prompt, output = number(billed.get("input_tokens")), number(billed.get("output_tokens"))
    searches = _count(billed.get("search_units"))
    if prompt is None and output is None and not searches:
        tokens = mapping(usage.get("tokens"))
        prompt, output = number(tokens.get("input_tokens")), number(tokens.get("output_tokens"))
        if prompt is None and output is None:
            return None
        return _usage(prompt or 0, output or 0, _count(usage.get("cached_tokens")))
    # Cached tokens are counted with Cohere's own prompt, which is not billed, so they are no part.
    return _usage(prompt or 0, output or 0, others=_named(rerank_searches=searches))


def _read_rerank(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    return _read_cohere(answer, provider) if "meta" in answer else _read_openai(answer, provider)


def _read_invocation(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    """Read the figures Bedrock adds to the last event of any model's stream."""
    metrics = mapping(answer.get("amazon-bedrock-invocationMetrics"))
    fresh, output = number(metrics.get("inputTokenCount")), number(metrics.get("outputTokenCount"))
    if fresh is None and output is None:
        return None
    read = _count(metrics.get("cacheReadInputTokenCount"))
    written = _count(metrics.get("cacheWriteInputTokenCount"))
    return _usage((fresh or 0) + read + written, output or 0, read, written)


def _read_any(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    """Read an answer of unknown format by the names it uses."""
    if "usageMetadata" in answer:
        return _read_gemini(answer, provider)
    if "amazon-bedrock-invocationMetrics" in answer:
        return _read_invocation(answer, provider)
    usage = mapping(answer.get("usage"))
    if "inputTokens" in usage:
        return _read_converse(answer, provider)
    if "billed_units" in usage or "billed_units" in mapping(answer.get("meta")):
        return _read_cohere(answer, provider)
    is_anthropic = answer.get("type") == "message" or "cache_creation_input_tokens" in usage
    if is_anthropic and "prompt_tokens" not in usage:
        return _read_anthropic(answer, provider)
    return _read_openai(answer, provider)


_READERS: dict[str, Read] = {
    "openai-chat": _read_openai,
    "openai-completions": _read_openai,
    "openai-responses": _read_openai,
    "openai-embeddings": _read_openai,
    "openai-images": _read_openai,
    "openai-audio": _read_openai,
    "openai-moderations": _read_openai,
    "openai-rerank": _read_rerank,
    "azure-openai-deployments": _read_openai,
    "anthropic-messages": _read_anthropic,
    "gemini": _read_gemini,
    "gemini-embeddings": _read_gemini,
    "bedrock-converse": _read_converse,
    "bedrock-invoke": _read_any,
    "cohere-v2": _read_cohere,
}
