"""The cache in applications of other people: FastAPI, Django, a model server."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import django
import django.test
import pytest
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.dispatch import Signal
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from asgi_llmgate._asgi.dependencies import depends_on
from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.cache import Cache
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.integrations.django import invalidate_on_save
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.middleware.invalidate_on import InvalidateOn
from tests import wire
from tests.asgi import CHAT, Exchange, call
from tests.cache.model import Model

CHAT_PATH = "/v1/chat/completions"
STREAM = {**CHAT, "stream": True}


def answer_about(price: int, request: dict[str, Any]) -> bytes | list[bytes]:
    answer = wire.answer_to(CHAT_PATH, request)
    words = f"{price}.".encode()
    if isinstance(answer, list):
        return [event.replace(b"three.", words) for event in answer]
    return answer.replace(b"three.", words)


def shop(store: MemoryCacheStore) -> FastAPI:
    """A FastAPI application that answers questions about its products."""
    app = FastAPI()
    cache = Cache(lambda: store, lambda: b"s" * 32)
    app.state.prices = {"chair": 10}
    app.state.asked = 0

    @app.post(CHAT_PATH)
    async def chat(request: Request) -> Response:
        depends_on("kb:products")
        app.state.asked += 1
        answer = answer_about(app.state.prices["chair"], await request.json())
        if isinstance(answer, bytes):
            return Response(answer, media_type="application/json")

        async def events() -> AsyncIterator[bytes]:
            for event in answer:
                yield event

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.put("/products/{name}")
    def update(name: str, price: int) -> dict[str, int]:
        if price < 0:
            raise ValueError
        app.state.prices[name] = price
        return app.state.prices  # type: ignore[no-any-return]  # a plain dict

    @app.exception_handler(ValueError)
    async def refuse(_: Request, __: Exception) -> Response:
        return JSONResponse({}, status_code=422)

    app.add_middleware(CacheMiddleware, store=store, namespace="shop")
    rules = {"POST|PUT|PATCH|DELETE /products*": ["kb:products"]}
    app.add_middleware(InvalidateOn, rules=rules, cache=cache)
    return app


def status(exchange: Exchange) -> str | None:
    return exchange.headers.get("llmgate-cache")


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_a_product_update_makes_the_next_question_a_miss(body: dict[str, Any]) -> None:
    app = shop(MemoryCacheStore())
    assert [status(await call(app, body)) for _ in range(2)] == ["MISS", "HIT"]
    refused = await call(app, b"", path="/products/chair", method="PUT", query="price=-1")
    assert refused.status == 422
    assert status(await call(app, body)) == "HIT"

    changed = await call(app, b"", path="/products/chair", method="PUT", query="price=25")
    assert changed.status == 200
    after = await call(app, body)
    assert status(after) == "MISS"
    assert b"25." in after.body
    assert status(await call(app, body)) == "HIT"


@pytest.mark.parametrize(
    "rule",
    [("PUT products", ["t"]), ("PUT", ["t"]), ("PUT /a", []), ("PUT /a", ["t:{id}"])],
    ids=["no slash", "no path", "no tags", "no such name"],
)
def test_a_rule_that_cannot_be_read_stops_the_start(rule: tuple[str, list[str]]) -> None:
    with pytest.raises(ConfigurationError, match="HINT"):
        InvalidateOn(Model(), dict([rule]), cache=Cache(MemoryCacheStore, lambda: b""))


async def test_a_tag_may_name_a_part_of_the_path() -> None:
    told: list[str] = []

    class Notes:
        async def invalidate(self, *tags: str) -> None:
            told.extend(tags)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    watched = InvalidateOn(app, {"PUT|delete /products/{id}": ["product:{id}"]}, cache=Notes())
    await call(watched, b"", path="/Products/7", method="DELETE")
    await call(watched, b"", path="/products/7/parts", method="PUT")
    await call(watched, b"", path="/products/8", method="GET")

    assert told == ["product:7", "product:7"]  # before the answer, and once it was committed


async def test_an_invalidation_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import asyncio

    told: list[str] = []
    done = asyncio.Event()

    class Flaky:
        def __init__(self) -> None:
            self.failures = 3

        async def invalidate(self, *tags: str) -> None:
            if self.failures:
                self.failures -= 1
                raise BackendError("down")
            told.extend(tags)
            done.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr("asgi_llmgate.middleware.invalidate_on.RETRY_S", 0.001)
    watched = InvalidateOn(app, {"PUT /x": ["t"]}, cache=Flaky())
    exchange = await call(watched, b"", path="/x", method="PUT")

    assert exchange.status == 200
    await asyncio.wait_for(done.wait(), 5)
    assert told == ["t"]
    assert "late" in caplog.text


PRICES = {"chair": 10}


def django_chat(request: HttpRequest) -> Any:
    depends_on("kb:products")
    answer = answer_about(PRICES["chair"], json.loads(request.body))
    if isinstance(answer, bytes):
        return JsonResponse(json.loads(answer))
    return StreamingHttpResponse(_each(answer), content_type="text/event-stream")


async def _each(events: list[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event


def django_update(request: HttpRequest) -> JsonResponse:
    PRICES["chair"] = int(request.GET["price"])
    return JsonResponse(PRICES)


urlpatterns = [path("v1/chat/completions", django_chat), path("products/chair", django_update)]


@pytest.fixture
def django_application() -> Any:
    if not django_settings.configured:
        django_settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        django.setup()
    application: Any = get_asgi_application()
    with django.test.override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"]):
        yield application


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_django_views_are_cached_and_outdated(
    django_application: Any, body: dict[str, Any]
) -> None:
    store = MemoryCacheStore()
    cache = Cache(lambda: store, lambda: b"s" * 32)
    rules = {"PUT /products*": ["kb:products"]}
    app = InvalidateOn(
        CacheMiddleware(django_application, store=store, namespace="shop"), rules, cache=cache
    )
    first = await call(app, body)
    assert first.status == 200
    assert status(await call(app, body)) == "HIT"
    PRICES["chair"] = 10
    await call(app, b"", path="/products/chair", method="PUT", query="price=99")
    after = await call(app, body)

    assert status(after) == "MISS"
    assert b"99." in after.body


def test_saving_a_django_object_invalidates_after_the_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from django.db import transaction
    from django.db.models import signals

    committed: list[Callable[[], None]] = []
    monkeypatch.setattr(transaction, "on_commit", lambda act, using=None: committed.append(act))
    save, delete = Signal(use_caching=True), Signal(use_caching=True)
    monkeypatch.setattr(signals, "post_save", save)
    monkeypatch.setattr(signals, "post_delete", delete)

    class Meta:
        label = "shop.Product"
        many_to_many = ()

    class Product:
        _meta = Meta

    store = MemoryCacheStore()
    invalidate_on_save(Cache(lambda: store, lambda: b""), {Product: ["kb:products"]})
    for signal in (save, delete):
        before = store._values_of(["tag:kb:products"])
        signal.send(sender=Product, instance=Product(), using="default")
        assert store._values_of(["tag:kb:products"]) == before  # not before it is committed
        committed.pop()()
        assert store._values_of(["tag:kb:products"]) != before


async def test_a_model_server_loads_it_by_name_with_its_own_key_check_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    app = FastAPI()
    asked: list[str] = []
    good = {"Bearer sk-good", "Bearer sk-other"}

    @app.post(CHAT_PATH)
    async def chat(request: Request) -> Response:
        key = request.headers.get("authorization", "")
        asked.append(key)
        if key not in good:
            return JSONResponse({"error": "no"}, status_code=401)
        return Response(wire.chat_body("gpt-4o"), media_type="application/json")

    # As vLLM does with `--middleware asgi_llmgate.ready.CacheMiddleware`.
    module, _, name = "asgi_llmgate.ready.CacheMiddleware".rpartition(".")
    app.add_middleware(getattr(importlib.import_module(module), name))

    assert [status(await call(app, CHAT, key="sk-good")) for _ in range(2)] == ["MISS", "HIT"]
    assert status(await call(app, CHAT, key="sk-other")) == "MISS"
    assert (await call(app, CHAT, key="sk-wrong")).status == 401
    nobody = await call(app, CHAT)
    assert (nobody.status, status(nobody)) == (401, "BYPASS")
    assert len(asked) == 4
