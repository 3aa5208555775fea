"""Middlewares that take nothing but `app`, for servers that load them by name.

    vllm serve … --middleware asgi_llmgate.ready.LoggingMiddleware

They read `LLMGATE_*`, as the standalone gateway does.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

from starlette.types import ASGIApp, Scope

from asgi_llmgate.assemble import (
    cache_policy_of,
    cache_secret_of,
    cache_store_of,
    journal_of,
    prices_of,
)
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.middleware.cache import CacheMiddleware as _CacheMiddleware
from asgi_llmgate.middleware.logging import LoggingMiddleware as _LoggingMiddleware
from asgi_llmgate.semantic_cache import semantic_tier_of
from asgi_llmgate.settings import load_settings

__all__ = ["CacheMiddleware", "LoggingMiddleware"]


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


class CacheMiddleware(_CacheMiddleware):
    """`CacheMiddleware` with the store of the settings, on for every call.

    Who sends the same `Authorization` shares answers; without one there is no caching. The server
    inside checks keys only when it is asked, so a stored answer is given to a key only within 10
    minutes after the server took that very key, and by the worker that saw it.
    """

    def __init__(self, app: ASGIApp) -> None:
        settings = load_settings()
        secret = cache_secret_of(settings)

        def by_authorization(context: GatewayContext, scope: Scope) -> str | None:
            given = context.headers.get(b"authorization")
            if not given:
                return None
            return hmac.new(secret, b"authorization\0" + given, hashlib.sha256).hexdigest()

        super().__init__(
            app,
            store=cache_store_of(settings),
            secret=secret,
            policy=replace(cache_policy_of(settings), is_on=True),
            namespace=by_authorization,
            proves=True,
            # The server inside computes as well, so this one embeds only where that is asked for.
            semantic=None if settings.cache.mode == "auto" else semantic_tier_of(settings),
            price=prices_of(settings),
            max_bytes=settings.cache.max_answer_bytes,
        )
