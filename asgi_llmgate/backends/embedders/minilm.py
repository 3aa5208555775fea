"""The embedder that ships with the package: all-MiniLM-L6-v2, int8, 384 numbers, no network.

One text per run, never a padded batch: dynamic int8 makes a vector depend on its neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asgi_llmgate.backends.embedders.one_thread import MAX_WAITING, OneThread
from asgi_llmgate.backends.embedders.vectors import Recent, unit
from asgi_llmgate.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["MODEL_FOLDER", "MiniLMEmbedder"]

MODEL_FOLDER = Path(__file__).parent / "minilm_l6_v2"
DIMS = 384
# What the model was trained for; the tokenizer cuts there.
MAX_TOKENS = 256
# More never reaches the model, but for white space; and the tokenizer reads all it is given.
MAX_CHARACTERS = 16_384


class MiniLMEmbedder:
    """Embeds on one core in about 1 ms, on a thread of its own; the model is loaded at first use.

    Args:
        max_waiting: Texts that may wait for the thread; beyond that `embed` fails at once.

    Raises:
        ConfigurationError: onnxruntime or tokenizers is not installed.
    """

    # Of the model's digest: another file makes other vectors.
    id = "minilm-l6-v2-int8@433042c0"

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        missing = [name for name in ("onnxruntime", "tokenizers") if find_spec(name) is None]
        if missing:
            raise ConfigurationError(
                f"The embedder needs {' and '.join(missing)}, which is not installed.\n"
                "HINT: `pip install 'asgi-llmgate[semantic]'`, or give an embedder of your own."
            )
        self._thread = OneThread("llmgate-embed", max_waiting=max_waiting)
        self._recent = Recent()
        self._run: Callable[[str], Vector] | None = None

    async def load(self) -> None:
        """Load the model now, 0.3 s, instead of with the first question.

        Raises:
            BackendError: it cannot be.
        """
        await self.embed("")

    async def embed(self, text: str, /) -> Vector:
        if self._thread.is_new:
            self._run = None
            self._recent = Recent()  # A child may have inherited one that is locked.
        vector = self._recent.get(text)
        if vector is None:
            vector = await self._thread.run(lambda: self._embed(text))
        return vector

    async def aclose(self) -> None:
        self._thread.close()
        self._run = None

    def _embed(self, text: str) -> Vector:
        try:
            if self._run is None:
                self._run = _loaded()
            # Of several that asked for it at once, the others find it here.
            vector = self._recent.get(text)
            if vector is None:
                vector = self._run(text)
                self._recent.put(text, vector)
            return vector
        except BackendError:
            raise
        except Exception as error:  # what a runtime in C++ raises is not listed anywhere
            raise BackendError(f"MiniLM: {type(error).__name__}") from error


def _loaded() -> Callable[[str], Vector]:
    # Official builds from 1.29 on tell Microsoft about each process and each model, and keep a
    # device id in the home folder, unless this is set before they are imported.
    os.putenv("ORT_DISABLE_TELEMETRY", "1")
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    onnxruntime.disable_telemetry_events()  # where the host has imported it before us
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session: Any = onnxruntime.InferenceSession(
        MODEL_FOLDER / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    tokenizer: Any = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)

    def run(text: str) -> Vector:
        # Half a surrogate pair is no text to a tokenizer written in Rust.
        text = text[:MAX_CHARACTERS].encode("utf-8", "replace").decode()
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        [[vector]] = session.run(["embedding"], inputs)
        return unit(vector, DIMS)

    return run
