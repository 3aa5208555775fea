"""Embedders of others: a function, a provider, a vectorizer of RedisVL."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from redisvl.utils.vectorize import BaseVectorizer, CustomVectorizer
from starlette.types import Receive, Scope, Send

from asgi_llmgate.backends.embedders.callable import CallableEmbedder
from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder
from asgi_llmgate.backends.embedders.redisvl import RedisVLEmbedder
from asgi_llmgate.backends.embedders.upstream import UpstreamEmbedder, post_to
from asgi_llmgate.core.json import dumps, loads
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.protocols import Embedder


def numbers(text: str) -> list[float]:
    return [float(len(text)) + 1, 2.0, 0.0, -3.0]


async def numbers_async(text: str) -> list[float]:
    await asyncio.sleep(0)
    return numbers(text)


def answered(text: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"index": 0, "embedding": numbers(text)}]}


async def provider(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that embeds, in two chunks."""
    request = loads((await receive())["body"])
    assert (scope["path"], request["model"]) == ("/v1/embeddings", "m")
    body = dumps(answered(request["input"].strip()))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body[:10], "more_body": True})
    await send({"type": "http.response.body", "body": body[10:]})


MAKERS: dict[str, Callable[[], Embedder]] = {
    "minilm": MiniLMEmbedder,
    "sync": lambda: CallableEmbedder(numbers, id="mine@1"),
    "async": lambda: CallableEmbedder(numbers_async, id="mine@1"),
    "lambda": lambda: CallableEmbedder(lambda text: numbers_async(text), id="mine@1"),
    "upstream": lambda: UpstreamEmbedder(post_to(provider), "m"),
    "redisvl": lambda: RedisVLEmbedder(CustomVectorizer(embed=numbers), id="mine@1"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
async def test_every_embedder_returns_unit_vectors_and_the_same_ones(
    make: Callable[[], Embedder],
) -> None:
    embedder = make()
    for text in ("a question", "", "x" * 5000):
        vector = await embedder.embed(text)
        again = await embedder.embed(text)

        assert vector.dtype == np.float32
        assert vector.ndim == 1
        assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(vector, again)
        assert not vector.flags.writeable
    assert embedder.id
    await embedder.aclose()
    await embedder.aclose()


async def test_a_text_that_was_just_embedded_is_not_asked_for_again() -> None:
    asked = []

    async def call(text: str) -> list[float]:
        asked.append(text)
        return numbers(text)

    embedder = CallableEmbedder(call, id="mine@1")
    for text in ("a", "b", "a", "b", "a"):
        await embedder.embed(text)

    assert asked == ["a", "b"]


async def test_a_function_that_is_not_async_leaves_the_event_loop() -> None:
    threads = set()

    def call(text: str) -> list[float]:
        threads.add(threading.current_thread())
        return numbers(text)

    embedder = CallableEmbedder(call, id="mine@1")
    await asyncio.gather(*(embedder.embed(f"{number}") for number in range(5)))

    assert len(threads) == 1
    assert threading.main_thread() not in threads
    await embedder.aclose()


@pytest.mark.parametrize(
    "found",
    [[], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], ["a"], None, [[1.0, 2.0]], 3.0],
    ids=["empty", "zero", "nan", "inf", "text", "none", "nested", "number"],
)
async def test_what_has_no_direction_is_a_failure(found: Any) -> None:
    embedder = CallableEmbedder(lambda text: found, id="mine@1")

    with pytest.raises(BackendError):
        await embedder.embed("a")
    await embedder.aclose()


async def test_another_length_than_before_is_a_failure() -> None:
    embedder = CallableEmbedder(lambda text: [1.0] * (len(text) + 1), id="mine@1")
    await embedder.embed("a")

    with pytest.raises(BackendError):
        await embedder.embed("abc")
    await embedder.aclose()


async def test_a_failure_says_nothing_of_what_was_asked() -> None:
    def call(text: str) -> list[float]:
        raise RuntimeError(f"sk-secret at host with {text}")

    embedder = CallableEmbedder(call, id="mine@1")
    with pytest.raises(BackendError) as caught:
        await embedder.embed("private")

    assert str(caught.value) == "mine@1: RuntimeError"
    await embedder.aclose()


async def test_what_takes_too_long_is_given_up() -> None:
    async def call(text: str) -> list[float]:
        await asyncio.Event().wait()
        return []

    embedder = CallableEmbedder(call, id="mine@1", timeout_s=0.01)

    with pytest.raises(BackendError, match="TimeoutError"):
        await embedder.embed("a")


async def test_only_so_many_are_under_way() -> None:
    gate = asyncio.Event()

    async def call(text: str) -> list[float]:
        await gate.wait()
        return numbers(text)

    embedder = CallableEmbedder(call, id="mine@1", max_waiting=2)
    tasks = [asyncio.create_task(embedder.embed(f"{number}")) for number in range(5)]
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(one, BackendError) for one in results] == [False] * 2 + [True] * 3


def sends(status: int, body: bytes) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, b'{"error": {"message": "secret"}}'),
        (200, b"no json"),
        (200, b"{}"),
        (200, b'{"data": []}'),
        (200, b'{"data": [{"embedding": "no base64!"}]}'),
        (200, b'{"data": [{"embedding": [1e999]}]}'),
        (200, b"x" * 5_000_000),
    ],
    ids=["429", "text", "empty", "none", "string", "infinite", "huge"],
)
async def test_a_provider_that_fails_is_a_failing_embedder(status: int, body: bytes) -> None:
    embedder = UpstreamEmbedder(post_to(sends(status, body)), "m")

    with pytest.raises(BackendError) as caught:
        await embedder.embed("a")
    assert "secret" not in str(caught.value)


async def test_an_application_that_raises_is_a_failing_embedder() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ConnectionResetError("host")

    with pytest.raises(BackendError, match="ConnectionResetError"):
        await UpstreamEmbedder(post_to(app), "m").embed("a")


async def test_a_provider_is_asked_as_openai_has_it() -> None:
    asked = []

    async def post(body: dict[str, Any]) -> Any:
        asked.append(body)
        raw = np.array([3, 4], dtype="<f4").tobytes()
        return {"data": [{"embedding": base64.b64encode(raw).decode()}]}

    embedder = UpstreamEmbedder(post, "text-embedding-3-small", dims=2)

    assert await embedder.embed("hello") == pytest.approx([0.6, 0.8])
    assert asked == [
        {
            "model": "text-embedding-3-small",
            "input": "hello",
            "encoding_format": "float",
            "dimensions": 2,
        }
    ]
    assert embedder.id == "upstream:text-embedding-3-small:2"


async def test_headers_are_sent_with_it() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])
        await provider(scope, receive, send)

    await UpstreamEmbedder(post_to(app, headers={"LLMGate-Provider": "openai"}), "m").embed("a")

    assert (b"llmgate-provider", b"openai") in seen


class Local(BaseVectorizer):  # type: ignore[misc]  # no types
    """As those of Hugging Face: no async way of its own."""

    def _embed(self, content: Any, **kwargs: Any) -> list[float]:
        assert threading.current_thread() is not threading.main_thread()
        return numbers(content)


class Remote(BaseVectorizer):  # type: ignore[misc]  # no types
    """As that of OpenAI."""

    async def _aembed(self, content: Any, **kwargs: Any) -> list[float]:
        assert threading.current_thread() is threading.main_thread()
        return await numbers_async(content)


@pytest.mark.parametrize("kind", [Local, Remote])
async def test_a_vectorizer_runs_where_it_belongs(
    kind: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    embedder = RedisVLEmbedder(kind(model="some-model", dims=4))

    assert (await embedder.embed("a")).shape == (4,)
    assert embedder.id == "redisvl:base:some-model:4"
    assert caplog.records == []
    await embedder.aclose()


async def test_a_custom_vectorizer_may_be_async() -> None:
    vectorizer = CustomVectorizer(embed=numbers, aembed=numbers_async)
    embedder = RedisVLEmbedder(vectorizer, id="mine@1")

    assert embedder._inner._is_async
    assert (await embedder.embed("a")).shape == (4,)


def test_a_custom_vectorizer_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match=r"HINT: .*id="):
        RedisVLEmbedder(CustomVectorizer(embed=numbers))
