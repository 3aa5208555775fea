"""Bedrock, Azure and Vertex: where they are, and how the gateway proves who it is."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.gateway import LLMGate
from tests import wire
from tests.asgi import CHAT, call
from tests.gateway.conftest import MakeGate
from tests.stub_upstream import SSE, Reply, StubUpstream

KEY = "lg_the-gateway-key"
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
AWS = {
    "region": "eu-central-1",
    "access_key_id": "AKIDEXAMPLE",
    "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
}


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AZURE_RESOURCE_NAME", "AZURE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def check_signature(upstream: StubUpstream, secret: str, region: str) -> None:
    """Sign the request again as AWS's reference says, and compare."""
    request = upstream.last
    sent = {name.decode(): value.decode() for name, value in request.headers}
    parts = urlsplit(request.url)
    sent["host"] = parts.netloc
    scheme, _, rest = sent["authorization"].partition(" ")
    fields = dict(field.strip().split("=", 1) for field in rest.split(","))
    names = fields["SignedHeaders"].split(";")
    canonical = "\n".join(
        [
            request.method,
            quote(parts.path, safe="/~"),
            parts.query,
            *(f"{name}:{sent[name].strip()}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(upstream.bodies[-1]).hexdigest(),
        ]
    )
    day = sent["x-amz-date"][:8]
    scope = f"{day}/{region}/bedrock/aws4_request"
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    text = [scheme, sent["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]

    assert scheme == "AWS4-HMAC-SHA256"
    assert {"content-type", "host", "x-amz-date"} <= set(names)
    assert fields["Credential"] == f"AKIDEXAMPLE/{scope}"
    assert fields["Signature"] == hmac.new(key, "\n".join(text).encode(), "sha256").hexdigest()


async def test_a_call_to_bedrock_is_signed(make_gate: MakeGate, upstream: StubUpstream) -> None:
    upstream.script = [Reply([wire.dumps(ANSWER)])]
    gate = make_gate(aws=AWS, keys={"app": KEY})
    exchange = await call(gate, CONVERSE, path=f"/model/{MODEL}/converse", key=KEY)

    assert exchange.json() == ANSWER
    host = "https://bedrock-runtime.eu-central-1.amazonaws.com"
    assert upstream.last.url.startswith(f"{host}/model/us.anthropic.claude")
    check_signature(upstream, AWS["secret_access_key"], "eu-central-1")


async def test_a_translated_call_to_bedrock_is_signed(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([wire.dumps(ANSWER)])]
    gate = make_gate(aws=AWS, keys={"app": KEY})
    exchange = await call(gate, CHAT | {"model": f"bedrock/{MODEL}"}, key=KEY)

    assert exchange.json()["choices"][0]["message"]["content"] == "Hello"
    check_signature(upstream, AWS["secret_access_key"], "eu-central-1")


async def test_a_session_token_is_sent_and_signed(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([wire.dumps(ANSWER)])]
    gate = make_gate(aws=AWS | {"session_token": "session"}, keys={"app": KEY})
    await call(gate, CONVERSE, path=f"/model/{MODEL}/converse", key=KEY)

    assert upstream.header("x-amz-security-token") == "session"
    assert "x-amz-security-token" in (upstream.header("authorization") or "")
    check_signature(upstream, AWS["secret_access_key"], "eu-central-1")


async def test_aws_variables_are_read_as_other_tools_read_them(
    make_gate: MakeGate, upstream: StubUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    upstream.script = [Reply([wire.dumps(ANSWER)])]
    await call(make_gate(keys={"app": KEY}), CONVERSE, path=f"/model/{MODEL}/converse", key=KEY)

    check_signature(upstream, "hush", "us-west-2")


async def test_a_bearer_key_beats_signatures(
    make_gate: MakeGate, upstream: StubUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key")
    upstream.script = [Reply([wire.dumps(ANSWER)])]
    gate = make_gate(aws=AWS, keys={"app": KEY})
    await call(gate, CONVERSE, path=f"/model/{MODEL}/converse", key=KEY)

    assert upstream.header("authorization") == "Bearer bedrock-key"


async def test_a_callers_bedrock_key_goes_through_where_calls_are_signed(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    upstream.script = [Reply([wire.dumps(ANSWER)])]
    path = f"/model/{MODEL}/converse"
    await call(make_gate(aws=AWS), CONVERSE, path=path, key="their-bedrock-key")

    assert upstream.header("authorization") == "Bearer their-bedrock-key"
    assert upstream.header("x-amz-date") is None


async def test_strangers_do_not_get_a_signature(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    path = f"/model/{MODEL}/converse"
    exchange = await call(make_gate(aws=AWS), CONVERSE, path=path)

    assert exchange.status == 401
    assert not upstream.requests


async def test_a_signed_call_is_refused_with_the_remedy(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    headers = {"authorization": "AWS4-HMAC-SHA256 Credential=AKIA/x", "x-amz-date": "20261123"}
    path = f"/model/{MODEL}/converse"
    exchange = await call(make_gate(aws=AWS), CONVERSE, path=path, headers=headers)

    assert exchange.status == 401
    assert exchange.headers["x-amzn-errortype"] == "AccessDeniedException"
    assert "AWS_BEARER_TOKEN_BEDROCK" in exchange.json()["message"]


async def test_bedrock_without_a_region_names_the_setting(make_gate: MakeGate) -> None:
    path = f"/model/{MODEL}/converse"
    exchange = await call(make_gate(), CONVERSE, path=path, key="their-bedrock-key")

    assert exchange.status == 400
    assert "LLMGATE_PROVIDERS__AMAZON_BEDROCK__BASE_URL" in exchange.json()["message"]


async def test_a_profile_that_is_not_there_is_the_operators_business(
    make_gate: MakeGate, upstream: StubUpstream
) -> None:
    gate = make_gate(aws={"region": "us-east-1", "profile": "nobody"}, keys={"app": KEY})
    exchange = await call(gate, CONVERSE, path=f"/model/{MODEL}/converse", key=KEY)

    assert exchange.status == 502
    assert "ProfileNotFound" in exchange.json()["message"]
    assert not upstream.requests


def test_half_of_an_aws_key_is_a_mistake(make_gate: MakeGate) -> None:
    with pytest.raises(ConfigurationError, match="go together") as caught:
        make_gate(aws={"secret_access_key": "hush-hush"})

    assert "hush" not in str(caught.value)


DEPLOYMENT = "/openai/deployments/my-gpt/chat/completions"


async def test_azure_without_a_resource_is_a_400(make_gate: MakeGate) -> None:
    exchange = await call(make_gate(), CHAT, path=DEPLOYMENT, headers={"api-key": "theirs"})

    assert exchange.status == 400
    error = exchange.json()["error"]
    assert "LLMGATE_PROVIDERS__AZURE_OPENAI__BASE_URL" in error["message"]


async def test_azure_is_where_its_resource_is(
    make_gate: MakeGate, upstream: StubUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_RESOURCE_NAME", "corp")
    await call(
        make_gate(),
        CHAT,
        path=DEPLOYMENT,
        headers={"api-key": "theirs"},
        query="api-version=2025-04-01-preview",
    )

    resource = "https://corp.openai.azure.com/openai/deployments/my-gpt/chat/completions"
    assert upstream.last.url == f"{resource}?api-version=2025-04-01-preview"
    assert upstream.header("api-key") == "theirs"


@pytest.mark.parametrize(
    ("version", "is_asked"),
    [("2024-10-21", True), ("2025-04-01-preview", True), ("2024-06-01", False), ("", False)],
)
async def test_azure_is_asked_for_the_usage_of_a_stream_if_its_version_knows_that(
    make_gate: MakeGate,
    upstream: StubUpstream,
    log: MemoryLogSink,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    is_asked: bool,
) -> None:
    monkeypatch.setenv("AZURE_RESOURCE_NAME", "corp")
    events = wire.chat_events("gpt-4o", usage=is_asked)
    upstream.script = [Reply(events, headers=SSE)]
    exchange = await call(
        make_gate(),
        {**CHAT, "stream": True},
        path=DEPLOYMENT,
        headers={"api-key": "theirs"},
        query=f"api-version={version}",
    )

    assert ("stream_options" in json.loads(upstream.bodies[0])) is is_asked
    assert b'"usage": {' not in exchange.body
    assert b"[DONE]" in exchange.body
    assert log.records[0].usage_estimated is not is_asked
    assert log.records[0].complete


async def test_azure_gets_the_pooled_key_in_its_own_header(
    make_gate: MakeGate, upstream: StubUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_RESOURCE_NAME", "corp")
    monkeypatch.setenv("AZURE_API_KEY", "pooled")
    await call(make_gate(keys={"app": KEY}), CHAT, path=DEPLOYMENT, headers={"api-key": KEY})

    assert upstream.header("api-key") == "pooled"


async def test_a_resource_that_is_no_word_stays_off(
    make_gate: MakeGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_RESOURCE_NAME", "evil.example/x")
    exchange = await call(make_gate(), CHAT, path=DEPLOYMENT, headers={"api-key": "theirs"})

    assert exchange.status == 400


@pytest.fixture(scope="module")
def service_account(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The key file of a service account, and the public half."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    info = {
        "type": "service_account",
        "project_id": "corp",
        "private_key_id": "k1",
        "private_key": pem.decode(),
        "client_email": "gate@corp.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    path = tmp_path_factory.mktemp("google") / "key.json"
    path.write_text(json.dumps(info))
    return path, private.public_key()


@pytest.fixture
def vertex(
    make_gate: MakeGate, service_account: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> LLMGate:
    monkeypatch.setenv("GOOGLE_VERTEX_PROJECT", "corp")
    monkeypatch.setenv("GOOGLE_VERTEX_LOCATION", "europe-west4")
    return make_gate(google={"credentials_file": service_account[0]}, keys={"app": KEY})


async def test_vertex_gets_a_token_of_the_service_account(
    vertex: LLMGate, upstream: StubUpstream, service_account: tuple[Path, Any]
) -> None:
    model = "gemini-2.5-flash"
    upstream.script = [Reply([wire.gemini_body(model)]), Reply([wire.gemini_body(model)])]
    first = await call(vertex, CHAT | {"model": f"vertex/{model}"}, key=KEY)
    token = (upstream.header("authorization") or "").removeprefix("Bearer ")
    ask = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
    path = f"/v1beta/models/vertex/{model}:generateContent"
    second = await call(vertex, ask, path=path, headers={"x-goog-api-key": KEY})

    place = "https://europe-west4-aiplatform.googleapis.com/v1/projects/corp/locations/europe-west4"
    assert upstream.last.url == f"{place}/publishers/google/models/{model}:generateContent"
    assert (first.status, second.status) == (200, 200)
    claims = jwt.decode(token, service_account[1], algorithms=["RS256"])
    assert claims["iss"] == "gate@corp.iam.gserviceaccount.com"
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    # Used until it expires.
    assert upstream.header("authorization") == f"Bearer {token}"


@pytest.mark.parametrize("is_there", [True, False], ids=["malformed", "missing"])
async def test_a_key_file_that_is_none_is_the_operators_business(
    make_gate: MakeGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    monkeypatch.setenv("GOOGLE_VERTEX_PROJECT", "corp")
    monkeypatch.setenv("GOOGLE_VERTEX_LOCATION", "europe-west4")
    if is_there:
        (tmp_path / "key.json").write_text('{"private_key": "hush"}')
    gate = make_gate(google={"credentials_file": tmp_path / "key.json"}, keys={"app": KEY})
    exchange = await call(gate, CHAT | {"model": "vertex/gemini-2.5-flash"}, key=KEY)

    assert exchange.status == 502
    assert exchange.json()["error"]["code"] == "upstream_auth"
    assert b"hush" not in exchange.body
