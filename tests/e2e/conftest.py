"""What the end-to-end tests share: the calls a test made, as the gateway recorded them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.e2e import speakers
from tests.e2e.keys import ADMIN_TOKEN, GATEWAY_KEY, POOLED_ANTHROPIC_KEY, POOLED_KEY
from tests.provider import Provider
from tests.servers import Gateway, all_at, running_gateway

# What the models cost, in nano-dollars per token: (input, output). Public list prices.
PRICES = {
    "gpt-4o": (2_500, 10_000),
    "claude-sonnet-4-6": (3_000, 15_000),
    "gemini-2.5-flash": (300, 2_500),
    "text-embedding-3-small": (20, 0),
}


def cost_of(model: str, input_tokens: int, output_tokens: int) -> int:
    """Return what a call costs, in nano-dollars."""
    price_in, price_out = PRICES[model]
    return input_tokens * price_in + output_tokens * price_out


class Calls:
    """The records of calls that began after this object was made."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._since = datetime.now(UTC)

    def new(self, count: int, *, timeout_s: float = 5) -> list[dict[str, Any]]:
        """Return exactly `count` records, oldest first, waiting until they are written."""
        deadline = time.monotonic() + timeout_s
        while True:
            records = [
                record
                for record in self.gateway.records()
                if datetime.fromisoformat(record["started_at"]) >= self._since
            ]
            if len(records) >= count or time.monotonic() > deadline:
                assert len(records) == count, records
                return records

    def one(self) -> dict[str, Any]:
        """Return the one record there is."""
        return self.new(1)[0]


def check_record(
    record: dict[str, Any],
    *,
    dialect: str,
    provider: str,
    model: str,
    tokens: tuple[int, int],
    is_stream: bool,
) -> None:
    """Assert that `record` tells a good call exactly; `tokens` are input and output."""
    expected = {
        "dialect": dialect,
        "provider": provider,
        "model": model,
        "model_requested": model,
        "status": 200,
        "error_code": None,
        "is_stream": is_stream,
        "complete": True,
        "client_left": False,
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "usage_estimated": False,
        "cost_nanousd": cost_of(model, *tokens),
        "principal_kind": "byok",
        "cache": None,
    }
    assert {name: record[name] for name in expected} == expected
    assert Decimal(record["cost_usd"]) * 10**9 == record["cost_nanousd"]
    assert 0 < record["first_byte_ms"] <= record["duration_ms"]
    assert record["tenant"].startswith("byok:")
    assert record["request_bytes"] > 0
    assert record["response_bytes"] > 0
    started_at = datetime.fromisoformat(record["started_at"])
    assert timedelta(0) < datetime.now(UTC) - started_at < timedelta(minutes=1)
    [attempt] = record["attempts"]
    assert (attempt["provider"], attempt["status"]) == (provider, 200)


BEARER = {"authorization": "Bearer sk-mine"}
"""A caller's own provider key."""


@pytest.fixture
def http(gateway: Gateway, provider: Provider) -> Iterator[httpx.Client]:
    """A client that sends a key of its own through the gateway to our own provider."""
    with httpx.Client(
        base_url=gateway.url, headers=BEARER, trust_env=False, verify=False, timeout=20
    ) as client:
        yield client


@pytest.fixture
def calls(gateway: Gateway) -> Calls:
    return Calls(gateway)


@pytest.fixture(params=["aimock", "llmock"])
def mocked(request: pytest.FixtureRequest) -> Gateway:
    """A gateway in front of a mock provider that others wrote."""
    gateway: Gateway = request.getfixturevalue(f"{request.param}_gateway")
    return gateway


@pytest.fixture
def mocked_calls(mocked: Gateway) -> Calls:
    return Calls(mocked)


@pytest.fixture(scope="session")
def keyed(provider_server: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a key of its own for its callers, and keys for two of its providers."""
    env = all_at(provider_server.url) | {
        "LLMGATE_KEYS": f"app:{GATEWAY_KEY}",
        "LLMGATE_ADMIN_TOKEN": ADMIN_TOKEN,
        "LLMGATE_PROVIDERS__OPENAI__API_KEY": POOLED_KEY,
        "LLMGATE_PROVIDERS__ANTHROPIC__API_KEY": POOLED_ANTHROPIC_KEY,
    }
    with running_gateway(tmp_path_factory.mktemp("keyed"), env) as gateway:
        yield gateway


@pytest.fixture
def keyed_calls(keyed: Gateway) -> Calls:
    return Calls(keyed)


@pytest.fixture(scope="session")
def matrix(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with one provider of each format."""
    env = speakers.settings(provider_server.url)
    with running_gateway(tmp_path_factory.mktemp("matrix"), env) as gateway:
        yield gateway


@pytest.fixture
def speaking(provider: Provider) -> Provider:
    """Our own provider, speaking whatever format it is asked in."""
    provider.default = speakers.speak
    return provider


@pytest.fixture
def recorded(matrix: Gateway) -> Calls:
    return Calls(matrix)
