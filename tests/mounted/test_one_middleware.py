"""`LoggingMiddleware` alone, around endpoints that people already have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message

from asgi_llmgate.middleware.logging import LoggingMiddleware
from asgi_llmgate.types import CallRecord
from tests import wire
from tests.asgi import call

ASKED = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
}


class Records(list[CallRecord]):
    """A sink that keeps records in a list."""

    dropped = 0

    def write(self, record: CallRecord, /) -> None:
        self.append(record)

    async def flush(self) -> None: ...

    async def aclose(self) -> None: ...


async def events() -> AsyncIterator[bytes]:
    for event in wire.chat_events("gpt-4o", usage=True):
        yield event


def fastapi_app(records: Records) -> ASGIApp:
    app = FastAPI()

    @app.post("/api/chat")
    async def chat(request: Request) -> StreamingResponse:
        assert (await request.json())["model"] == "gpt-4o"
        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/api/other")
    async def other() -> dict[str, str]:
        return {"other": "path"}

    app.add_middleware(LoggingMiddleware, sink=records, paths={"/api/chat": "openai-chat"})
    return app


async def chat_view(request: HttpRequest) -> StreamingHttpResponse:
    assert b"gpt-4o" in request.body
    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def other_view(_: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(events())


urlpatterns = [path("api/chat", chat_view), path("api/other", other_view)]


def django_app(records: Records) -> ASGIApp:
    if not django_settings.configured:
        django_settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        django.setup()
    django_settings.ROOT_URLCONF = __name__
    application: Any = get_asgi_application()
    return LoggingMiddleware(application, sink=records, paths={"/api/chat": "openai-chat"})


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("build", [fastapi_app, django_app])
async def test_a_stream_of_ones_own_endpoint_is_metered_and_not_delayed(
    build: Callable[[Records], ASGIApp], spec_version: str
) -> None:
    records = Records()
    before_the_record: list[Message] = []
    exchange = await call(
        build(records),
        ASKED,
        path="/api/chat",
        spec_version=spec_version,
        on_message=lambda message: before_the_record.append(message) if not records else None,
    )
    [record] = records

    assert exchange.chunks == wire.chat_events("gpt-4o", usage=True)
    assert before_the_record == exchange.messages
    assert (record.input_tokens, record.output_tokens) == (wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
    assert (record.model, record.is_stream, record.complete) == ("gpt-4o", True, True)
    assert (record.route, record.format, record.status) == ("/api/chat", "openai-chat", 200)


@pytest.mark.parametrize("build", [fastapi_app, django_app])
async def test_other_paths_leave_no_record(build: Callable[[Records], ASGIApp]) -> None:
    records = Records()
    exchange = await call(build(records), b"", path="/api/other", method="GET")

    assert exchange.status == 200
    assert records == []
