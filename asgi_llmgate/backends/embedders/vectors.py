"""What all embedders share: unit length, and the texts they saw last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asgi_llmgate.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["Recent", "require_numpy", "unit"]

# Longer ones are rare and seldom come twice; they would be most of the memory.
MAX_TEXT = 2000


class Recent:
    """Vectors of the texts that were seen last: a question is embedded to look, and to store.

    Safe for use by several threads.

    Args:
        size: Of them.
    """

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> Vector | None:
        with self._lock:
            vector = self._vectors.get(text)
            if vector is not None:
                self._vectors.move_to_end(text)
            return vector

    def put(self, text: str, vector: Vector) -> None:
        if len(text) > MAX_TEXT:
            return
        with self._lock:
            self._vectors[text] = vector
            self._vectors.move_to_end(text)
            if len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


def unit(values: Sequence[float] | Vector, dims: int | None = None) -> Vector:
    """Return `values` as a read-only vector of unit length; it may be kept and shared.

    Raises:
        BackendError: it has no direction, is not of `dims` numbers, or is no list of numbers.
    """
    import numpy as np

    try:
        vector = np.array(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise BackendError("the embedder returned no list of numbers") from None
    if vector.ndim != 1 or not vector.size or (dims is not None and vector.size != dims):
        raise BackendError(f"the embedder returned numbers of shape {vector.shape}")
    length = float(np.sqrt(np.dot(vector, vector)))
    if not 0 < length < float("inf"):  # also false for NaN
        raise BackendError("the embedder returned a vector without a direction")
    vector /= np.float32(length)
    vector.setflags(write=False)
    return vector


def require_numpy() -> None:
    """Refuse to go on without the extra that brings numpy.

    Raises:
        ConfigurationError: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("numpy") is None:
        raise ConfigurationError(
            "The semantic cache needs numpy, which is not installed.\n"
            "HINT: `pip install 'asgi-llmgate[semantic]'`."
        )
