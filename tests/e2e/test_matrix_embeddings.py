"""Embeddings across providers, over real sockets: OpenAI's SDK and Google's."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from google import genai
from google.genai import types

from tests import wire
from tests.e2e.conftest import Calls
from tests.e2e.speakers import PROVIDERS, VECTOR
from tests.servers import Gateway

pytestmark = pytest.mark.usefixtures("speaking")

MODELS = {
    "openai-chat": "text-embedding-3-small",
    "gemini": "gemini-embedding-001",
    "cohere-v2": "embed-v4.0",
    "bedrock-converse": "amazon.titan-embed-text-v2:0",
}


def targets(*names: str) -> pytest.MarkDecorator:
    models = [f"{PROVIDERS[name]}/{MODELS[name]}" for name in names]
    return pytest.mark.parametrize("model", models, ids=names)


@pytest.fixture
def client(matrix: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{matrix.url}/v1", api_key="mine", max_retries=0) as client:
        yield client


@targets("gemini", "cohere-v2", "bedrock-converse")
def test_openai_callers_get_vectors_of_others(
    client: openai.OpenAI, recorded: Calls, model: str
) -> None:
    answer = client.embeddings.create(model=model, input="hello")

    assert [row.embedding for row in answer.data] == [VECTOR]
    record = recorded.one()
    assert (record["status"], record["complete"]) == (200, True)
    assert (record["provider"], record["model_requested"]) == (model.split("/")[0], model)
    if not model.startswith(PROVIDERS["gemini"]):  # Gemini does not count.
        assert record["input_tokens"] == answer.usage.prompt_tokens == wire.INPUT_TOKENS


@targets("gemini", "cohere-v2")
def test_several_texts_get_several_vectors(client: openai.OpenAI, model: str) -> None:
    answer = client.embeddings.create(model=model, input=["a", "b"], encoding_format="float")

    assert [row.embedding for row in answer.data] == [VECTOR, VECTOR]


def test_what_a_model_cannot_take_at_once_is_refused(client: openai.OpenAI) -> None:
    model = f"{PROVIDERS['bedrock-converse']}/{MODELS['bedrock-converse']}"
    with pytest.raises(openai.BadRequestError, match="one text at a time"):
        client.embeddings.create(model=model, input=["a", "b"])


@targets("openai-chat", "cohere-v2", "bedrock-converse")
def test_google_callers_get_vectors_of_others(matrix: Gateway, model: str) -> None:
    client = genai.Client(api_key="mine", http_options=types.HttpOptions(base_url=matrix.url))
    answer = client.models.embed_content(model=model, contents="hello")
    client.close()

    assert answer.embeddings
    assert [row.values for row in answer.embeddings] == [VECTOR]
