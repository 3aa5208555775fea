"""What a request asks for, told from method, path and a few headers.

Two readers with two rules. The gateway matches exactly (`match_route`): what is not in the
tables does not exist. A middleware alone inside somebody's app matches ends of paths
(`find_route`), for the app may serve its model below any prefix.

Decisions are made on the decoded path. The path as it was sent (`raw_path`) is only ever copied
from, and only where it decodes to exactly the path that was decided on (rule R1): an encoded
slash inside an id stays encoded on its way to the provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, unquote

from asgi_llmgate.types import Dialect, Route

__all__ = ["FORMATS", "find_route", "match_route", "route_for_format"]

_FIXED: tuple[Route, ...] = (
    Route(Dialect.OPENAI, "openai-chat", "/v1/chat/completions", "/chat/completions", True),
    Route(Dialect.OPENAI, "openai-responses", "/v1/responses", "/responses", True),
    Route(Dialect.OPENAI, "openai-responses", "/v1/responses/compact", "/responses/compact", True),
    Route(
        Dialect.OPENAI,
        "openai-input-tokens",
        "/v1/responses/input_tokens",
        "/responses/input_tokens",
        True,
    ),
    Route(Dialect.OPENAI, "openai-embeddings", "/v1/embeddings", "/embeddings", True),
    Route(Dialect.OPENAI, "openai-completions", "/v1/completions", "/completions", True),
    Route(Dialect.OPENAI, "openai-images", "/v1/images/generations", "/images/generations", True),
    Route(Dialect.OPENAI, "openai-audio", "/v1/audio/speech", "/audio/speech", True),
    Route(Dialect.OPENAI, "openai-moderations", "/v1/moderations", "/moderations", True),
    Route(Dialect.OPENAI, "openai-rerank", "/v1/rerank", "/rerank", True),
    Route(Dialect.ANTHROPIC, "anthropic-messages", "/v1/messages", "/messages", True),
    Route(
        Dialect.ANTHROPIC,
        "anthropic-count-tokens",
        "/v1/messages/count_tokens",
        "/messages/count_tokens",
        True,
    ),
)
"""POST, one JSON object that names its model. All of them also without `/v1`."""

_EXACT: dict[tuple[str, str], Route] = {
    ("POST", prefix + route.path): route for route in _FIXED for prefix in ("/v1", "")
}

# Collections whose bodies are relayed unparsed: first segment below the version, the format,
# and the methods of the provider's own API. Stored responses are not `openai-responses`: reading
# one again must not count its tokens again.
_COLLECTIONS: dict[str, tuple[str, frozenset[str]]] = {
    "responses": ("openai-stored-responses", frozenset({"GET", "POST", "DELETE"})),
    "conversations": ("openai-conversations", frozenset({"GET", "POST", "DELETE"})),
    "images": ("openai-images", frozenset({"POST"})),
    "audio": ("openai-audio", frozenset({"POST"})),
    "files": ("openai-files", frozenset({"GET", "POST", "DELETE"})),
    "batches": ("openai-batches", frozenset({"GET", "POST"})),
    "models": ("openai-models", frozenset({"GET"})),
}
# Segments of those paths that are words of the API; all others are ids, shown as `{id}`.
_WORDS = frozenset(
    {"cancel", "content", "edits", "input_items", "items", "results", "speech"}
    | {"transcriptions", "translations", "variations"}
)

# Gemini verb: format, and whether the answer is a stream. Counting is not generating, so it has
# a format of its own that no meter reads.
_GEMINI_VERBS: dict[str, tuple[str, bool]] = {
    "generateContent": ("gemini", False),
    "streamGenerateContent": ("gemini", True),
    "countTokens": ("gemini-count-tokens", False),
    "embedContent": ("gemini-embeddings", False),
    "batchEmbedContents": ("gemini-embeddings", False),
}
_GEMINI_PREFIXES = ("/v1beta/models/", "/v1/models/")

_BEDROCK_VERBS: dict[str, tuple[str, bool]] = {
    "converse": ("bedrock-converse", False),
    "converse-stream": ("bedrock-converse", True),
    "invoke": ("bedrock-invoke", False),
    "invoke-with-response-stream": ("bedrock-invoke", True),
}

_AZURE_PREFIX = "/openai/deployments/"
_AZURE_TAILS: dict[str, bool] = {  # Whether the body is JSON.
    "/chat/completions": True,
    "/completions": True,
    "/embeddings": True,
    "/images/generations": True,
    "/images/edits": False,
    "/audio/speech": True,
    "/audio/transcriptions": False,
    "/audio/translations": False,
}

_PROVIDERS_PREFIX = "/providers/"
_PROVIDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROVIDER_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

# Never legitimate in a path of ours, and read differently by different servers. Hygiene has
# answered 400 by then; this holds where it is not in the stack.
_UNSAFE = re.compile(r"//|/\.\.?(?:/|\Z)|[\\\x00-\x1f\x7f]")

# For suffix matching: last segment to the routes it may mean.
_BY_LAST: dict[str, Route] = {
    route.path.rpartition("/")[2]: route
    for route in _FIXED
    if route.path in {"/responses", "/embeddings", "/completions", "/moderations", "/rerank"}
    or route.path == "/messages"
}
_CHAT = _EXACT["POST", "/v1/chat/completions"]

_OTHER_FORMATS: dict[str, Route] = {
    "openai-stored-responses": Route(
        Dialect.OPENAI, "openai-stored-responses", "", "/responses", False
    ),
    "openai-conversations": Route(
        Dialect.OPENAI, "openai-conversations", "", "/conversations", False
    ),
    "openai-files": Route(Dialect.OPENAI, "openai-files", "", "/files", False),
    "openai-batches": Route(Dialect.OPENAI, "openai-batches", "", "/batches", False),
    "openai-models": Route(Dialect.OPENAI, "openai-models", "", "/models", False),
    "anthropic-batches": Route(
        Dialect.ANTHROPIC, "anthropic-batches", "", "/messages/batches", False
    ),
    "anthropic-files": Route(Dialect.ANTHROPIC, "anthropic-files", "", "/files", False),
    "anthropic-models": Route(Dialect.ANTHROPIC, "anthropic-models", "", "/models", False),
    "gemini": Route(Dialect.GEMINI, "gemini", "", "", True),
    "gemini-count-tokens": Route(Dialect.GEMINI, "gemini-count-tokens", "", "", True),
    "gemini-embeddings": Route(Dialect.GEMINI, "gemini-embeddings", "", "", True),
    "gemini-models": Route(Dialect.GEMINI, "gemini-models", "", "/v1beta/models", False),
    "azure-openai-deployments": Route(
        Dialect.AZURE, "azure-openai-deployments", "", "/chat/completions", True
    ),
    "bedrock-converse": Route(Dialect.BEDROCK, "bedrock-converse", "", "", True),
    "bedrock-invoke": Route(Dialect.BEDROCK, "bedrock-invoke", "", "", True),
}
_BY_FORMAT: dict[str, Route] = {
    **_OTHER_FORMATS,
    **{route.format: route for route in reversed(_FIXED) if route.format is not None},
}

FORMATS: frozenset[str] = frozenset(_BY_FORMAT)
"""Every format a route can have."""


def match_route(
    method: str, path: str, raw_path: bytes | None, headers: Mapping[bytes, bytes]
) -> Route | None:
    """Return what a request to the gateway asks for, or None if there is no such route.

    Args:
        method: In upper case, as sent; a wrong one on a known path is no route.
        path: Below the mount point, percent-decoded.
        raw_path: As sent, without the query. May begin with the mount point; None if the
            server does not tell, then ids are encoded anew.
        headers: Names in lower case. Only their presence matters here.
    """
    route = _EXACT.get((method, path))
    if route is not None:
        return route
    if _UNSAFE.search(path):
        return None
    if path.startswith(_PROVIDERS_PREFIX):
        return _provider_route(method, path, raw_path, headers)
    return _surface_route(method, path, raw_path, headers)


def find_route(method: str, path: str) -> Route | None:
    """Return what an LLM-shaped request to somebody's app asks for, or None for other traffic.

    Matches the end of the path, below any prefix. `…/chat/completions` is unmistakable; words
    that other applications use too (`messages`, `responses` …) count after `/v1/` only.
    """
    if method != "POST":
        return None
    last = path[path.rfind("/") + 1 :]
    route = _BY_LAST.get(last)
    if route is not None:
        if path.endswith("/chat/completions"):
            return _CHAT
        return route if path.endswith("/v1/" + last) else None
    if ":" in last:
        for prefix in _GEMINI_PREFIXES:
            start = path.find(prefix)
            if start >= 0:
                return _gemini_route(path[start:], None)
    return None


def route_for_format(wire_format: str, path: str) -> Route:
    """Return the route of an endpoint of one's own at `path`, whose bodies are `wire_format`.

    Raises:
        ValueError: there is no such format.
    """
    route = _BY_FORMAT.get(wire_format)
    if route is None:
        known = ", ".join(sorted(FORMATS))
        raise ValueError(f"{wire_format!r} is not a wire format. Known: {known}.")
    return replace(route, name=path)


def _surface_route(
    method: str, path: str, raw_path: bytes | None, headers: Mapping[bytes, bytes]
) -> Route | None:
    if path.startswith(_GEMINI_PREFIXES) and method == "POST":
        return _gemini_route(path, raw_path)
    if path.startswith("/v1beta/"):
        return _models_route(method, path, raw_path, "/v1beta", "gemini-models", Dialect.GEMINI)
    if path.startswith("/model/"):
        return _bedrock_route(method, path, raw_path)
    if path.startswith(_AZURE_PREFIX):
        return _azure_route(method, path, raw_path)
    return _collection_route(method, path, raw_path, headers)


def _gemini_route(path: str, raw_path: bytes | None) -> Route | None:
    """Match `/{version}/models/{model}:{verb}`; the model may hold slashes and colons."""
    head, _, verb = path.rpartition(":")
    known = _GEMINI_VERBS.get(verb)
    prefix = _GEMINI_PREFIXES[0] if path.startswith(_GEMINI_PREFIXES[0]) else _GEMINI_PREFIXES[1]
    model = head[len(prefix) :]
    if known is None or not model:
        return None
    wire_format, is_stream = known
    return Route(
        Dialect.GEMINI,
        wire_format,
        f"{prefix}{{model}}:{verb}",
        # With its version: the caller's replaces the one of the base URL (`core/url.py`).
        _as_sent(path, raw_path, len(prefix)),
        True,
        model=model,
        is_stream=is_stream,
    )


def _bedrock_route(method: str, path: str, raw_path: bytes | None) -> Route | None:
    """Match `/model/{id}/{verb}`; the id may be an ARN with an encoded slash."""
    head, _, verb = path.rpartition("/")
    known = _BEDROCK_VERBS.get(verb)
    model = head[len("/model/") :]
    if known is None or not model or method != "POST":
        return None
    wire_format, is_stream = known
    sent = _as_sent(path, raw_path, len("/model/"))
    name = f"/model/{{id}}/{verb}"
    return Route(Dialect.BEDROCK, wire_format, name, sent, True, model=model, is_stream=is_stream)


def _azure_route(method: str, path: str, raw_path: bytes | None) -> Route | None:
    deployment, slash, rest = path[len(_AZURE_PREFIX) :].partition("/")
    is_json = _AZURE_TAILS.get(slash + rest)
    if is_json is None or not deployment or method != "POST":
        return None
    return Route(
        Dialect.AZURE,
        "azure-openai-deployments",
        f"{_AZURE_PREFIX}{{id}}/{rest}",
        _as_sent(path, raw_path, len(_AZURE_PREFIX)).removeprefix("/openai"),
        is_json,
        model=deployment,
    )


def _collection_route(
    method: str, path: str, raw_path: bytes | None, headers: Mapping[bytes, bytes]
) -> Route | None:
    version = "/v1" if path.startswith("/v1/") else ""
    first, slash, rest = path[len(version) + 1 :].partition("/")
    is_anthropic = b"anthropic-version" in headers
    if first == "messages":
        word = rest.partition("/")[0]
        if word != "batches" or method not in {"GET", "POST", "DELETE"}:
            return None
        return _open_route(path, raw_path, version, "anthropic-batches", Dialect.ANTHROPIC)
    if first == "models":
        if is_anthropic:
            return _models_route(
                method, path, raw_path, version, "anthropic-models", Dialect.ANTHROPIC
            )
        if b"x-goog-api-key" in headers:
            return _models_route(method, path, raw_path, version, "gemini-models", Dialect.GEMINI)
        return _models_route(method, path, raw_path, version, "openai-models", Dialect.OPENAI)
    known = _COLLECTIONS.get(first)
    if known is None or method not in known[1] or (slash and not rest):
        return None
    if not rest and first in {"responses", "images", "audio"}:
        return None  # These have no list of their own.
    if first == "files" and is_anthropic:
        # Else an Anthropic key would be sent to OpenAI.
        return _open_route(path, raw_path, version, "anthropic-files", Dialect.ANTHROPIC)
    return _open_route(path, raw_path, version, known[0], Dialect.OPENAI)


def _models_route(
    method: str,
    path: str,
    raw_path: bytes | None,
    version: str,
    wire_format: str,
    dialect: Dialect,
) -> Route | None:
    """Match the list of models and one of them; ids may hold slashes."""
    rest = path[len(version) :]
    if method != "GET" or not (rest == "/models" or rest.startswith("/models/")):
        return None
    if rest == "/models/":
        return None
    sent = _as_sent(path, raw_path, len(version) + len("/models/"))
    if dialect is not Dialect.GEMINI:
        sent = sent[len(version) :]
    name = f"{version or '/v1'}/models" + ("/{id}" if rest != "/models" else "")
    return Route(dialect, wire_format, name, sent, False, is_stream=False)


def _open_route(
    path: str, raw_path: bytes | None, version: str, wire_format: str, dialect: Dialect
) -> Route:
    """Return the route of a path below a collection, its ids left out of the name."""
    first, *rest = path[len(version) + 1 :].split("/")
    shown = [word if word in _WORDS or word == "batches" else "{id}" for word in rest]
    name = "/".join(["/v1", first, *shown[:3]])
    sent = _as_sent(path, raw_path, len(version) + len(first) + 2)[len(version) :]
    return Route(dialect, wire_format, name, sent, False)


def _provider_route(
    method: str, path: str, raw_path: bytes | None, headers: Mapping[bytes, bytes]
) -> Route | None:
    """Match `/providers/{id}/*`: any path of a provider, its format told from the end."""
    provider, slash, rest = path[len(_PROVIDERS_PREFIX) :].partition("/")
    if not rest or method not in _PROVIDER_METHODS or not _PROVIDER_ID.fullmatch(provider):
        return None
    skipped = len(_PROVIDERS_PREFIX) + len(provider)
    tail = slash + rest
    sent = _as_sent(path, raw_path, skipped)[skipped:]
    known = _EXACT.get((method, tail)) or _surface_route(method, tail, sent.encode(), headers)
    known = known or _by_end(method, tail)
    if known is None:
        dialect = Dialect.OPENAI
        if b"anthropic-version" in headers:
            dialect = Dialect.ANTHROPIC
        elif b"x-goog-api-key" in headers:
            dialect = Dialect.GEMINI
        return Route(dialect, None, "/providers/{id}/*", sent, False, provider=provider.lower())
    return replace(known, name="/providers/{id}" + known.name, path=sent, provider=provider.lower())


def _by_end(method: str, tail: str) -> Route | None:
    if method != "POST":
        return None
    if tail.endswith("/chat/completions"):
        return _CHAT
    return _BY_LAST.get(tail[tail.rfind("/") + 1 :])


def _as_sent(path: str, raw_path: bytes | None, keep: int) -> str:
    """Return `path` with its percent-encoding as sent; the first `keep` characters are fixed."""
    fixed = path[:keep]
    if raw_path is not None:
        raw = raw_path.partition(b"?")[0].decode("latin-1")
        at = 0
        while at >= 0:
            # A mount point may come first, so every slash is a candidate; mostly it is the first.
            if unquote(raw[at:]) == path:
                # Fixed words that were sent encoded are written plain.
                if raw.startswith(fixed, at):
                    return _escaped(raw[at:])
                break
            at = raw.find("/", at + 1)
    return fixed + quote(path[keep:], safe="/:@!$&'()*+,;=~")


def _escaped(sent: str) -> str:
    """Escape what may not stand in a request line, and leave what is escaped already."""
    return quote(sent, safe="/:@!$&'()*+,;=~%", encoding="latin-1")
