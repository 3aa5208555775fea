"""Which formats a caller's dialect reaches by translation, the best first.

Where a provider speaks several of them, the order of its own row counts: rows begin with what is
native to them. This order decides only among surfaces that a row does not name, as embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["COUNTED", "DIALECTS", "FORMATS", "REACH"]

DIALECTS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini")
"""What callers speak, by the names of `Route.format`."""

FORMATS = (*DIALECTS, "bedrock-converse", "cohere-v2")
"""What providers speak."""

COUNTED: Mapping[str, str] = MappingProxyType(
    {"anthropic-count-tokens": "anthropic-messages", "gemini-count-tokens": "gemini"}
)
"""Questions how many tokens a request has, and the dialect of that request.

Who speaks another dialect is not asked: the gateway answers with an estimate.
"""

REACH: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **{source: tuple(f for f in FORMATS if f != source) for source in DIALECTS},
        **{count: tuple(f for f in FORMATS if f != source) for count, source in COUNTED.items()},
        "openai-embeddings": ("gemini-embeddings", "cohere-v2", "bedrock-invoke"),
        "gemini-embeddings": ("cohere-v2", "bedrock-invoke", "openai-embeddings"),
    }
)
