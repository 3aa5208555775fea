"""Composable pure-ASGI middlewares that turn a web app into an LLM gateway.

    app.mount("/llm", LLMGate(authenticate=...))     # inside a FastAPI or Starlette app
    uvicorn asgi_llmgate:app                         # standalone

Importing this package does no work: names are loaded, and `app` is built, on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asgi_llmgate._version import __version__

if TYPE_CHECKING:
    from asgi_llmgate.core.policy import RoutePolicy
    from asgi_llmgate.errors import ConfigurationError, GatewayError
    from asgi_llmgate.gateway import LLMGate
    from asgi_llmgate.types import CallRecord, Principal, PrincipalKind

    app: LLMGate

__all__ = [
    "CallRecord",
    "ConfigurationError",
    "GatewayError",
    "LLMGate",
    "Principal",
    "PrincipalKind",
    "RoutePolicy",
    "__version__",
    "app",
]

_HOMES = {
    "CallRecord": "types",
    "ConfigurationError": "errors",
    "GatewayError": "errors",
    "LLMGate": "gateway",
    "Principal": "types",
    "PrincipalKind": "types",
    "RoutePolicy": "core.policy",
}


def __getattr__(name: str) -> Any:
    if name != "app" and name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name == "app":
            from asgi_llmgate.gateway import standalone

            value: Any = standalone()
        else:
            value = getattr(import_module(f"asgi_llmgate.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("asgi_llmgate"):
            raise
        raise ImportError(
            f"asgi_llmgate.{name} needs {error.name}, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[standalone]"`; the middlewares need no extra.'
        ) from None
    globals()[name] = value
    return value
