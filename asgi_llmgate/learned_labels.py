"""All that a partition has learned, read from its store at once."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from asgi_llmgate.core.semantic.codec import decode_label
from asgi_llmgate.core.semantic.label import Label
from asgi_llmgate.core.semantic.model import Model
from asgi_llmgate.protocols import LabelStore

__all__ = ["Known", "known_of"]


class Known(NamedTuple):
    """Labels, oldest first, and the model made of them."""

    labels: list[Label]
    model: Model | None


async def known_of(store: LabelStore, partition: str) -> Known:
    """Raises BackendError: the store does not answer."""
    read = await store.since(partition, after=0, model_version=0)

    def decode() -> Known:
        labels = [label for each in read.labels if (label := decode_label(each)) is not None]
        return Known(labels, None if read.model is None else _model_of(read.model[1]))

    # Thousands of labels take tens of milliseconds.
    return await asyncio.to_thread(decode)


def _model_of(encoded: bytes) -> Model | None:
    try:
        return Model.decode(encoded)
    except ValueError:
        return None  # Of another version; the next fit makes a new one.
