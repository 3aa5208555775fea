"""Embeddings between OpenAI, Gemini, Cohere and Bedrock: pure, like everything here.

The inner form is OpenAI's request, plus `input_type` as Cohere names it (`search_query`,
`search_document`, `classification`, `clustering`), and on the way back an `Embedded`. Vectors are
lists of floats, or base64 of little-endian float32 where an OpenAI caller asks for `base64` (its
SDK always does). Sources: SDKs openai 3.54 and google-genai 3.4, docs.cohere.com, AWS model
parameters of Titan, Nova and Cohere embeddings.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from asgi_llmgate.providers.inner import Encoded, Inner, Losses, TargetInfo, refuse
from asgi_llmgate.providers.provider_errors import (
    ProviderError,
    decode_error,
    gemini_error,
    openai_error,
)

__all__ = ["Embedded", "EmbeddingsTranslation", "can_translate_embeddings"]

SOURCES = ("openai-embeddings", "gemini-embeddings")
TARGETS = ("openai-embeddings", "gemini-embeddings", "cohere-v2", "bedrock-invoke")

_TASKS = {
    "search_query": "RETRIEVAL_QUERY",
    "search_document": "RETRIEVAL_DOCUMENT",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}
_KINDS = {task: kind for kind, task in _TASKS.items()}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of the input, and the tokens of it (0 where nobody counted)."""

    vectors: list[list[float]]
    tokens: int = 0


def can_translate_embeddings(source: str, target: str) -> bool:
    """Tell whether embeddings asked for in `source` can come from a provider of `target`."""
    return source in SOURCES and target in TARGETS and source != target


class EmbeddingsTranslation:
    """One embeddings call of one provider; see `Translation`, which this is the twin of."""

    def __init__(self, source: str, target_format: str) -> None:
        self._source = source
        self._target = target_format
        self._request: Inner = {}
        self._is_batch = True

    def request(
        self, body: Mapping[str, Any], target: TargetInfo, *, model: str | None = None
    ) -> Encoded:
        """Return the provider's request.

        Raises:
            TranslationError: the input is no text, or more than the provider takes at once.
        """
        if self._source == "gemini-embeddings":
            self._is_batch = "requests" in body
            self._request = _from_gemini(body)
        else:
            self._request = dict(body)
        self._request["model"] = model or self._request.get("model") or target.model
        losses = Losses(target.strict)
        rest = dict(self._request)
        texts = _texts(rest.pop("input", None))
        for name in ("model", "encoding_format", "user"):
            rest.pop(name, None)
        kind = rest.pop("input_type", None)
        size = rest.pop("dimensions", None)
        encoded = _ENCODERS[self._target](texts, kind, size, target, losses)
        losses.drop_rest(rest)
        encoded.dropped = losses.names
        return encoded

    def response(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the provider's answer as the caller's dialect has it."""
        embedded = read_embeddings(body)
        if self._source == "gemini-embeddings":
            values = [{"values": vector} for vector in embedded.vectors]
            usage = {"usageMetadata": {"promptTokenCount": embedded.tokens}}
            return (
                {"embeddings": values, **usage}
                if self._is_batch
                else {"embedding": values[0], **usage}
            )
        as_text = self._request.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": to_base64(vector) if as_text else vector,
            }
            for index, vector in enumerate(embedded.vectors)
        ]
        return {
            "object": "list",
            "data": data,
            "model": self._request["model"],
            "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
        }

    def error(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> tuple[ProviderError, dict[str, Any]]:
        """Return what a provider refused, and the same as the caller's dialect has it."""
        error = decode_error(status, headers, body)
        is_gemini = self._source == "gemini-embeddings"
        return error, gemini_error(error) if is_gemini else openai_error(error)


def to_base64(vector: Sequence[float]) -> str:
    """Return a vector as base64 of little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def from_base64(text: str) -> list[float]:
    """Return the vector of `to_base64`."""
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def read_embeddings(body: Mapping[str, Any]) -> Embedded:
    """Read a provider's answer; each shape has a field of its own."""
    if "data" in body:  # OpenAI
        rows = sorted(body["data"], key=lambda row: row.get("index", 0))
        tokens = (body.get("usage") or {}).get("prompt_tokens") or 0
        return Embedded([_vector(row["embedding"]) for row in rows], tokens)
    if "embedding" in body:  # Gemini embedContent, Titan
        given = body["embedding"]
        vector = given["values"] if isinstance(given, Mapping) else given
        return Embedded([_vector(vector)], body.get("inputTextTokenCount") or _gemini_tokens(body))
    given = body.get("embeddings") or []
    if isinstance(given, Mapping):  # Cohere: one list per type
        given = given.get("float") or next(iter(given.values()), [])
    vectors = []
    for row in given:
        if isinstance(row, Mapping):  # Gemini: values; Nova: embedding
            row = row.get("values") or row.get("embedding")
        vectors.append(_vector(row))
    billed = (body.get("meta") or {}).get("billed_units") or {}
    tokens = int(billed.get("input_tokens") or 0) or _gemini_tokens(body)
    return Embedded(vectors, tokens or int(body.get("inputTextTokenCount") or 0))


def _gemini_tokens(body: Mapping[str, Any]) -> int:
    return int((body.get("usageMetadata") or {}).get("promptTokenCount") or 0)


def _vector(given: Any) -> list[float]:
    return from_base64(given) if isinstance(given, str) else list(given or ())


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise refuse("input", "token ids mean another text to every model; send text")
    return texts


def _from_gemini(body: Mapping[str, Any]) -> Inner:
    requests = body.get("requests") or [body]
    texts = []
    for index, request in enumerate(requests):
        parts = (request.get("content") or {}).get("parts") or ()
        if any("text" not in part for part in parts):
            raise refuse(f"requests[{index}].content", "only text can be embedded elsewhere")
        texts.append("".join(part["text"] for part in parts))
    first = requests[0]
    inner: Inner = {"input": texts}
    size = first.get("outputDimensionality") or first.get("output_dimensionality")
    if size:
        inner["dimensions"] = size
    kind = _KINDS.get(str(first.get("taskType") or first.get("task_type") or ""))
    if kind:
        inner["input_type"] = kind
    return inner


def _openai(
    texts: list[str], kind: str | None, size: int | None, target: TargetInfo, losses: Losses
) -> Encoded:
    body: dict[str, Any] = {"model": target.model, "input": texts, "encoding_format": "float"}
    if size:
        body["dimensions"] = size
    if kind:
        losses.drop("input_type")
    return Encoded("/embeddings", body)


def _gemini(
    texts: list[str], kind: str | None, size: int | None, target: TargetInfo, losses: Losses
) -> Encoded:
    requests = []
    for text in texts:
        request: dict[str, Any] = {
            "model": f"models/{target.model}",
            "content": {"parts": [{"text": text}]},
        }
        if kind in _TASKS:
            request["taskType"] = _TASKS[kind]
        if size:
            request["outputDimensionality"] = size
        requests.append(request)
    if kind and kind not in _TASKS:
        losses.drop("input_type", f"Gemini has no task like `{kind}`")
    path = f"/models/{quote(target.model, safe='/')}:batchEmbedContents"
    return Encoded(path, {"requests": requests})


def _cohere(
    texts: list[str], kind: str | None, size: int | None, target: TargetInfo, losses: Losses
) -> Encoded:
    # Required since v3 of the models; documents are what most callers embed.
    body: dict[str, Any] = {"texts": texts, "input_type": kind or "search_document"}
    body["embedding_types"] = ["float"]
    if size:
        body["output_dimension"] = size
    return Encoded("/embed", {"model": target.model, **body})


def _bedrock(
    texts: list[str], kind: str | None, size: int | None, target: TargetInfo, losses: Losses
) -> Encoded:
    path = f"/model/{quote(target.model, safe='')}/invoke"
    if "cohere." in target.model:
        body = dict(_cohere(texts, kind, size, target, losses).body)
        del body["model"]
        return Encoded(path, body)
    if len(texts) != 1:
        raise refuse("input", "this model takes one text at a time")
    if kind and "nova" not in target.model:
        losses.drop("input_type")
    if "nova" in target.model:
        purposes = {"search_query": "GENERIC_RETRIEVAL", "classification": "CLASSIFICATION"}
        params: dict[str, Any] = {
            "embeddingPurpose": purposes.get(kind or "", "GENERIC_INDEX"),
            "text": {"truncationMode": "END", "value": texts[0]},
        }
        if kind == "clustering":
            params["embeddingPurpose"] = "CLUSTERING"
        if size:
            params["embeddingDimension"] = size
        return Encoded(path, {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": params})
    body = {"inputText": texts[0]}
    if size:
        body["dimensions"] = size
    return Encoded(path, body)


_ENCODERS: Mapping[
    str, Callable[[list[str], str | None, int | None, TargetInfo, Losses], Encoded]
] = {
    "openai-embeddings": _openai,
    "gemini-embeddings": _gemini,
    "cohere-v2": _cohere,
    "bedrock-invoke": _bedrock,
}
