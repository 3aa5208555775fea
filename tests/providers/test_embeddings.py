"""Embeddings from any provider for any caller."""

from __future__ import annotations

import base64
import struct
from typing import Any

import openai.types
import pytest
from google.genai import types as google_types

from asgi_llmgate.core.json import loads
from asgi_llmgate.errors import TranslationError
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.embeddings import (
    EmbeddingsTranslation,
    can_translate_embeddings,
    from_base64,
    read_embeddings,
    to_base64,
)
from asgi_llmgate.providers.inner import TargetInfo
from tests.providers.recorded import FOLDER


def target(model: str, *, strict: bool = False) -> TargetInfo:
    return TargetInfo(model, "someone", capabilities_of(model), strict=strict)


OPENAI: dict[str, Any] = {"model": "e", "input": ["a", "b"], "dimensions": 8}


def test_openai_to_gemini() -> None:
    translation = EmbeddingsTranslation("openai-embeddings", "gemini-embeddings")
    encoded = translation.request(OPENAI, target("gemini-embedding-001"))

    assert encoded.path == "/models/gemini-embedding-001:batchEmbedContents"
    assert encoded.body["requests"][1] == {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "b"}]},
        "outputDimensionality": 8,
    }


def test_openai_to_cohere() -> None:
    translation = EmbeddingsTranslation("openai-embeddings", "cohere-v2")
    encoded = translation.request({**OPENAI, "input": "a"}, target("embed-v4.0"))

    assert encoded.path == "/embed"
    assert encoded.body == {
        "model": "embed-v4.0",
        "texts": ["a"],
        "input_type": "search_document",
        "embedding_types": ["float"],
        "output_dimension": 8,
    }


def test_gemini_task_to_cohere() -> None:
    translation = EmbeddingsTranslation("gemini-embeddings", "cohere-v2")
    part = {"content": {"parts": [{"text": "a"}]}, "taskType": "RETRIEVAL_QUERY"}
    encoded = translation.request({"requests": [part]}, target("embed-v4.0"), model="g")

    assert encoded.body["input_type"] == "search_query"


def test_bedrock_takes_one_text_at_a_time() -> None:
    translation = EmbeddingsTranslation("openai-embeddings", "bedrock-invoke")
    with pytest.raises(TranslationError) as refused:
        translation.request(OPENAI, target("amazon.titan-embed-text-v2:0"))
    encoded = translation.request({**OPENAI, "input": "a"}, target("amazon.titan-embed-text-v2:0"))

    assert refused.value.param == "input"
    assert encoded.path == "/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert encoded.body == {"inputText": "a", "dimensions": 8}


def test_bedrock_cohere_and_nova() -> None:
    translation = EmbeddingsTranslation("openai-embeddings", "bedrock-invoke")
    cohere = translation.request(OPENAI, target("cohere.embed-v4:0"))
    one = {**OPENAI, "input": "a", "input_type": "clustering"}
    nova = translation.request(one, target("amazon.nova-2-multimodal-embeddings-v1:0"))

    assert cohere.body["texts"] == ["a", "b"]
    assert "model" not in cohere.body
    assert nova.body["singleEmbeddingParams"] == {
        "embeddingPurpose": "CLUSTERING",
        "text": {"truncationMode": "END", "value": "a"},
        "embeddingDimension": 8,
    }


def test_token_ids_are_refused() -> None:
    translation = EmbeddingsTranslation("openai-embeddings", "cohere-v2")
    with pytest.raises(TranslationError, match="send text"):
        translation.request({"model": "e", "input": [[1, 2]]}, target("embed-v4.0"))


def test_what_is_dropped_is_named() -> None:
    translation = EmbeddingsTranslation("gemini-embeddings", "openai-embeddings")
    part = {"content": {"parts": [{"text": "a"}]}, "taskType": "CLUSTERING"}
    encoded = translation.request({"requests": [part]}, target("text-embedding-3-small"))
    with pytest.raises(TranslationError):
        translation.request({"requests": [part]}, target("text-embedding-3-small", strict=True))

    assert encoded.dropped == ["input_type"]


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (
            {
                "data": [
                    {"index": 1, "embedding": [2.0]},
                    {"index": 0, "embedding": "AACAPw=="},
                ],
                "usage": {"prompt_tokens": 3},
            },
            3,
        ),
        ({"embeddings": [{"values": [1.0]}, {"values": [2.0]}]}, 0),
        (
            {
                "embeddings": {"float": [[1.0], [2.0]]},
                "meta": {"billed_units": {"input_tokens": 3}},
            },
            3,
        ),
        ({"embeddings": [[1.0], [2.0]]}, 0),
        ({"embeddings": [{"embedding": [1.0]}, {"embedding": [2.0]}]}, 0),
    ],
    ids=["OpenAI", "Gemini", "Cohere", "Cohere on Bedrock", "Nova"],
)
def test_every_answer_is_read(answer: dict[str, Any], tokens: int) -> None:
    embedded = read_embeddings(answer)

    assert embedded.vectors == [[1.0], [2.0]]
    assert embedded.tokens == tokens


def test_single_answers_are_read() -> None:
    assert read_embeddings({"embedding": [1.0], "inputTextTokenCount": 4}).tokens == 4
    assert read_embeddings({"embedding": {"values": [1.0]}}).vectors == [[1.0]]


def test_base64_is_little_endian_float32() -> None:
    translation = EmbeddingsTranslation("openai-embeddings", "gemini-embeddings")
    translation.request({**OPENAI, "encoding_format": "base64"}, target("g"))
    answer = translation.response({"embeddings": [{"values": [1.0, -0.5]}, {"values": [0.0, 2]}]})

    packed = base64.b64encode(struct.pack("<2f", 1, -0.5)).decode()
    assert answer["data"][0]["embedding"] == packed
    assert answer["model"] == "e"
    assert from_base64(to_base64([1.0, -0.5])) == [1.0, -0.5]


def test_floats_when_nothing_else_is_asked_for() -> None:
    translation = EmbeddingsTranslation("openai-embeddings", "cohere-v2")
    translation.request(OPENAI, target("embed-v4.0"))
    answer = translation.response({"embeddings": {"float": [[1.0], [2.0]]}})

    openai.types.CreateEmbeddingResponse.model_validate(answer)
    assert [row["embedding"] for row in answer["data"]] == [[1.0], [2.0]]


def test_gemini_callers_get_one_or_many() -> None:
    one = EmbeddingsTranslation("gemini-embeddings", "openai-embeddings")
    one.request({"content": {"parts": [{"text": "a"}]}}, target("t"))
    many = EmbeddingsTranslation("gemini-embeddings", "openai-embeddings")
    many.request({"requests": [{"content": {"parts": [{"text": "a"}]}}]}, target("t"))
    answer = {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 2}}

    assert one.response(answer)["embedding"] == {"values": [1.0]}
    assert many.response(answer)["embeddings"] == [{"values": [1.0]}]
    google_types.ContentEmbedding.model_validate(many.response(answer)["embeddings"][0])


def test_errors_are_told_in_the_callers_dialect() -> None:
    gemini = EmbeddingsTranslation("gemini-embeddings", "cohere-v2")
    openai_ = EmbeddingsTranslation("openai-embeddings", "cohere-v2")

    assert gemini.error(429, [], b"{}")[1]["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert openai_.error(429, [], b"{}")[1]["error"]["type"] == "rate_limit_error"


def test_only_other_formats_are_translated() -> None:
    assert can_translate_embeddings("openai-embeddings", "cohere-v2")
    assert not can_translate_embeddings("openai-embeddings", "openai-embeddings")
    assert not can_translate_embeddings("anthropic-messages", "cohere-v2")


@pytest.mark.skipif(not FOLDER.exists(), reason="no recorded traffic in ../shared/data")
@pytest.mark.parametrize("name", ["openai-embeddings", "gemini-batchEmbedContents"])
def test_recorded_vectors_are_read(name: str) -> None:
    for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines():
        answer = loads(line)["response"]
        if answer["status"] == 200:
            embedded = read_embeddings(loads(answer["body"]))

            assert all(len(vector) > 100 for vector in embedded.vectors)
