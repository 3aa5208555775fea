"""Which formats a caller's dialect reaches by translation, the best first.

Where a provider speaks several of them, the order of its own row counts: rows begin with what is
native to them. This order decides only among surfaces that a row does not name, as embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["DIALECTS", "FORMATS", "REACH"]

DIALECTS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini")
"""What callers speak, by the names of `Route.format`."""

FORMATS = (*DIALECTS, "bedrock-converse", "cohere-v2")
"""What providers speak."""

REACH: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **{source: tuple(f for f in FORMATS if f != source) for source in DIALECTS},
        "openai-embeddings": ("gemini-embeddings", "cohere-v2", "bedrock-invoke"),
        "gemini-embeddings": ("cohere-v2", "bedrock-invoke", "openai-embeddings"),
    }
)
