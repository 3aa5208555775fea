"""Middlewares that take nothing but `app`, for servers that load them by name.

    vllm serve … --middleware asgi_llmgate.ready.LoggingMiddleware

They read `LLMGATE_*`, as the standalone gateway does.
"""

from __future__ import annotations

from starlette.types import ASGIApp

from asgi_llmgate.assemble import journal_of, prices_of
from asgi_llmgate.middleware.logging import LoggingMiddleware as _LoggingMiddleware
from asgi_llmgate.settings import load_settings

__all__ = ["LoggingMiddleware"]


class LoggingMiddleware(_LoggingMiddleware):
    """`LoggingMiddleware` with the journal in `LLMGATE_DATA_DIR`."""

    def __init__(self, app: ASGIApp) -> None:
        settings = load_settings()
        super().__init__(
            app,
            sink=journal_of(settings),
            price=prices_of(settings),
            max_body_bytes=settings.log.body_cap,
        )
