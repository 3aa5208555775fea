"""Settings of the cache: `LLMGATE_CACHE__*`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from asgi_llmgate.core.semantic.asking import Context
from asgi_llmgate.settings_parts import GIB, MIB, CommaList, Section

__all__ = ["CacheSettings", "SemanticSettings"]


class SemanticSettings(Section):
    """Answers to questions that mean the same. Seconds."""

    max_error: float = Field(0.02, gt=0, le=0.5)
    """Largest share of hits that may be wrong; the tier serves nothing that would pass it."""
    max_errors: dict[str, float] = {}
    """By tenant, where that differs."""
    observe: bool = False
    """Serve nothing, and record what would have been."""
    scope: Literal["user", "tenant"] = "user"
    """Within whom answers are shared; a tenant's are once two callers got the same."""
    context: str = "full"
    """What of a conversation must be equal: `full`, `none`, or `window:k`."""
    ttl: float = Field(3600, gt=0, le=365 * 86_400)
    """Life of an answer since a provider gave it last."""
    alias_ttl: float = Field(7 * 86_400, gt=0, le=365 * 86_400)
    """How long a phrasing is remembered."""
    threshold: float | None = Field(None, ge=0, le=1)
    """Cosine from which all is served, for mode `threshold`: without a bound on being wrong."""
    check_budget: float = Field(0.25, ge=0, le=10)
    """Share of what hits saved that may be spent on checking them."""
    embedder: str = "minilm"
    """`minilm`, of the package, or a provider's model: `openai/text-embedding-3-small`."""
    judge: str | None = None
    """A model that settles what comparing two texts leaves open: `openai/gpt-4o-mini`."""
    index: Literal["auto", "embedded", "redisvl"] = "auto"
    algorithm: Literal["hnsw", "flat"] = "hnsw"
    """Of the index in Redis."""
    max_aliases: int = Field(100_000, gt=0)
    """Of the embedded index."""

    @field_validator("context")
    @classmethod
    def _is_context(cls, text: str) -> str:
        Context.parse(text)
        return text

    @field_validator("max_errors")
    @classmethod
    def _are_shares(cls, shares: dict[str, float]) -> dict[str, float]:
        if not all(0 < share <= 0.5 for share in shares.values()):
            raise ValueError("expected shares above 0, up to 0.5")
        return shares


class CacheSettings(Section):
    """Seconds and bytes."""

    enabled: bool = False
    """Used unless a request says otherwise; else only if it asks."""
    mode: Literal["auto", "exact", "semantic", "threshold"] = "auto"
    """`auto`: semantic where `asgi-llmgate[semantic]` is installed, else exact."""
    semantic: SemanticSettings = SemanticSettings()
    ttl: float = Field(7 * 86_400, gt=0, le=365 * 86_400)
    soft_ttl: float | None = Field(None, gt=0)
    """From this age on an answer is given as STALE while it is refreshed."""
    keep_stale: float = Field(86_400, ge=0)
    max_bytes: int = Field(GIB, gt=0)
    max_answer_bytes: int = Field(8 * MIB, gt=0)
    tags: CommaList = []
    data_version: str | None = None
    serve_fallbacks: bool = False

    @model_validator(mode="after")
    def _has_threshold(self) -> Self:
        has_threshold = self.semantic.threshold is not None
        if has_threshold != (self.mode == "threshold"):
            raise ValueError("mode threshold and semantic.threshold belong together; give both")
        return self
