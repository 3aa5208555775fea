"""The record of a call that went past the gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.client.endpoints import Direct, stripped_path
from asgi_llmgate.core.estimate import complete_usage
from asgi_llmgate.core.ids import new_id
from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.meter import StreamMeter, meter_json
from asgi_llmgate.core.routes import find_route

__all__ = ["DirectRecord"]

_LABELS = {"user-id": "user_id", "session-id": "session_id", "session-path": "session_path"}


class DirectRecord:
    """Watches one call; `finish` returns what is to be spooled.

    Args:
        keeps_bodies: Off by default: a spool is a file on a machine of somebody's.
    """

    def __init__(
        self,
        direct: Direct,
        method: str,
        relative: str,
        headers: Mapping[bytes, bytes],
        body: bytes,
        *,
        keeps_bodies: bool,
    ) -> None:
        path = stripped_path(relative)
        route = find_route(method, path)
        request = _object(body)
        model = (route.model if route is not None else None) or request.get("model")
        self._format = route.format if route is not None else None
        self._request = request
        self._began_ns = time.perf_counter_ns()
        self._meter: StreamMeter | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._keeps = keeps_bodies
        self._body = body
        now_us = time.time_ns() // 1000
        self.values: dict[str, Any] = {
            "id": new_id(now_us // 1000),
            "path": "direct",
            "started_at_us": now_us,
            "dialect": route.dialect.value if route is not None else None,
            "format": self._format,
            "route": route.name if route is not None else path[:200],
            "provider": direct.provider,
            "model_requested": model if isinstance(model, str) else None,
            "request_bytes": len(body),
            **_labels(headers),
        }

    def begin(self, status: int, content_type: str) -> None:
        self.values["status"] = status
        self.values["first_byte_ms"] = self._elapsed_ms()
        if content_type.startswith("text/event-stream"):
            self._meter = StreamMeter(self._format)

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._meter is not None:
            self._meter.feed(chunk)
        if self._meter is None or self._keeps:
            self._chunks.append(chunk)

    def finish(self, *, is_whole: bool) -> dict[str, Any]:
        values = self.values
        values["duration_ms"] = self._elapsed_ms()
        values["response_bytes"] = self._size
        values["is_stream"] = self._meter is not None
        body = b"".join(self._chunks)
        if self._meter is not None:
            self._meter.rest()
            metered = self._meter.close()
            values["complete"] = is_whole and metered.complete and not metered.failed
        else:
            metered = meter_json(self._format, body)
            values["complete"] = is_whole
        model = metered.model or values["model_requested"]
        values["model"] = model
        if (values.get("status") or 500) < 400:
            usage = complete_usage(metered, self._format, self._request, model)
            if usage is not None:
                values |= {
                    "input_tokens": usage.input_tokens,
                    "output_tokens": usage.output_tokens,
                    "cache_read_tokens": usage.cache_read_tokens,
                    "cache_write_tokens": usage.cache_write_tokens,
                    "reasoning_tokens": usage.reasoning_tokens,
                    "usage_estimated": usage.estimated,
                }
        if self._keeps:
            values["request_body"] = self._body.decode("utf-8", "replace")
            values["response_body"] = body.decode("utf-8", "replace")
        return values

    def _elapsed_ms(self) -> float:
        return (time.perf_counter_ns() - self._began_ns) / 1e6


def _labels(headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    properties: dict[str, str] = {}
    for prefix in (b"helicone-", b"llmgate-"):  # Ours wins.
        for name, value in headers.items():
            if not name.startswith(prefix):
                continue
            rest = name[len(prefix) :].decode("latin-1")
            text = value.decode("latin-1")[:256]
            if rest in _LABELS:
                found[_LABELS[rest]] = text
            elif rest.startswith("property-"):
                properties[rest[9:]] = text
    return {**found, "properties": properties} if properties else found


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = loads(body)
    except JSONError:
        return {}
    return value if isinstance(value, dict) else {}
