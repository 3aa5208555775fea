"""The middlewares. Each works alone; together they are a gateway."""

from __future__ import annotations

from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware.auth import AuthMiddleware
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.middleware.fallback import FallbackMiddleware
from asgi_llmgate.middleware.hygiene import HygieneMiddleware
from asgi_llmgate.middleware.invalidate_on import InvalidateOn
from asgi_llmgate.middleware.limits import LimitsMiddleware
from asgi_llmgate.middleware.logging import LoggingMiddleware
from asgi_llmgate.middleware.policy import PolicyMiddleware
from asgi_llmgate.middleware.tagging import TaggingMiddleware

__all__ = [
    "AuthMiddleware",
    "CacheMiddleware",
    "FallbackMiddleware",
    "GatewayMiddleware",
    "HygieneMiddleware",
    "InvalidateOn",
    "LimitsMiddleware",
    "LoggingMiddleware",
    "PolicyMiddleware",
    "TaggingMiddleware",
]
