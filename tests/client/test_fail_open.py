from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from asgi_llmgate.client import AsyncFailOpenTransport, Direct, FailOpenTransport
from asgi_llmgate.client.endpoints import joined
from tests import wire

GATEWAY = "http://gateway-a.test:8790/v1"
OTHER = "http://gateway-b.test:8790/v1"
PROVIDER = Direct("https://api.provider.test/v1", api_key="sk-direct", provider="openai")
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
HEADERS = {
    "Authorization": "Bearer lg_gateway",
    "LLMGate-User-Id": "ada",
    "Helicone-Property-Feature": "search",
    "Helicone-Auth": "Bearer lg_gateway",
    "Cookie": "a=b",
}

Answers = Callable[[Any], Any]


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


class Network:
    """Answers by host; remembers who was asked. An exception among the answers is raised."""

    def __init__(self, library: ModuleType) -> None:
        self.library = library
        self.asked: list[Any] = []
        self.answers: dict[str, Any] = {}

    def __call__(self, request: Any) -> Any:
        self.asked.append(request)
        answer = self.answers.get(request.url.host)
        if isinstance(answer, type):
            raise answer("gone")
        if answer is None:
            content = wire.chat_body("gpt-4o")
            return self.library.Response(
                200, content=content, headers={"content-type": "application/json"}
            )
        status, headers = answer
        return self.library.Response(status, json={"error": {"message": "no"}}, headers=headers)

    @property
    def hosts(self) -> list[str]:
        return [request.url.host for request in self.asked]


@pytest.fixture
def network(library: ModuleType) -> Network:
    return Network(library)


@pytest.fixture
def client_of(library: ModuleType, network: Network) -> Iterator[Callable[..., Any]]:
    clients = []

    def make(**given: Any) -> Any:
        options: dict[str, Any] = {"gateways": [GATEWAY, OTHER], "direct": PROVIDER} | given
        transport = FailOpenTransport(transport=library.MockTransport(network), **options)
        clients.append(library.Client(transport=transport))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def post(client: Any, **headers: str) -> Any:
    return client.post(
        "https://api.openai.com/v1/chat/completions", json=BODY, headers=HEADERS | headers
    )


MARKED = {"llmgate-error": "gateway"}
A, B, P = "gateway-a.test", "gateway-b.test", "api.provider.test"


def test_a_gateway_that_answers_gets_all_calls(
    client_of: Callable[..., Any], network: Network
) -> None:
    assert post(client_of()).status_code == 200
    assert network.hosts == [A]
    assert str(network.asked[0].url) == "http://gateway-a.test:8790/v1/chat/completions"
    assert network.asked[0].headers["llmgate-user-id"] == "ada"
    assert network.asked[0].headers["host"] == "gateway-a.test:8790"


def test_gateways_come_before_the_provider(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ConnectError, B: (503, MARKED)}

    assert post(client_of()).status_code == 200
    assert network.hosts == [A, B, P]


def test_nothing_of_ours_reaches_the_provider(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ConnectError, B: library.ConnectError}

    post(client_of())

    asked = network.asked[-1]
    assert str(asked.url) == "https://api.provider.test/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer sk-direct"
    assert asked.headers["host"] == "api.provider.test"
    names = {name.lower() for name in asked.headers}
    assert not any(name.startswith(("llmgate-", "helicone-")) for name in names)
    assert "cookie" not in names
    assert "lg_gateway" not in str(asked.headers.raw)
    assert json.loads(asked.content) == BODY


def test_a_callers_own_key_goes_along_but_never_a_gateways(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ConnectError, B: library.ConnectError}
    client = client_of(direct=Direct("https://api.provider.test/v1"))

    post(client, Authorization="Bearer sk-own")
    post(client)

    own, none = network.asked[2], network.asked[-1]
    assert own.headers["authorization"] == "Bearer sk-own"
    assert "authorization" not in none.headers


@pytest.mark.parametrize("status", [400, 401, 403, 413, 429, 451])
def test_a_denial_is_final(client_of: Callable[..., Any], network: Network, status: int) -> None:
    network.answers = {A: (status, MARKED)}

    assert post(client_of()).status_code == status
    assert network.hosts == [A]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
def test_what_the_provider_says_through_the_gateway_is_an_answer(
    client_of: Callable[..., Any], network: Network, status: int
) -> None:
    network.answers = {A: (status, {})}
    client = client_of()

    for _ in range(10):
        assert post(client).status_code == status
    assert set(network.hosts) == {A}


def test_without_a_provider_nothing_goes_past_the_gateways(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ConnectError, B: (503, MARKED)}

    assert post(client_of(direct=None)).status_code == 503
    assert network.hosts == [A, B]


def test_a_guarded_route_never_goes_direct(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ConnectError, B: library.ConnectError}
    client = client_of(guarded=lambda path: path.endswith("/chat/completions"))

    for _ in range(3):
        with pytest.raises(library.ConnectError):
            post(client)
    assert P not in network.hosts


def test_what_a_gateway_marks_as_guarded_is_remembered(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: (200, {"llmgate-guarded": "true"})}
    client = client_of(gateways=[GATEWAY])
    post(client)
    network.answers = {A: library.ConnectError}

    with pytest.raises(library.ConnectError):
        post(client)
    assert network.hosts == [A, A]


def test_a_dead_gateway_is_left_alone_until_its_probe(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ConnectTimeout}
    client = client_of()
    now_s = [100.0]
    client._transport.endpoints._clock = lambda: now_s[0]
    for _ in range(5):
        post(client)
    assert network.hosts == [A, B, B, B, B, B]

    network.answers = {}
    now_s[0] += 10
    post(client)
    post(client)

    assert network.hosts[6:] == [A, A]


def test_a_slow_answer_alone_does_not_close_a_gateway(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ReadTimeout}
    client = client_of()
    for _ in range(4):
        post(client)

    assert network.hosts == [A, B, A, B, A, B, B]


def test_direct_calls_are_spooled_without_bodies(
    client_of: Callable[..., Any], network: Network, library: ModuleType, tmp_path: Path
) -> None:
    network.answers = {A: library.ConnectError, B: library.ConnectError}
    folder = tmp_path / "spool"

    post(client_of(spool=folder))

    [line] = (folder / "spool.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["path"] == "direct"
    assert (record["user_id"], record["properties"]) == ("ada", {"feature": "search"})
    assert (record["status"], record["model"], record["provider"]) == (200, "gpt-4o", "openai")
    assert (record["input_tokens"], record["output_tokens"]) == (
        wire.INPUT_TOKENS,
        wire.OUTPUT_TOKENS,
    )
    assert "request_body" not in record
    assert "sk-direct" not in line
    assert "lg_gateway" not in line
    assert stat.S_IMODE((folder / "spool.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_spool_is_bounded(
    client_of: Callable[..., Any], network: Network, library: ModuleType, tmp_path: Path
) -> None:
    network.answers = {A: library.ConnectError, B: library.ConnectError}
    client = client_of(spool=tmp_path)
    spool = client._transport.spool
    spool.max_bytes = 2000
    for _ in range(20):
        assert post(client).status_code == 200

    assert spool.path.stat().st_size <= 2000
    assert 0 < spool.dropped < 20


def test_aliases_of_the_gateway_have_names_at_the_provider(
    client_of: Callable[..., Any], network: Network, library: ModuleType
) -> None:
    network.answers = {A: library.ConnectError, B: library.ConnectError}
    direct = Direct("https://api.provider.test/v1", "sk", models={"gpt-4o": "gpt-4.1"})

    post(client_of(direct=direct))

    assert json.loads(network.asked[-1].content)["model"] == "gpt-4.1"


async def test_the_async_twin_does_the_same(
    library: ModuleType, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.answers = {A: library.ConnectError, B: (502, MARKED)}
    transport = AsyncFailOpenTransport(
        gateways=[GATEWAY, OTHER],
        direct=PROVIDER,
        spool=tmp_path,
        transport=library.MockTransport(network),
    )
    assert transport.spool is not None
    handed_in: list[str] = []
    monkeypatch.setattr(transport.spool, "deliver_soon", lambda url, _: handed_in.append(url))
    async with library.AsyncClient(transport=transport) as client:
        answer = await client.post(
            "https://api.openai.com/v1/chat/completions", json=BODY, headers=HEADERS
        )
        denied_network = network.answers = {A: (403, MARKED)}
        transport.endpoints.gateways[0].breaker.hear(is_open=False, until_s=0)
        denied = await client.post(
            "https://api.openai.com/v1/chat/completions", json=BODY, headers=HEADERS
        )

    assert denied_network
    assert answer.status_code == 200
    assert denied.status_code == 403
    assert network.hosts == [A, B, P, A]
    assert len(transport.spool.waiting()) == 1
    assert handed_in == [GATEWAY]  # The second answer shows that a gateway is there.


@pytest.mark.parametrize(
    ("base_url", "relative", "url"),
    [
        ("http://a/v1", "/v1/chat/completions", "http://a/v1/chat/completions"),
        ("http://a/v1", "/chat/completions", "http://a/v1/chat/completions"),
        ("http://a", "/v1/messages", "http://a/v1/messages"),
        ("http://a/llm", "/v1beta/models/g:x", "http://a/llm/v1beta/models/g:x"),
    ],
)
def test_a_version_stands_once(base_url: str, relative: str, url: str) -> None:
    assert joined(base_url, relative) == url
