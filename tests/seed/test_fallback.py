"""The fallback snippet that this project began with, verbatim."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from tests import wire
from tests.e2e.conftest import Calls
from tests.provider import Answer, Provider
from tests.servers import Gateway, all_at, running_gateway

GATEWAY_KEY = "lg_test_seed_fallback_0123456789"


@pytest.fixture(scope="module")
def pooled(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    env = all_at(provider_server.url) | {
        "LLMGATE_KEYS": f"app:{GATEWAY_KEY}",
        "LLMGATE_PROVIDERS__OPENAI__API_KEY": "sk-openai",
        "LLMGATE_PROVIDERS__ANTHROPIC__API_KEY": "sk-ant",
    }
    with running_gateway(tmp_path_factory.mktemp("seed-fallback"), env) as gateway:
        yield gateway


def test_a_second_provider_answers_when_the_first_is_down(
    pooled: Gateway, provider: Provider
) -> None:
    calls = Calls(pooled)
    provider.script(Answer([b'{"error":{"message":"down"}}'], status=503))
    with openai.OpenAI(
        api_key=GATEWAY_KEY,
        base_url=f"{pooled.url}/v1",
        max_retries=0,
        default_headers={
            "Helicone-Fallbacks": json.dumps(
                [
                    {"provider": "openai", "model": "gpt-4o"},
                    {"provider": "anthropic", "model": "claude-sonnet-4-6"},
                ]
            )
        },
    ) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}]
        )
    record = calls.one()

    assert answer.parse().choices[0].message.content == wire.TEXT
    assert answer.headers["llmgate-provider"] == "anthropic"
    assert answer.headers["helicone-fallback-index"] == "1"
    assert [(attempt["provider"], attempt["reason"]) for attempt in record["attempts"]] == [
        ("openai", "status"),
        ("anthropic", None),
    ]
    assert "sk-openai" not in str(provider.asked[1].headers)
