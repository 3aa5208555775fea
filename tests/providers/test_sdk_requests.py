"""Every request that the golden cases send is one that the provider's own SDK could have made."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest
from google.genai import types as google_types
from pydantic import ConfigDict, TypeAdapter, create_model

from tests.providers.test_cases import Case, cases, encode

SENT = [case for case in cases("out", "requests") if "error" not in case.values[0]]


def of(wire_format: str) -> list[Any]:
    return [case for case in SENT if case.values[0]["format"] == wire_format]


def body_of(case: Case) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(encode(case, case["chat"]).body))
    return body


ANTHROPIC: TypeAdapter[Any] = TypeAdapter(
    anthropic.types.message_create_params.MessageCreateParamsStreaming
    | anthropic.types.message_create_params.MessageCreateParamsNonStreaming
)
CHAT: TypeAdapter[Any] = TypeAdapter(openai.types.chat.CompletionCreateParams)
RESPONSES: TypeAdapter[Any] = TypeAdapter(openai.types.responses.ResponseCreateParams)


@pytest.mark.parametrize("case", of("anthropic-messages"))
def test_anthropic_takes_it(case: Case) -> None:
    body = body_of(case)

    ANTHROPIC.validate_python(body)
    # The SDK has dropped these, as its own version of the API has; 2023-06-01 has them.
    older = {"temperature", "top_p", "top_k"}
    known = anthropic.types.message_create_params.MessageCreateParamsBase.__annotations__
    assert body.keys() <= known.keys() | older | {"stream"}
    roles = [message["role"] for message in body["messages"]]
    assert all(one != other for one, other in itertools.pairwise(roles))


@pytest.mark.parametrize("case", of("openai-chat"))
def test_openai_chat_takes_it(case: Case) -> None:
    body = body_of(case)

    CHAT.validate_python(body)
    known = openai.types.chat.completion_create_params.CompletionCreateParamsBase.__annotations__
    if case["provider"] == "openai":
        assert body.keys() <= known.keys() | {"stream"}


@pytest.mark.parametrize("case", of("openai-responses"))
def test_openai_responses_takes_it(case: Case) -> None:
    body = body_of(case)

    RESPONSES.validate_python(body)
    known = openai.types.responses.response_create_params.ResponseCreateParamsBase.__annotations__
    assert body.keys() <= known.keys() | {"stream"}


GeminiRequest = create_model(
    "GeminiRequest",
    __config__=ConfigDict(extra="forbid"),
    contents=(list[google_types.Content], ...),
    systemInstruction=(google_types.Content | None, None),
    tools=(list[google_types.Tool] | None, None),
    toolConfig=(google_types.ToolConfig | None, None),
    generationConfig=(google_types.GenerationConfig | None, None),
    serviceTier=(str | None, None),
)


@pytest.mark.parametrize("case", of("gemini"))
def test_gemini_takes_it(case: Case) -> None:
    body = body_of(case)
    for content in body["contents"]:
        for part in content["parts"]:
            part.pop("thoughtSignature", None)  # The cases have words where bytes belong.

    GeminiRequest.model_validate(body)
    roles = [content["role"] for content in body["contents"]]
    assert roles[0] == "user"
    assert all(one != other for one, other in itertools.pairwise(roles))


@pytest.mark.parametrize("case", of("bedrock-converse"))
def test_bedrock_takes_it(case: Case) -> None:
    loaders = pytest.importorskip("botocore.loaders")
    model = pytest.importorskip("botocore.model")
    validate = pytest.importorskip("botocore.validate")
    service = loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    shape = model.ServiceModel(service).operation_model("Converse").input_shape
    body = {"modelId": case["model"], **with_bytes(body_of(case))}
    report = validate.ParamValidator().validate(body, shape)

    assert not report.has_errors(), report.generate_report()
    assert body.keys() <= shape.members.keys()


def with_bytes(value: Any) -> Any:
    """Return `value` as a caller of boto3 writes it: blobs as bytes."""
    if isinstance(value, list):
        return [with_bytes(item) for item in value]
    if isinstance(value, dict):
        return {
            name: base64.b64decode(inner + "==")
            if name in {"bytes", "redactedContent"}
            else with_bytes(inner)
            for name, inner in value.items()
        }
    return value
