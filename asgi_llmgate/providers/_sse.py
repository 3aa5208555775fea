"""Server-sent events of model providers: `data:` payloads in, events out.

Only what these streams use: the event's name is repeated in its JSON (`type`), ids and `retry`
do not occur, lines end in LF or CRLF. Comments (`: OPENROUTER PROCESSING`) are skipped.
"""

from __future__ import annotations

from typing import Any

from asgi_llmgate.core.json import JSONError, dumps, loads

__all__ = ["SSEDecoder", "data_event", "named_event"]


class SSEDecoder:
    """Bytes cut anywhere in, decoded JSON payloads out. `[DONE]` comes out as None.

    A payload that is no JSON object is skipped: a stream is not ended by one odd line.
    """

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[dict[str, Any] | None]:
        """Return the payloads completed by `chunk`."""
        lines = (self._rest + chunk if self._rest else chunk).split(b"\n")
        self._rest = lines.pop()
        payloads: list[dict[str, Any] | None] = []
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif not line and self._data:
                self._dispatch(payloads)
        return payloads

    def close(self) -> list[dict[str, Any] | None]:
        """End the stream: a last event without its blank line still counts, some omit it."""
        payloads = self.feed(b"\n\n") if self._rest else []
        if self._data:
            self._dispatch(payloads)
        return payloads

    def _dispatch(self, payloads: list[dict[str, Any] | None]) -> None:
        raw = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data = []
        if raw.strip() == b"[DONE]":
            payloads.append(None)
            return
        try:
            payload = loads(raw)
        except JSONError:
            return
        if isinstance(payload, dict):
            payloads.append(payload)


def data_event(payload: Any) -> bytes:
    """Return an event without a name, as OpenAI chat and Gemini send them."""
    return b"data: " + dumps(payload) + b"\n\n"


def named_event(payload: dict[str, Any]) -> bytes:
    """Return an event named after the payload's `type`, as Anthropic and Responses send them."""
    name: str = payload["type"]
    return b"event: " + name.encode() + b"\ndata: " + dumps(payload) + b"\n\n"
