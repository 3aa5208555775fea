"""Build the semantic tier of the cache from the settings."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.semantic.alias import Alias, Neighbour, Vector
from asgi_llmgate.core.semantic.asking import Context
from asgi_llmgate.core.semantic.policy import SemanticPolicy
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.middleware.semantic import Judge, SemanticTier
from asgi_llmgate.protocols import Count, Embedder, IndexSize, LabelStore, VectorIndex
from asgi_llmgate.settings import Settings

__all__ = ["ChosenIndex", "judge_by", "label_store_of", "semantic_tier_of", "vector_index_of"]

logger = logging.getLogger("asgi_llmgate")

Post = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Makes a call of the gateway's own: path and body; raises `BackendError`."""

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
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
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
    raise ConfigurationError(f"cache.semantic.embedder={name} is not built.\nHINT: minilm is.")


def vector_index_of(settings: Settings) -> VectorIndex:
    """Return the index: RedisVL where Redis has the search module, else the embedded one."""
    from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex

    return SqliteVectorIndex(settings.data_dir, max_aliases=settings.cache.semantic.max_aliases)


def label_store_of(settings: Settings) -> LabelStore:
    from asgi_llmgate.backends.labels_sqlite import SqliteLabelStore

    return SqliteLabelStore(settings.data_dir)


class ChosenIndex:
    """RedisVL where Redis can search, else the embedded index; found out with the first use.

    Args:
        redis: Closed if it is not chosen.
        embedded: Makes the other one.
        can_search: Asks Redis. Raises `BackendError` if it does not answer; then nothing is
            chosen yet.
    """

    def __init__(
        self,
        redis: VectorIndex,
        embedded: Callable[[], VectorIndex],
        can_search: Callable[[], Awaitable[bool]],
    ) -> None:
        self._redis = redis
        self._embedded = embedded
        self._can_search = can_search
        self._chosen: VectorIndex | None = None

    async def chosen(self) -> VectorIndex:
        """Return the index in use.

        Raises:
            BackendError: Redis does not say what it can do.
        """
        if self._chosen is None:
            can_search = await self._can_search()
            if self._chosen is None:  # Nobody else has chosen meanwhile.
                self._chosen = self._redis if can_search else self._embedded()
                if not can_search:
                    logger.warning(
                        "Redis has no search module, so questions are compared by the embedded "
                        "index, of this machine only. Redis 8 has one."
                    )
        return self._chosen

    async def nearest(self, scope: str, vector: Vector, *, limit: int) -> list[Neighbour]:
        return await (await self.chosen()).nearest(scope, vector, limit=limit)

    async def add(self, scope: str, alias: Alias, vector: Vector) -> None:
        await (await self.chosen()).add(scope, alias, vector)

    async def remove(self, scope: str, ids: Sequence[str]) -> None:
        await (await self.chosen()).remove(scope, ids)

    async def remove_answer(self, scope: str, answer: CacheKey) -> int:
        return await (await self.chosen()).remove_answer(scope, answer)

    async def purge(
        self, *, partition: str | None = None, created_before_us: int | None = None
    ) -> int:
        index = await self.chosen()
        return await index.purge(partition=partition, created_before_us=created_before_us)

    async def listed(
        self, *, partition: str | None = None, limit: int = 100
    ) -> list[tuple[str, Alias]]:
        return await (await self.chosen()).listed(partition=partition, limit=limit)

    async def size(self) -> IndexSize:
        return await (await self.chosen()).size()

    async def aclose(self) -> None:
        if self._chosen not in (None, self._redis):
            assert self._chosen is not None
            await self._chosen.aclose()
        await self._redis.aclose()
        self._chosen = None


JUDGE_TASK = """\
Two answers were given to two questions. Would the second answer have been just as right for the \
first question? Wording and detail may differ; facts, numbers, names, conditions and advice may \
not. Reply with one word: SAME or DIFFERENT."""


def judge_by(model: str, post: Post) -> Judge:
    """Return a judge that asks `model`, through the gateway itself."""

    async def judge(question: str, answer: str, other: str, other_answer: str) -> bool | None:
        told = (
            f"First question: {question}\nFirst answer: {answer}\n\n"
            f"Second question: {other}\nSecond answer: {other_answer}"
        )
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": JUDGE_TASK},
                {"role": "user", "content": told},
            ],
        }
        try:
            reply = await post("/v1/chat/completions", body)
            word = str(reply["choices"][0]["message"]["content"]).strip().upper()
        except BackendError as error:
            logger.info("The judge of the semantic cache did not answer: %s", error)
            return None
        except (KeyError, IndexError, TypeError):
            return None
        is_same, is_different = word.startswith("SAME"), word.startswith("DIFFERENT")
        return is_same if is_same != is_different else None

    return judge
