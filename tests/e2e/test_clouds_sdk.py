"""AWS's SDK and OpenAI's for Azure through the gateway, over real sockets.

AWS's SDK sends bearer keys over TLS only, so the gateway has a certificate here.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from typing import Any

import botocore.exceptions
import botocore.session
import httpx2
import openai
import pytest
import trustme
from botocore.config import Config

from tests import wire
from tests.e2e import speakers
from tests.e2e.keys import GATEWAY_KEY
from tests.provider import Provider
from tests.servers import Gateway, running_gateway

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
HELLO = [{"role": "user", "content": [{"text": "hello"}]}]


@pytest.fixture(scope="module")
def clouds(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with places and credentials of its own at Bedrock and Azure."""
    env = {
        "LLMGATE_KEYS": f"app:{GATEWAY_KEY}",
        "LLMGATE_PROVIDERS__AMAZON_BEDROCK__BASE_URL": provider_server.url,
        "LLMGATE_AWS__REGION": "us-east-1",
        "LLMGATE_AWS__ACCESS_KEY_ID": "AKIDEXAMPLE",
        "LLMGATE_AWS__SECRET_ACCESS_KEY": "hush",
        "LLMGATE_PROVIDERS__AZURE_OPENAI__BASE_URL": f"{provider_server.url}/openai",
        "LLMGATE_PROVIDERS__AZURE_OPENAI__API_KEY": "pooled-azure-key",
    }
    folder = tmp_path_factory.mktemp("clouds")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pem = folder / "tls.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    arguments = ["--ssl-keyfile", str(pem), "--ssl-certfile", str(pem)]
    # Else the end of a TLS connection that a client has dropped is waited for half a minute.
    arguments += ["--timeout-graceful-shutdown", "3"]
    with running_gateway(folder, env, arguments=arguments) as gateway:
        yield gateway


@pytest.fixture
def bedrock(clouds: Gateway, speaking: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client whose key for Bedrock is one of the gateway."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", GATEWAY_KEY)
    client = made(clouds)
    yield client
    client.close()


def url_of(gateway: Gateway) -> str:
    return f"https://127.0.0.1:{gateway.port}"


def made(gateway: Gateway, **credentials: str) -> Any:
    session = botocore.session.Session()
    return session.create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url_of(gateway),
        verify=str(gateway.data_dir / "ca.pem"),
        config=Config(retries={"max_attempts": 0}, proxies={}),
        **credentials,
    )


def test_converse(bedrock: Any, speaking: Provider) -> None:
    answer = bedrock.converse(modelId=MODEL, messages=HELLO)

    assert answer["output"]["message"]["content"] == [{"text": wire.TEXT}]
    assert answer["usage"]["inputTokens"] == wire.INPUT_TOKENS
    signature = speaking.last.header("authorization") or ""
    assert signature.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")


def test_converse_stream(bedrock: Any, clouds: Gateway) -> None:
    events = list(bedrock.converse_stream(modelId=MODEL, messages=HELLO)["stream"])
    words = [
        event["contentBlockDelta"]["delta"]["text"]
        for event in events
        if "contentBlockDelta" in event
    ]

    assert words == list(wire.WORDS)
    last = clouds.wait_for_records(1)[-1]
    assert last["dialect"] == "bedrock"


def test_invoke(bedrock: Any) -> None:
    body = json.dumps({"inputText": "hello"})
    answer = bedrock.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=body)

    assert json.loads(answer["body"].read())["embedding"] == speakers.VECTOR


def test_an_error_is_the_sdks_own(bedrock: Any) -> None:
    with pytest.raises(bedrock.exceptions.ThrottlingException, match=r"Slow down\."):
        bedrock.converse(modelId=f"{MODEL}-refused", messages=HELLO)


def test_a_signed_call_is_told_what_to_do(clouds: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    client = made(clouds, aws_access_key_id="AKIA", aws_secret_access_key="mine")
    with pytest.raises(botocore.exceptions.ClientError, match="AWS_BEARER_TOKEN_BEDROCK") as caught:
        client.converse(modelId=MODEL, messages=HELLO)
    client.close()

    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 401


def test_azure(clouds: Gateway, speaking: Provider) -> None:
    context = ssl.create_default_context(cafile=str(clouds.data_dir / "ca.pem"))
    with openai.AzureOpenAI(
        azure_endpoint=url_of(clouds),
        api_key=GATEWAY_KEY,
        api_version="2025-04-01-preview",
        http_client=httpx2.Client(verify=context, trust_env=False),
    ) as client:
        answer = client.chat.completions.create(
            model="my-deployment", messages=[{"role": "user", "content": "hello"}]
        )

    assert answer.choices[0].message.content == wire.TEXT
    path = "/openai/deployments/my-deployment/chat/completions"
    assert speaking.last.target == f"{path}?api-version=2025-04-01-preview"
    assert speaking.last.header("api-key") == "pooled-azure-key"
