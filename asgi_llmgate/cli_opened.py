"""What commands of `llmgate cache` share: the stores of the settings, open for one question."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

import typer

from asgi_llmgate.assemble import cache_secret_of, cache_store_of
from asgi_llmgate.cache import Cache
from asgi_llmgate.core.record import escape_controls
from asgi_llmgate.errors import BackendError
from asgi_llmgate.learned import Learned
from asgi_llmgate.semantic_cache import (
    label_store_of,
    missing_parts,
    semantic_policy_of,
    vector_index_of,
)
from asgi_llmgate.settings import Settings, load_settings

__all__ = ["AsJson", "Opened", "fail", "print_json", "run"]

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Opened(NamedTuple):
    """`learned` is None where there is no semantic cache."""

    settings: Settings
    cache: Cache
    learned: Learned | None

    def needs_learned(self) -> Learned:
        if self.learned is not None:
            return self.learned
        if self.settings.cache.mode == "exact":
            fail("There is no semantic cache: cache.mode is exact.")
        missing = missing_parts(self.settings.cache.semantic.embedder)
        return fail(
            f"There is no semantic cache: {', '.join(missing)} is not installed.",
            'HINT: run `pip install "asgi-llmgate[semantic]"`.',
        )


def run(act: Callable[[Opened], Awaitable[T]]) -> T:
    """Open what the settings name, ask, and close it; print why that failed, if it did."""

    async def asked() -> T:
        settings = load_settings()
        store = cache_store_of(settings)
        embedder = settings.cache.semantic.embedder
        has_semantic = settings.cache.mode != "exact" and not missing_parts(embedder)
        index = vector_index_of(settings) if has_semantic else None
        labels = label_store_of(settings) if has_semantic else None

        def secret() -> bytes:
            return cache_secret_of(settings)

        learned = None
        if index is not None and labels is not None:
            learned = Learned(
                lambda: store,
                lambda: index,
                lambda: labels,
                secret,
                policy=semantic_policy_of(settings),
            )
        try:
            return await act(Opened(settings, Cache(lambda: store, secret, lambda: index), learned))
        finally:
            await store.aclose()
            if index is not None:
                await index.aclose()
            if labels is not None:
                await labels.aclose()

    try:
        return asyncio.run(asked())
    except ValueError as error:
        fail(f"{error}.")
    except BackendError as error:
        fail(f"The cache does not answer: {error}")


def print_json(value: Any) -> None:
    print(json.dumps(value))


def fail(*lines: str) -> NoReturn:
    for line in lines:
        print(escape_controls(line), file=sys.stderr)
    raise typer.Exit(1)
