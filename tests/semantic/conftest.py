from __future__ import annotations

from tests.cache.conftest import redis_server
from tests.gateway.conftest import log, make_gate

__all__ = ["log", "make_gate", "redis_server"]
