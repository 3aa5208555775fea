"""Read a request body once; hand it on as often as needed."""

from __future__ import annotations

from typing import Any

from starlette.types import Message, Receive

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.errors import BodyTooLargeError, ClientDisconnectedError, InvalidRequestError

__all__ = ["DEFAULT_MAX_BYTES", "RequestBody"]

# A 128k-token prompt is ~0.5 MB of UTF-8; inline images push that to tens of MB.
DEFAULT_MAX_BYTES = 32 * 1024 * 1024


class RequestBody:
    """The body of one request: read from the server once, kept, replaceable.

    `max_bytes` may be lowered by an outer middleware before anybody reads. `original` is what the
    client sent, whatever `replace` made of it; None before reading and for streamed bodies.
    """

    __slots__ = (
        "_data",
        "_parsed",
        "_receive",
        "_replayed",
        "max_bytes",
        "original",
        "received_bytes",
    )

    def __init__(self, receive: Receive, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._receive = receive
        self._data: bytes | None = None
        self._parsed: dict[str, Any] | None = None
        self._replayed = False
        self.original: bytes | None = None
        self.max_bytes = max_bytes
        self.received_bytes = 0

    @property
    def data(self) -> bytes | None:
        """The body if it was read already; None before, and for bodies that are streamed."""
        return self._data

    @property
    def parsed(self) -> dict[str, Any] | None:
        """The body as a JSON object if somebody has parsed it already."""
        return self._parsed

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            BodyTooLargeError: more than `max_bytes` arrived.
            ClientDisconnectedError: the client left first.
        """
        if self._data is not None:
            return self._data
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            data: bytes = message.get("body", b"")
            self._check(len(data))
        else:
            data = await self._join(message)
        self.received_bytes = len(data)
        self._data = self.original = data
        return data

    async def json(self) -> dict[str, Any]:
        """Return the body as a JSON object; the same dict on every call.

        Raises:
            InvalidRequestError: it is not JSON, or not an object.
        """
        if self._parsed is None:
            try:
                parsed = loads(await self.read())
            except JSONError as error:
                raise InvalidRequestError(
                    f"The request body is not valid JSON: {error}", code="invalid_json"
                ) from None
            if not isinstance(parsed, dict):
                raise InvalidRequestError(
                    "The request body must be a JSON object.", code="invalid_json"
                )
            self._parsed = parsed
        return self._parsed

    def replace(self, data: bytes, parsed: dict[str, Any] | None = None) -> None:
        """Make inner applications see `data` instead of what the client sent."""
        self._data = data
        self._parsed = parsed
        self._replayed = False

    def replay(self, receive: Receive, *, again: bool = False) -> Receive:
        """Return a `receive` that yields the body once, then only what `receive` says.

        Inventing an `http.disconnect` after the body would cancel Starlette's
        StreamingResponse and Django's ASGIHandler, which both listen for one.

        Middlewares hand the same `receive` inwards, so one replay serves all of them: `receive`
        itself is returned if it replays already. `again` makes a new one, for a second call.
        """
        if self._data is None or (self._replayed and not again):
            return receive
        self._replayed = True
        pending: bytes | None = self._data

        async def replayed() -> Message:
            nonlocal pending
            if pending is not None:
                data, pending = pending, None
                return {"type": "http.request", "body": data, "more_body": False}
            while (message := await receive())["type"] == "http.request":
                pass  # An outer replay still holds the body we have just sent.
            return message

        return replayed

    async def _join(self, message: Message) -> bytes:
        received = bytearray()
        while True:
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError
            received += message.get("body", b"")
            self._check(len(received))
            if not message.get("more_body", False):
                return bytes(received)
            message = await self._receive()

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise BodyTooLargeError(f"The request body is larger than {self.max_bytes} bytes.")
