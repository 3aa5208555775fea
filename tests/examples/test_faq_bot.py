"""The FAQ bot of the shop: paraphrases become hits, and wrong ones stay rare."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt

from tests import wire
from tests.examples.faq import ANSWERS, askings
from tests.examples.test_examples import environment
from tests.processes import clean_environment
from tests.provider import Answer, Asked, Provider
from tests.servers import Gateway, running_gateway

SECRET = "only-for-trying-this-out-0123456789"
MAX_ERROR = 0.02
ASKED = 420


def answered_by_topic(provider: Provider) -> None:
    topics = dict(askings())

    def answer(asked: Asked) -> Answer:
        request = asked.json()
        text = ANSWERS[topics[request["messages"][-1]["content"]]]
        body = wire.chat_body(request["model"]).replace(wire.TEXT.encode(), text.encode())
        return Answer([body])

    provider.default = answer


def login_of(number: int) -> dict[str, str]:
    claims = {"sub": f"customer-{number}", "aud": "shop", "exp": int(time.time()) + 600}
    token = jwt.encode(claims, SECRET, "HS256")
    # A connection of its own for each question: both workers get some.
    return {"authorization": f"Bearer {token}", "connection": "close"}


def stats_of(shop: Gateway) -> Any:
    command = [sys.executable, "-m", "asgi_llmgate", "admin-token"]
    env = clean_environment() | {"LLMGATE_DATA_DIR": str(shop.data_dir)}
    token = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    answer = shop.http.get(
        "/llm/llmgate/api/v1/cache/stats", headers={"authorization": f"Bearer {token.strip()}"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_paraphrases_become_hits_and_savings_and_wrong_ones_stay_under_the_bound(
    provider_server: Provider, provider: Provider, tmp_path: Path
) -> None:
    answered_by_topic(provider)
    customers = [login_of(number) for number in range(20)]
    hits = wrong = 0
    env = environment(provider_server, "fastapi_app")
    with running_gateway(tmp_path, env, app="main:app", workers=2) as shop:
        before = stats_of(shop)
        for number, (question, topic) in enumerate(askings()[:ASKED]):
            answer = shop.http.post(
                "/faq", params={"question": question}, headers=customers[number % len(customers)]
            )
            told = answer.json()
            if told["cache"] == "HIT":
                hits += 1
                wrong += told["text"] != ANSWERS[topic]
            else:
                assert told["text"] == ANSWERS[topic]
            if number == ASKED // 2:
                halfway = stats_of(shop)
        after = stats_of(shop)

    assert before["hits"] == {"exact": 0, "semantic": 0}
    assert before["saved_nanousd"] == 0
    assert hits > 50
    assert wrong <= MAX_ERROR * hits
    assert halfway["hits"]["semantic"] < after["hits"]["semantic"] <= hits
    assert halfway["saved_nanousd"] < after["saved_nanousd"]
    assert len(provider.asked) < ASKED
