"""Any vectorizer of RedisVL as an embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgi_llmgate.backends.embedders.callable import TIMEOUT_S, CallableEmbedder
from asgi_llmgate.errors import ConfigurationError

if TYPE_CHECKING:
    from redisvl.utils.vectorize import BaseVectorizer

    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["RedisVLEmbedder"]


class RedisVLEmbedder:
    """Embeds with a `redisvl.utils.vectorize` vectorizer.

    Many of them have no async way of their own, and would hold the event loop up: those of Hugging
    Face, Cohere, Bedrock and Vertex AI, and a `CustomVectorizer` without `aembed`. They run on a
    thread.

    Args:
        vectorizer: Yours, with its own clients and keys.
        id: Of the model and its version; by default the vectorizer's kind, model and length.
        timeout_s: How long a text may take.

    Raises:
        ConfigurationError: it is a `CustomVectorizer` and no `id` is given: all of them call their
            model "custom", and vectors of different ones would be compared.
    """

    def __init__(
        self,
        vectorizer: BaseVectorizer,
        *,
        id: str | None = None,  # noqa: A002 -- as the protocol has it
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        made: Any = vectorizer
        if id is None and made.model == "custom":
            raise ConfigurationError(
                "A CustomVectorizer does not say which model it is.\n"
                "HINT: give it a name with its version, `RedisVLEmbedder(vectorizer, id='mine@1')`."
            )
        self.id = id or f"redisvl:{made.type}:{made.model}:{made.dims}"

        # An empty text is an error to it.
        async def aembed(text: str) -> Any:
            return await made.aembed(text or " ")

        def embed(text: str) -> Any:
            return made.embed(text or " ")

        self._inner = CallableEmbedder(
            aembed if _is_async(made) else embed, id=self.id, dims=made.dims, timeout_s=timeout_s
        )

    async def embed(self, text: str, /) -> Vector:
        return await self._inner.embed(text)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _is_async(vectorizer: Any) -> bool:
    from redisvl.utils.vectorize import BaseVectorizer, CustomVectorizer

    if isinstance(vectorizer, CustomVectorizer):
        return vectorizer._aembed_func is not None
    return type(vectorizer)._aembed is not BaseVectorizer._aembed
