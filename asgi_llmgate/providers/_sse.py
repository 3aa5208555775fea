"""Events of model providers: JSON payloads in, JSON payloads out.

The name of an event is repeated in its JSON (`type`), so only the data is read.
"""

from __future__ import annotations

from typing import Any

from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.core.sse import Event, EventDecoder

__all__ = ["PayloadDecoder", "data_event", "named_event"]


class PayloadDecoder:
    """Bytes cut anywhere in, decoded JSON objects out. `[DONE]` comes out as None.

    What is no JSON object is skipped: a stream is not ended by one odd line.
    """

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events = EventDecoder()

    def feed(self, chunk: bytes) -> list[dict[str, Any] | None]:
        """Return the payloads completed by `chunk`."""
        return _payloads(self._events.feed(chunk))

    def close(self) -> list[dict[str, Any] | None]:
        """End the stream: a last event without its blank line still counts, some omit it."""
        return _payloads(self._events.close())


def _payloads(events: list[Event]) -> list[dict[str, Any] | None]:
    payloads: list[dict[str, Any] | None] = []
    for event in events:
        data = event.data
        if data.startswith("[DONE]"):
            payloads.append(None)
            continue
        try:
            payload = loads(data)
        except JSONError:
            continue
        if isinstance(payload, dict):
            payloads.append(payload)
    return payloads


def data_event(payload: Any) -> bytes:
    """Return an event without a name, as OpenAI chat and Gemini send them."""
    return b"data: " + dumps(payload) + b"\n\n"


def named_event(payload: dict[str, Any]) -> bytes:
    """Return an event named after the payload's `type`, as Anthropic and Responses send them."""
    name: str = payload["type"]
    return b"event: " + name.encode() + b"\ndata: " + dumps(payload) + b"\n\n"
