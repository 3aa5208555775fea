"""The surfaces of the gateway as tables: paths, verbs, formats."""

from __future__ import annotations

import re
from typing import NamedTuple

from asgi_llmgate.types import Dialect, Route

__all__ = [
    "AZURE_PREFIX",
    "AZURE_TAILS",
    "BEDROCK_PREFIX",
    "BEDROCK_VERBS",
    "BY_END",
    "BY_FORMAT",
    "CHAT",
    "COHERE_CHAT",
    "COLLECTIONS",
    "EXACT",
    "FORMATS",
    "GEMINI_PREFIXES",
    "GEMINI_VERBS",
    "PROVIDERS_PREFIX",
    "PROVIDER_ID",
    "PROVIDER_METHODS",
    "UNSAFE",
    "VERTEX_VERBS",
    "WORDS",
    "Collection",
]


def _json_route(wire_format: str, path: str) -> Route:
    dialect = Dialect.ANTHROPIC if wire_format.startswith("anthropic-") else Dialect.OPENAI
    return Route(dialect, wire_format, f"/v1{path}", path, True)


# POST, one JSON object that names its model. The first of a format is what `paths=` means by it.
_JSON_ROUTES = (
    _json_route("openai-chat", "/chat/completions"),
    _json_route("openai-responses", "/responses"),
    _json_route("openai-responses", "/responses/compact"),
    # Counting is not generating: formats of their own, which no meter reads.
    _json_route("openai-input-tokens", "/responses/input_tokens"),
    _json_route("openai-embeddings", "/embeddings"),
    _json_route("openai-completions", "/completions"),
    _json_route("openai-images", "/images/generations"),
    _json_route("openai-audio", "/audio/speech"),
    _json_route("openai-moderations", "/moderations"),
    _json_route("openai-rerank", "/rerank"),
    _json_route("anthropic-messages", "/messages"),
    _json_route("anthropic-count-tokens", "/messages/count_tokens"),
)

EXACT: dict[tuple[str, str], Route] = {
    ("POST", prefix + route.path): route for route in _JSON_ROUTES for prefix in ("/v1", "")
}
"""Method and path to route: nearly all traffic is found here, in one look-up."""

CHAT = EXACT["POST", "/chat/completions"]

_ENDS = ("/responses", "/embeddings", "/completions", "/moderations", "/rerank", "/messages")
BY_END: dict[str, Route] = {path[1:]: EXACT["POST", path] for path in _ENDS}
"""Last segment of a path to what it may mean."""

COHERE_CHAT = Route(Dialect.OPENAI, "cohere-v2", "/v2/chat", "/v2/chat", True)
"""Not a surface of the gateway, but metered on `/providers/cohere/*`."""


class Collection(NamedTuple):
    """Paths below one word, whose bodies are relayed unparsed.

    `format` follows the dialect in the name of the format. `only` is the one word that may
    follow; `has_list` says whether the word may stand alone.
    """

    format: str
    methods: frozenset[str]
    has_list: bool = True
    only: str | None = None
    is_anthropic: bool = False


_READ_WRITE = frozenset({"GET", "POST", "DELETE"})

COLLECTIONS: dict[str, Collection] = {
    # Not `openai-responses`: reading an answer again must not count its tokens again.
    "responses": Collection("stored-responses", _READ_WRITE, has_list=False),
    "conversations": Collection("conversations", _READ_WRITE),
    "images": Collection("images", frozenset({"POST"}), has_list=False),
    "audio": Collection("audio", frozenset({"POST"}), has_list=False),
    "files": Collection("files", _READ_WRITE),
    "batches": Collection("batches", frozenset({"GET", "POST"})),
    "messages": Collection("batches", _READ_WRITE, False, only="batches", is_anthropic=True),
}

WORDS = frozenset(
    {"batches", "cancel", "content", "edits", "input_items", "items", "results"}
    | {"transcriptions", "translations", "variations"}
)
"""Segments of those paths that are words of the API; all others are ids."""

GEMINI_PREFIXES = ("/v1beta/models/", "/v1/models/")
GEMINI_VERBS: dict[str, tuple[str, bool]] = {  # Format, and whether the answer is a stream.
    "generateContent": ("gemini", False),
    "streamGenerateContent": ("gemini", True),
    "countTokens": ("gemini-count-tokens", False),
    "embedContent": ("gemini-embeddings", False),
    "batchEmbedContents": ("gemini-embeddings", False),
}
# Claude on Vertex: Anthropic's bodies at Google's paths.
VERTEX_VERBS: dict[str, tuple[str, bool]] = {
    "rawPredict": ("anthropic-messages", False),
    "streamRawPredict": ("anthropic-messages", True),
}

BEDROCK_PREFIX = "/model/"
BEDROCK_VERBS: dict[str, tuple[str, bool]] = {
    "converse": ("bedrock-converse", False),
    "converse-stream": ("bedrock-converse", True),
    "invoke": ("bedrock-invoke", False),
    "invoke-with-response-stream": ("bedrock-invoke", True),
}

AZURE_PREFIX = "/openai/deployments/"
AZURE_TAILS: dict[str, bool] = {  # Whether the body is JSON.
    "/chat/completions": True,
    "/completions": True,
    "/embeddings": True,
    "/images/generations": True,
    "/images/edits": False,
    "/audio/speech": True,
    "/audio/transcriptions": False,
    "/audio/translations": False,
}

PROVIDERS_PREFIX = "/providers/"
PROVIDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PROVIDER_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

# Never legitimate in a path of ours, and read differently by different servers. Hygiene has
# answered 400 by then; this holds where it is not in the stack.
UNSAFE = re.compile(r"//|/\.\.?(?:/|\Z)|[\\\x00-\x1f\x7f]")

# For endpoints of somebody's own: the path there says nothing, so the tables above cannot.
_OTHERS = (
    Route(Dialect.OPENAI, "openai-stored-responses", "", "/responses", False),
    Route(Dialect.OPENAI, "openai-conversations", "", "/conversations", False),
    Route(Dialect.OPENAI, "openai-files", "", "/files", False),
    Route(Dialect.OPENAI, "openai-batches", "", "/batches", False),
    Route(Dialect.OPENAI, "openai-models", "", "/models", False),
    Route(Dialect.ANTHROPIC, "anthropic-batches", "", "/messages/batches", False),
    Route(Dialect.ANTHROPIC, "anthropic-files", "", "/files", False),
    Route(Dialect.ANTHROPIC, "anthropic-models", "", "/models", False),
    Route(Dialect.GEMINI, "gemini-models", "", "/v1beta/models", False),
    COHERE_CHAT,
    # These name the model in the path, so there is no constant one to append.
    Route(Dialect.GEMINI, "gemini", "", "", True),
    Route(Dialect.GEMINI, "gemini-count-tokens", "", "", True),
    Route(Dialect.GEMINI, "gemini-embeddings", "", "", True),
    Route(Dialect.AZURE, "azure-openai-deployments", "", "", True),
    Route(Dialect.BEDROCK, "bedrock-converse", "", "", True),
    Route(Dialect.BEDROCK, "bedrock-invoke", "", "", True),
)

BY_FORMAT: dict[str, Route] = {
    route.format: route for route in (*_OTHERS, *reversed(_JSON_ROUTES)) if route.format is not None
}

FORMATS: frozenset[str] = frozenset(BY_FORMAT)
"""Every format a route can have."""
