"""Transports for SDK users: the gateway in this process, and calls that survive its absence."""

from __future__ import annotations

from asgi_llmgate.client.fail_open import AsyncFailOpenTransport, Direct, FailOpenTransport

__all__ = ["AsyncFailOpenTransport", "Direct", "FailOpenTransport"]
