"""Inside FastAPI and Django a failing provider is replaced as it is by the gateway alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import wire
from tests.e2e.conftest import Calls
from tests.provider import SSE, Answer, End, Provider
from tests.servers import Gateway, all_at, running_gateway

ADA = {"x-user": "ada", "LLMGate-Fallbacks": '[{"provider": "anthropic", "model": "claude"}]'}
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", params=["fastapi_app", "wrapped_fastapi_app", "django_app"])
def host(
    request: pytest.FixtureRequest,
    provider_server: Provider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    env = all_at(provider_server.url) | {
        "LLMGATE_PROVIDERS__OPENAI__API_KEY": "sk-openai",
        "LLMGATE_PROVIDERS__ANTHROPIC__API_KEY": "sk-ant",
    }
    with running_gateway(
        tmp_path_factory.mktemp(request.param),
        env,
        app=f"tests.mounted.apps:{request.param}",
        arguments=["--factory", "--lifespan", "off"],
    ) as running:
        yield running


def test_the_next_target_answers(host: Gateway, provider: Provider) -> None:
    calls = Calls(host)
    provider.script(Answer([b"{}"], status=503))

    answer = host.http.post("/llm/v1/chat/completions", headers=ADA, json=CHAT)
    record = calls.one()

    assert answer.status_code == 200
    assert answer.headers["llmgate-fallback-index"] == "1"
    assert [attempt["provider"] for attempt in record["attempts"]] == ["openai", "anthropic"]


def test_a_stream_that_breaks_before_its_content_is_replaced(
    host: Gateway, provider: Provider
) -> None:
    role_only = wire.chat_events("gpt-4o")[:1]
    provider.script(Answer([*role_only, End.RESET], headers=SSE))

    answer = host.http.post("/llm/v1/chat/completions", headers=ADA, json={**CHAT, "stream": True})

    assert b"gpt-4o" not in answer.content
    assert answer.content.rstrip().endswith(b"[DONE]")
    assert len(provider.asked) == 2
