"""What a request asks, as far as the cache is concerned."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.cache_key import Question
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.replay import ARRAY, CACHEABLE, EVENTS, JSON, Wanted
from asgi_llmgate.errors import InvalidRequestError

__all__ = ["Asked", "ask"]

# What an Azure path ends with says what its body is.
_AZURE = {
    "/chat/completions": "openai-chat",
    "/completions": "openai-completions",
    "/embeddings": "openai-embeddings",
}

# Fields with which a call has effects beyond its answer, or takes part in something that changes.
_STATEFUL: dict[str, tuple[str, ...]] = {
    "openai-responses": ("background", "conversation"),
    "anthropic-messages": ("container",),
}

# Of another version, or with other features, a provider answers otherwise.
_VARYING = (b"anthropic-beta", b"anthropic-version", b"openai-beta")


@dataclass(frozen=True, slots=True)
class Asked:
    wire_format: str
    request: dict[str, Any]
    model: str | None
    wanted: Wanted
    endpoint: str
    query: bytes

    def question(
        self,
        context: GatewayContext,
        namespace: str,
        *,
        left_out: Collection[str],
        vary: Sequence[bytes],
        data_versions: tuple[str, ...],
    ) -> Question:
        directives = context.directives
        headers = context.headers
        return Question(
            namespace=namespace,
            dialect=context.route.dialect.value,
            wire_format=self.wire_format,
            endpoint=self.endpoint,
            request=self.request,
            query=self.query,
            body=context.body.data,
            target=(
                directives.provider,
                directives.target_url,
                directives.translation,
                _chain(directives.fallbacks),
            ),
            headers=tuple((name, headers[name]) for name in (*_VARYING, *vary) if name in headers),
            prompt_digest=context.prompt_digest,
            prompt_epoch=context.prompt_epoch,
            seed=directives.cache_seed,
            data_versions=data_versions,
            ignored=directives.cache_ignore_keys,
            left_out=left_out,
        )


def _chain(fallbacks: tuple[Any, ...]) -> str | None:
    """Return a name for a chain, which may ask somebody else first than the body names.

    Its entries may have keys in them, so it is no more than a digest.
    """
    if not fallbacks:
        return None
    return hashlib.sha256(dumps(fallbacks)).hexdigest()


async def ask(context: GatewayContext, scope: Scope) -> Asked | str:
    """Return what is asked, or why it cannot be answered from a cache."""
    route = context.route
    wire_format = route.format or ""
    if wire_format == "azure-openai-deployments":
        ends = (known for end, known in _AZURE.items() if route.path.endswith(end))
        wire_format = next(ends, "")
    if wire_format not in CACHEABLE or scope["method"] != "POST":
        return "route"
    if not route.is_json and not _says_json(context):
        return "route"
    try:
        request = await context.body.json()
    except InvalidRequestError:
        return "unreadable"  # Whoever is inside refuses it, or knows better.
    for name in _STATEFUL.get(wire_format, ()):
        if request.get(name):
            return "stateful"
    query: bytes = scope.get("query_string", b"")
    path: str = scope["path"]
    model = request.get("model", route.model) if route.model is None else route.model
    return Asked(
        wire_format,
        request,
        model if isinstance(model, str) else None,
        _wanted(wire_format, route.is_stream, request, query),
        path.replace(":streamGenerateContent", ":generateContent"),
        query,
    )


def _wanted(
    wire_format: str, is_stream: bool | None, request: dict[str, Any], query: bytes
) -> Wanted:
    if wire_format == "gemini":
        if not is_stream:
            return Wanted(JSON)
        return Wanted(EVENTS if b"alt=sse" in query.split(b"&") else ARRAY)
    if request.get("stream") is not True:
        return Wanted(JSON)
    options = request.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    return Wanted(EVENTS, with_usage and wire_format in ("openai-chat", "openai-completions"))


def _says_json(context: GatewayContext) -> bool:
    return context.headers.get(b"content-type", b"").lower().startswith(b"application/json")
