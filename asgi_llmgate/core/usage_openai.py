"""Usage as OpenAI tells it, and all who speak like OpenAI with a word of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.counts import count, make_usage, mapping, named, number
from asgi_llmgate.types import Usage

__all__ = ["read_openai"]

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
_PICTURES = frozenset({"image_tokens", "video_tokens"})


def read_openai(answer: Mapping[str, Any], provider: str | None) -> Usage | None:
    """Read chat, responses, embeddings, images, audio …: names differ, sums do not."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        # Groq's last choice chunk.
        usage = mapping(answer.get("x_groq")).get("usage")
        if not isinstance(usage, dict):
            return None
    prompt = number(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = number(usage.get("completion_tokens", usage.get("output_tokens")))
    if prompt is None and completion is None:
        seconds = number(usage.get("seconds"))
        if seconds is not None:
            # Whisper is billed by time, to the nearest second.
            return Usage(others=(("audio_seconds", int(usage["seconds"] + 0.5)),))
        # Embeddings and rerankers of Voyage and Jina.
        prompt = number(usage.get("total_tokens"))
        if prompt is None:
            return None
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
            cached = count(value)
        if value := details.get("cache_write_tokens"):
            written = count(value)
        if value := details.get("audio_tokens"):
            input_audio = count(value)
        if not _PICTURES.isdisjoint(details):
            others = _pictures(details, "input")
    if not cached and not _CACHED.isdisjoint(usage):
        cached = max(count(usage.get(name)) for name in _CACHED)
    if not written and "cache_creation_input_tokens" in usage:
        written = count(usage["cache_creation_input_tokens"])
    details = (
        usage.get("completion_tokens_details")
        or usage.get("output_tokens_details")
        or usage.get("output_token_details")
    )
    if details and isinstance(details, dict):
        if value := details.get("reasoning_tokens"):
            reasoning = count(value)
        if value := details.get("audio_tokens"):
            output_audio = count(value)
        if not _PICTURES.isdisjoint(details):
            others += _pictures(details, "output")
    if not reasoning and "reasoning_tokens" in usage:
        reasoning = count(usage["reasoning_tokens"])
    if provider == "perplexity" or "citation_tokens" in usage:
        citations = count(usage.get("citation_tokens"))
        completion += reasoning + citations
        others += named(output_citation_tokens=citations)
        others += named(web_searches=count(usage.get("num_search_queries")))
    elif reasoning and _leaves_out_reasoning(usage, provider, prompt + completion, reasoning):
        completion += reasoning
    return make_usage(
        prompt, completion, cached, written, 0, reasoning, input_audio, output_audio, others
    )


def _leaves_out_reasoning(
    usage: Mapping[str, Any], provider: str | None, counted: int, reasoning: int
) -> bool:
    """Tell whether the output total lacks the reasoning, as xAI's does, also behind Vertex AI.

    The provider's own total decides; only without one its name does.
    """
    total = number(usage.get("total_tokens"))
    if total is None:
        return provider == "xai" and "completion_tokens" in usage
    return total == counted + reasoning


def _pictures(details: Mapping[str, Any], side: str) -> tuple[tuple[str, int], ...]:
    images, videos = count(details.get("image_tokens")), count(details.get("video_tokens"))
    return named(**{f"{side}_image_tokens": images, f"{side}_video_tokens": videos})
