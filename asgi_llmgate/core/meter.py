"""Count a call by watching its answer go by.

The bytes that are relayed are the bytes that came; a meter looks at them on the way. It knows an
answer's form by its first byte, whatever was asked for: server-sent events, a JSON array (Gemini
without `alt=sse`), one JSON object (a provider that ignores `stream`), or AWS frames.

Nothing a provider sends makes a meter raise: bytes it cannot read are relayed uncounted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from asgi_llmgate.core.answer import answer_bytes, answer_finish
from asgi_llmgate.core.eventstream import EventStreamDecoder, EventStreamError, StreamMessage
from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.json_stream import ArrayDecoder
from asgi_llmgate.core.observe import Seen, observer_for
from asgi_llmgate.core.sse import Event, EventDecoder
from asgi_llmgate.core.usage import read_model, read_usage
from asgi_llmgate.core.withhold import UsageFilter
from asgi_llmgate.types import Usage

__all__ = ["Metered", "StreamForm", "StreamMeter", "meter_json"]

# A JSON answer where a stream was expected is kept this far, then relayed uncounted.
MAX_JSON_BYTES = 32 * 1024 * 1024

# Dialects whose streams say that they are complete, so that one that does not was cut short.
_MARKED = frozenset(
    {
        "openai-chat",
        "openai-completions",
        "openai-responses",
        "anthropic-messages",
        "gemini",
        "bedrock-converse",
        "cohere-v2",
    }
)


StreamForm = Literal["events", "array", "frames", "json"]
"""Server-sent events, a JSON array, AWS frames; or one JSON object, which is no stream."""


class Metered(NamedTuple):
    """What an answer said about itself. A tuple, for one is built on every call.

    Args:
        usage: What the provider counted; None if it did not say.
        model: The model that answered, as the provider names it.
        complete: The dialect's end marker was seen; for JSON, the body is whole.
        failed: The answer is, or a stream carried, an error.
        output_bytes: UTF-8 bytes the model wrote: text, reasoning, tool calls. Of a JSON answer
            only counted where `usage` is None.
        finish_reason: In the dialect's own words.
        error: The provider's message, shortened; for the log, not for the caller.
        is_provisional: `usage` was counted before the end: the input is known, the output is not.
    """

    usage: Usage | None
    model: str | None
    complete: bool
    failed: bool
    output_bytes: int
    finish_reason: str | None
    error: str | None
    is_provisional: bool = False


class StreamMeter:
    """Watch one stream. Feed it every chunk, relay what it returns, then `rest`, then `close`.

    Args:
        wire_format: As in `Route.format`; None or empty goes by the look of the events.
        withhold_usage: The usage event was asked for by the gateway, so the caller must not see
            it. Only for `openai-chat` and its like.
        provider: The provider's id, for those who count differently in the same dialect.
    """

    __slots__ = (
        "_array",
        "_events",
        "_filter",
        "_format",
        "_frames",
        "_json",
        "_observe",
        "_provider",
        "_read",
        "_seen",
    )

    def __init__(
        self,
        wire_format: str | None,
        *,
        withhold_usage: bool = False,
        provider: str | None = None,
    ) -> None:
        self._format = wire_format
        self._provider = provider
        self._observe = observer_for(wire_format)
        self._seen = Seen()
        self._filter = UsageFilter() if withhold_usage else None
        self._read: Callable[[bytes], None] = self._read_first
        self._events = EventDecoder()
        self._array: ArrayDecoder | None = None
        self._frames: EventStreamDecoder | None = None
        self._json: bytearray | None = None

    @property
    def first_content(self) -> bool:
        """An event that carries content was seen, so the answer has begun."""
        return self._seen.first_content

    @property
    def is_cut_short(self) -> bool:
        """The end marker that this dialect has was not seen, nor an error. Ask after the end."""
        seen = self._seen
        if seen.complete or seen.failed or self._json is not None:
            return False
        return seen.expects_end or self._format in _MARKED

    @property
    def form(self) -> StreamForm | None:
        """What the stream is made of, as far as its first byte tells; None before it."""
        if self._frames is not None:
            return "frames"
        if self._array is not None:
            return "array"
        if self._json is not None:
            return "json"
        return None if self._read == self._read_first else "events"

    @property
    def opening(self) -> bytes | None:
        """What must stand before one more event; None where the bytes so far allow none."""
        match self.form:
            case "frames":
                assert self._frames is not None
                return b"" if self._read == self._read_frames and self._frames.close() else None
            case "array":
                assert self._array is not None
                return self._array.opening if self._read == self._read_array else None
            case "json":
                return None
            case _:
                return b"\n\n"  # closes an event of which only a part arrived

    def feed(self, chunk: bytes) -> bytes:
        """Return what to relay: `chunk` itself, unless something is withheld."""
        try:
            self._read(chunk)
        except Exception:  # noqa: BLE001 -- a broken meter may cost the figures, never the call
            self._read = self._pass
        if self._filter is None:
            return chunk
        seen = self._seen
        has_usage, seen.has_usage_event = seen.has_usage_event, False
        return self._filter.feed(chunk, has_usage)

    def rest(self) -> bytes:
        """Return what is held back; to be relayed when the provider's body has ended.

        A last event without its blank line counts from here on: some end with a bare `[DONE]`.
        """
        self._end_events()
        return b"" if self._filter is None else self._filter.rest()

    def close(self) -> Metered:
        """Return what was seen, also of a stream that was left in the middle."""
        self._end_events()
        seen = self._seen
        if self._json is not None:
            return meter_json(self._format, bytes(self._json), self._provider)
        usage = None
        if seen.answer is not None:
            usage = read_usage(self._format, seen.answer, self._provider)
        return Metered(
            usage,
            seen.model,
            seen.complete,
            seen.failed,
            seen.output_bytes,
            seen.finish_reason,
            seen.error,
            seen.has_provisional_usage and usage is not None,
        )

    def _end_events(self) -> None:
        try:
            self._read_events_of(self._events.close())
        except Exception:  # noqa: BLE001 -- as in `feed`
            self._read = self._pass

    def _read_first(self, chunk: bytes) -> None:
        """Choose the reader by the first byte that is not white space."""
        start = chunk.lstrip()[:1]
        if chunk[:1] == b"\0":  # the length of a frame; no text begins so
            self._frames = EventStreamDecoder()
            self._read = self._read_frames
        elif start == b"[":
            self._array = ArrayDecoder()
            self._read = self._read_array
        elif start == b"{":
            self._json = bytearray()
            self._read = self._read_json
        elif start:
            self._read = self._read_events
        else:
            # Blank lines before the first event; the decoder must know of a CR among them.
            self._read_events(chunk)
            return
        if self._read != self._read_events:
            self._filter = None
        self._read(chunk)

    def _read_events(self, chunk: bytes) -> None:
        self._read_events_of(self._events.feed(chunk))

    def _read_events_of(self, events: list[Event]) -> None:
        for data, name, _ in events:
            if data[:1] == "{" or data.lstrip()[:1] == "{":
                self._read_object(data)
            elif data.strip() == "[DONE]":
                # Of the others only OpenRouter sends it, after the real end.
                self._seen.complete = self._seen.complete or self._format not in (
                    "openai-responses",
                    "anthropic-messages",
                    "gemini",
                )
            elif name == "error":
                self._seen.fail(data)

    def _read_object(self, text: str | bytes) -> None:
        try:
            event = loads(text)
        except JSONError:
            return
        if isinstance(event, dict):
            self._observe(self._seen, event)

    def _read_array(self, chunk: bytes) -> None:
        assert self._array is not None
        for text in self._array.feed(chunk):
            self._read_object(text)

    def _read_json(self, chunk: bytes) -> None:
        assert self._json is not None
        self._json += chunk
        if len(self._json) > MAX_JSON_BYTES:
            self._json.clear()
            self._read = self._pass

    def _read_frames(self, chunk: bytes) -> None:
        assert self._frames is not None
        try:
            messages = self._frames.feed(chunk)
        except EventStreamError:
            self._read = self._pass
            return
        for message in messages:
            self._read_frame(message)

    def _read_frame(self, message: StreamMessage) -> None:
        headers = message.headers
        kind = headers.get(":message-type")
        try:
            payload = loads(message.payload)
        except JSONError:
            payload = {}
        if not isinstance(payload, dict):
            payload = {}
        if kind == "exception":
            self._seen.fail(payload.get("message") or headers.get(":exception-type"))
        elif kind == "error":
            self._seen.fail(headers.get(":error-message") or headers.get(":error-code"))
        elif isinstance(inner := payload.get("bytes"), str):
            # `invoke`: the event of the model's own dialect, in base64.
            try:
                self._read_object(base64.b64decode(inner))
            except binascii.Error:
                return
        else:
            self._observe(self._seen, {headers.get(":event-type", ""): payload})

    def _pass(self, chunk: bytes) -> None:
        """Read nothing more."""


def meter_json(wire_format: str | None, body: bytes, provider: str | None = None) -> Metered:
    """Return what a JSON answer says about itself; one that is no JSON is not complete.

    Args:
        wire_format: As in `Route.format`; None or empty goes by the look of the answer.
        body: All of it, not compressed.
        provider: As in `StreamMeter`.
    """
    try:
        answer = loads(body)
    except JSONError:
        return Metered(None, None, False, False, 0, None, None)
    if not isinstance(answer, dict):
        return _meter_array(wire_format, answer if isinstance(answer, list) else [], provider)
    usage = read_usage(wire_format, answer, provider)
    failed, error = False, None
    # Responses answers have `"error": null` where there is none.
    if answer.get("error") or answer.get("type") == "error":
        seen = Seen()
        seen.fail(answer.get("error"))
        failed, error = True, seen.error
    return Metered(
        usage,
        read_model(wire_format, answer),
        True,
        failed,
        answer_bytes(answer) if usage is None else 0,
        answer_finish(answer),
        error,
    )


def _meter_array(wire_format: str | None, answer: list[Any], provider: str | None) -> Metered:
    """Meter Gemini's stream as it arrives where nobody streams: an array of its events."""
    seen = Seen()
    observe = observer_for(wire_format)
    for event in answer:
        if isinstance(event, dict):
            observe(seen, event)
    usage: Usage | None = None
    found: Mapping[str, Any] | None = seen.answer
    if found is not None:
        usage = read_usage(wire_format, found, provider)
    return Metered(
        usage, seen.model, True, seen.failed, seen.output_bytes, seen.finish_reason, seen.error
    )
