"""Helicone's headers of the cache, as its users send them, through the real SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import openai
import pytest

from tests import wire
from tests.backends.records import wait_until
from tests.e2e.conftest import Calls
from tests.provider import Answer, Provider
from tests.servers import Gateway, all_at, running_gateway

GATEWAY_KEY = "lg_test_seed_0123456789abcdef"
BUCKET = 20


@pytest.fixture(scope="module")
def keyed(provider_server: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = all_at(provider_server.url) | {"LLMGATE_KEYS": f"app:{GATEWAY_KEY}"}
    with running_gateway(tmp_path_factory.mktemp("seed"), env) as gateway:
        yield gateway


@pytest.fixture
def client(keyed: Gateway, provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key="sk-of-the-user",
        base_url=f"{keyed.url}/v1",
        default_headers={"Helicone-Auth": f"Bearer {GATEWAY_KEY}"},
        max_retries=0,
    ) as client:
        yield client


def test_a_bucket_of_twenty_fills_and_then_answers(
    client: openai.OpenAI, keyed: Gateway, provider: Provider
) -> None:
    calls = Calls(keyed)
    provider.script(
        *(
            Answer([wire.chat_body("gpt-4o").replace(wire.TEXT.encode(), b"Story %d" % number)])
            for number in range(BUCKET)
        )
    )
    hits, texts = [], []
    for _ in range(BUCKET + 4):
        response = client.chat.completions.with_raw_response.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Tell me a story"}],
            extra_headers={
                "Helicone-Cache-Enabled": "true",
                "Helicone-Cache-Bucket-Max-Size": "20",
            },
        )
        hits.append(response.headers["Helicone-Cache-Hit"])
        texts.append(response.parse().choices[0].message.content)
    records = calls.new(BUCKET + 4)

    assert hits == ["false"] * BUCKET + ["true"] * 4
    assert texts[:BUCKET] == [f"Story {number}" for number in range(BUCKET)]
    assert set(texts[BUCKET:]) <= set(texts[:BUCKET])
    assert len(provider.asked) == BUCKET
    assert [record["cost_nanousd"] for record in records[BUCKET:]] == [0] * 4
    assert b"helicone" not in provider.last.everything.lower()


def test_other_words_are_a_hit_only_once_there_is_evidence(
    client: openai.OpenAI, keyed: Gateway, provider: Provider
) -> None:
    admin = {"authorization": f"Bearer {(keyed.data_dir / 'admin_token').read_text().strip()}"}

    def is_learned(question: str) -> bool:
        """Answers are learned behind the call that brought them."""
        answer = keyed.http.get("/llmgate/api/v1/cache/aliases", headers=admin)
        return question in {row["question"] for row in answer.json()["aliases"]}

    def ask(question: str, **headers: str) -> Mapping[str, str]:
        return client.chat.completions.with_raw_response.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": question}],
            extra_headers={"Helicone-Cache-Enabled": "true", **headers},
        ).headers

    insisting = {"LLMGate-Cache-Mode": "threshold", "LLMGate-Cache-Threshold": "0.8"}
    first = ask("What are your opening hours?")
    wait_until(lambda: is_learned("What are your opening hours?"))
    told = [
        first,
        ask("What are your opening hours, please?"),
        ask("Say, what are your opening hours, please?", **insisting),
    ]

    assert [headers["Helicone-Cache-Hit"] for headers in told] == ["false", "false", "true"]
    assert 'detail="cold"' in told[1]["Cache-Status"]
    assert float(told[1]["LLMGate-Cache-Similarity"]) > 0.8
    assert 'detail="semantic;sim=0.' in told[2]["Cache-Status"]
    assert len(provider.asked) == 2
