"""Build the semantic tier of the cache from the settings."""

from __future__ import annotations

import importlib.util

from asgi_llmgate.core.semantic.asking import Context
from asgi_llmgate.core.semantic.policy import SemanticPolicy
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.middleware.semantic import SemanticTier
from asgi_llmgate.protocols import Count, Embedder, LabelStore, VectorIndex
from asgi_llmgate.semantic_index import ChosenIndex
from asgi_llmgate.semantic_judge import Post, judge_by
from asgi_llmgate.settings import Settings

__all__ = [
    "MINILM",
    "label_store_of",
    "missing_parts",
    "semantic_policy_of",
    "semantic_tier_of",
    "vector_index_of",
]

NEEDED = ("numpy", "onnxruntime", "tokenizers")

MINILM = "minilm"


def semantic_tier_of(
    settings: Settings, *, post: Post | None = None, count: Count | None = None
) -> SemanticTier | None:
    """Return the tier; None if the settings want none, or leave it open and it is not installed.

    Args:
        post: Makes calls through the gateway; None where there is none.

    Raises:
        ConfigurationError: it is wanted, and not installed, or needs a gateway.
    """
    given = settings.cache
    if given.mode == "exact":
        return None
    missing = missing_parts(given.semantic.embedder)
    if missing:
        if given.mode == "auto":
            return None
        raise ConfigurationError(
            f"cache.mode={given.mode} needs {', '.join(missing)}, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[semantic]"`, or set LLMGATE_CACHE__MODE=exact.'
        )
    semantic = given.semantic
    calls = semantic.judge is not None or semantic.embedder != MINILM
    if post is None and calls:
        raise ConfigurationError(
            "cache.semantic.judge, and an embedder of a provider, are called through a gateway.\n"
            "HINT: leave them out where a middleware stands alone."
        )
    return SemanticTier(
        embedder=_embedder_of(settings, post),
        index=vector_index_of(settings),
        labels=label_store_of(settings),
        policy=semantic_policy_of(settings),
        judge=judge_by(semantic.judge, post) if semantic.judge and post else None,
        count=count,
    )


def missing_parts(embedder: str = MINILM) -> list[str]:
    """Return which packages of `asgi-llmgate[semantic]` are needed, and not installed."""
    needed = NEEDED if embedder == MINILM else NEEDED[:1]
    return [name for name in needed if importlib.util.find_spec(name) is None]


def semantic_policy_of(settings: Settings) -> SemanticPolicy:
    given = settings.cache.semantic
    return SemanticPolicy(
        max_error=given.max_error,
        max_errors=dict(given.max_errors),
        threshold=given.threshold,
        is_shared=given.scope == "tenant",
        observes=given.observe,
        ttl_s=given.ttl,
        alias_ttl_s=given.alias_ttl,
        context=Context.parse(given.context),
        check_budget=given.check_budget,
    )


def _embedder_of(settings: Settings, post: Post | None) -> Embedder:
    name = settings.cache.semantic.embedder
    if name == MINILM or post is None:
        from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder

        return MiniLMEmbedder()
    from asgi_llmgate.backends.embedders.upstream import UpstreamEmbedder

    return UpstreamEmbedder(lambda body: post("/v1/embeddings", body), name)


def vector_index_of(settings: Settings) -> VectorIndex:
    """Return the index: RedisVL where Redis has the search module, else the embedded one."""
    url, given = settings.redis_url, settings.cache.semantic

    def embedded() -> VectorIndex:
        from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex

        return SqliteVectorIndex(settings.data_dir, max_aliases=given.max_aliases)

    if url is None or given.index == "embedded":
        if given.index == "redisvl":
            raise ConfigurationError(
                "cache.semantic.index=redisvl needs Redis.\n"
                "HINT: set LLMGATE_REDIS_URL to a Redis 8, or leave the index out."
            )
        return embedded()
    try:
        from asgi_llmgate.backends.vectors_redis import RedisVectorIndex
    except ModuleNotFoundError as error:
        if error.name not in ("redis", "redisvl"):
            raise
        raise ConfigurationError(
            f"The semantic cache on Redis needs {error.name}, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[redis]"`, or set '
            "LLMGATE_CACHE__SEMANTIC__INDEX=embedded."
        ) from None
    index = RedisVectorIndex.from_url(url.get_secret_value(), algorithm=given.algorithm)
    return index if given.index == "redisvl" else ChosenIndex(index, embedded)


def label_store_of(settings: Settings) -> LabelStore:
    """Return where verdicts are kept: Redis if there is one, else the data folder."""
    url = settings.redis_url
    if url is not None:
        from asgi_llmgate.backends.labels_redis import RedisLabelStore

        return RedisLabelStore.from_url(url.get_secret_value())
    from asgi_llmgate.backends.labels_sqlite import SqliteLabelStore

    return SqliteLabelStore(settings.data_dir)
