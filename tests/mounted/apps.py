"""Applications that hold a gateway, as their authors would write them. Served by `uvicorn`."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

import django
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from asgi_llmgate import LLMGate, Principal, PrincipalKind
from asgi_llmgate.integrations.django import mount
from tests import wire


def who(request: HTTPConnection) -> Principal | None:
    """Stand for the login of the host application."""
    user = request.headers.get("x-user")
    return Principal("shop", PrincipalKind.HOST, user, user_id=user) if user else None


async def who_async(request: HTTPConnection) -> Principal | None:
    return who(request)


@cache
def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.mount("/llm", LLMGate(authenticate=who))

    @app.get("/hello")
    def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


@cache
def wrapped_fastapi_app() -> FastAPI:
    """Behind two middlewares that are known to spoil streams and cancellation."""
    app = FastAPI()
    app.mount("/llm", LLMGate(authenticate=who_async))
    app.add_middleware(GZipMiddleware, minimum_size=1)

    @app.middleware("http")
    async def add_a_header(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers["x-of-the-host"] = "yes"
        return response

    @app.get("/hello")
    def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


def hello_view(_: HttpRequest) -> HttpResponse:
    return HttpResponse('{"hello":"world"}', content_type="application/json")


urlpatterns = [path("hello", hello_view)]


@cache
def django_app() -> ASGIApp:
    if not django_settings.configured:
        django_settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        django.setup()
    application: Any = get_asgi_application()
    return mount(application, "/llm", LLMGate(authenticate=who))


@cache
def model_server() -> FastAPI:
    """A model server that takes `--middleware` by name and adds it, as vLLM does."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        answer = wire.answer_to("/v1/chat/completions", body)
        if isinstance(answer, bytes):
            return JSONResponse(wire.loads(answer))

        async def events() -> AsyncIterator[bytes]:
            for event in answer:
                yield event

        return StreamingResponse(events(), media_type="text/event-stream")

    module_path, name = ["asgi_llmgate.ready", "LoggingMiddleware"]
    imported: Any = getattr(importlib.import_module(module_path), name)
    app.add_middleware(imported)
    return app
