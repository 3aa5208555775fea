from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests import wire
from tests.provider import Answer, Gate, Provider
from tests.servers import all_at, running_gateway

KEY = "lg_test_idempotency_0123456789"


def test_two_workers_make_one_call_of_one_key(provider: Provider, tmp_path: Path) -> None:
    env = all_at(provider.url) | {
        "LLMGATE_KEYS": f"app:{KEY}",
        "LLMGATE_PROVIDERS__OPENAI__API_KEY": "sk-pooled",
    }
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {KEY}", "idempotency-key": "order-7"}
    held = Gate()
    provider.script(Answer([held, wire.chat_body("gpt-4o")]))
    with running_gateway(tmp_path, env, workers=2) as gateway:
        url = f"{gateway.url}/v1/chat/completions"

        def one(_: int) -> httpx.Response:
            # A connection of its own each, so that both workers get some.
            return httpx.post(url, json=body, headers=headers, timeout=30)

        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(one, number) for number in range(24)]
            provider.wait(lambda: provider.asked)
            held.open()
            answers = [each.result() for each in asked]
        other = httpx.post(url, json={**body, "model": "gpt-4.1"}, headers=headers, timeout=30)

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in answers} == {wire.chat_body("gpt-4o")}
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 23
    assert len(provider.asked) == 1
    assert other.status_code == 422
