"""A provider's embeddings as an embedder, by whatever sends requests to providers here."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from asgi_llmgate.backends.embedders.callable import TIMEOUT_S, CallableEmbedder
from asgi_llmgate.core.json import dumps, loads
from asgi_llmgate.errors import BackendError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

    from asgi_llmgate.core.semantic.alias import Vector

__all__ = ["Post", "UpstreamEmbedder", "post_to"]

Post: TypeAlias = "Callable[[dict[str, Any]], Awaitable[Any]]"
"""Send a body of OpenAI's `/v1/embeddings`, and return the decoded answer."""

# 3,072 numbers as text are 64 kB.
MAX_ANSWER_BYTES = 4 * 1024 * 1024


class UpstreamEmbedder:
    """Embeds with a provider, one text to a request; what fails is not tried again here.

    Args:
        post: Sends the request, with the key of whoever pays for it.
        model: As that wants it named.
        dims: Asked for as `dimensions`; by default the model decides.
        timeout_s: How long a text may take.
        max_waiting: Texts that may be under way; beyond that `embed` fails at once.
    """

    def __init__(
        self,
        post: Post,
        model: str,
        *,
        dims: int | None = None,
        timeout_s: float = TIMEOUT_S,
        max_waiting: int = 64,
    ) -> None:
        self.id = f"upstream:{model}" if dims is None else f"upstream:{model}:{dims}"
        self._post = post
        self._body: dict[str, Any] = {"model": model, "encoding_format": "float"}
        if dims is not None:
            self._body["dimensions"] = dims
        self._inner = CallableEmbedder(
            self._ask, id=self.id, dims=dims, timeout_s=timeout_s, max_waiting=max_waiting
        )

    async def embed(self, text: str, /) -> Vector:
        return await self._inner.embed(text)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _ask(self, text: str) -> Any:
        # Providers refuse an empty text.
        answer = await self._post(self._body | {"input": text or " "})
        try:
            numbers = answer["data"][0]["embedding"]
        except (LookupError, TypeError):
            raise BackendError(f"{self.id}: the answer holds no embedding") from None
        return _decoded(numbers) if isinstance(numbers, str) else numbers


def post_to(
    app: ASGIApp, *, path: str = "/v1/embeddings", headers: Mapping[str, str] | None = None
) -> Post:
    """Return a `Post` that calls an ASGI application in this process.

    Args:
        app: A gateway, or a part of one.
        path: Below its root.
        headers: Also sent: a key, a provider.
    """
    more = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]

    async def post(request: dict[str, Any]) -> Any:
        body = dumps(request)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *more,
            ],
            "client": None,
            "server": None,
            "state": {},
        }
        sent = [{"type": "http.request", "body": body, "more_body": False}]
        answer = _Answer()

        async def receive() -> Message:
            # The body, and then nothing for as long as it takes.
            return sent.pop() if sent else await answer.never()

        await app(scope, receive, answer)
        if answer.status != 200:
            raise BackendError(f"embeddings were answered with status {answer.status}")
        try:
            return loads(bytes(answer.body))
        except ValueError:
            raise BackendError("embeddings were not answered with JSON") from None

    return post


class _Answer:
    """What an application sends."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if len(self.body) > MAX_ANSWER_BYTES:
                raise BackendError("embeddings were answered with too much")

    async def never(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError  # for mypy


def _decoded(text: str) -> Any:
    """Return base64 of float32, little endian, which some providers send whatever is asked for."""
    import numpy as np

    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except (binascii.Error, ValueError):
        raise BackendError("the answer holds no embedding") from None
