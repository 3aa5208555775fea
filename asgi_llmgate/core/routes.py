"""What a request asks for, told from method, path and a few headers.

Two readers with two rules. The gateway matches exactly (`match_route`): what is not in the
tables does not exist. A middleware alone inside somebody's app matches ends of paths
(`find_route`), for the app may serve its model below any prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from asgi_llmgate.core.route_table import (
    AZURE_PREFIX,
    AZURE_TAILS,
    BEDROCK_PREFIX,
    BEDROCK_VERBS,
    BY_END,
    BY_FORMAT,
    CHAT,
    COHERE_CHAT,
    COLLECTIONS,
    EXACT,
    FORMATS,
    GEMINI_PREFIXES,
    GEMINI_VERBS,
    PROVIDER_ID,
    PROVIDER_METHODS,
    PROVIDERS_PREFIX,
    UNSAFE,
    VERTEX_VERBS,
    WORDS,
)
from asgi_llmgate.core.sent_path import as_sent
from asgi_llmgate.types import Dialect, Route

__all__ = ["FORMATS", "find_route", "match_route", "route_for_format"]


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
    route = EXACT.get((method, path))
    if route is not None:
        return route
    if UNSAFE.search(path):
        return None
    if path.startswith(PROVIDERS_PREFIX):
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
    route = BY_END.get(last)
    if route is not None:
        if path.endswith("/chat/completions"):
            return CHAT
        return route if path.endswith("/v1/" + last) else None
    if ":" in last:
        for prefix in GEMINI_PREFIXES:
            start = path.find(prefix)
            if start >= 0:
                return _gemini_route(path[start:], None, prefix)
    return None


def route_for_format(wire_format: str, path: str) -> Route:
    """Return the route of an endpoint of one's own at `path`, whose bodies are `wire_format`.

    Raises:
        ValueError: there is no such format.
    """
    route = BY_FORMAT.get(wire_format)
    if route is None:
        known = ", ".join(sorted(FORMATS))
        raise ValueError(f"{wire_format!r} is not a wire format. Known: {known}.")
    return replace(route, name=path)


def _surface_route(
    method: str, path: str, raw_path: bytes | None, headers: Mapping[bytes, bytes]
) -> Route | None:
    """Match everything that is not a constant path of the table."""
    for prefix in GEMINI_PREFIXES:
        if path.startswith(prefix) and method == "POST":
            return _gemini_route(path, raw_path, prefix)
    if path.startswith("/v1beta/"):
        return _models_route(method, path, raw_path, "/v1beta", Dialect.GEMINI)
    if path.startswith(BEDROCK_PREFIX):
        return _bedrock_route(method, path, raw_path)
    if path.startswith(AZURE_PREFIX):
        return _azure_route(method, path, raw_path)
    return _collection_route(method, path, raw_path, headers)


def _gemini_route(path: str, raw_path: bytes | None, prefix: str) -> Route | None:
    """Match `/{version}/models/{model}:{verb}`; the model may hold slashes and colons."""
    head, _, verb = path.rpartition(":")
    known = GEMINI_VERBS.get(verb)
    model = head[len(prefix) :]
    if known is None or not model:
        return None
    wire_format, is_stream = known
    # With its version: the caller's replaces the one of the base URL (`core/url.py`).
    sent = as_sent(path, raw_path, len(prefix))
    name = f"{prefix}{{model}}:{verb}"
    return Route(Dialect.GEMINI, wire_format, name, sent, True, model=model, is_stream=is_stream)


def _bedrock_route(method: str, path: str, raw_path: bytes | None) -> Route | None:
    """Match `/model/{id}/{verb}`; the id may be an ARN with an encoded slash."""
    head, _, verb = path.rpartition("/")
    known = BEDROCK_VERBS.get(verb)
    model = head[len(BEDROCK_PREFIX) :]
    if known is None or not model or method != "POST":
        return None
    wire_format, is_stream = known
    sent = as_sent(path, raw_path, len(BEDROCK_PREFIX))
    name = f"{BEDROCK_PREFIX}{{model}}/{verb}"
    return Route(Dialect.BEDROCK, wire_format, name, sent, True, model=model, is_stream=is_stream)


def _azure_route(method: str, path: str, raw_path: bytes | None) -> Route | None:
    """Match `/openai/deployments/{model}/…`; the base URL ends in `/openai`."""
    deployment, slash, rest = path[len(AZURE_PREFIX) :].partition("/")
    is_json = AZURE_TAILS.get(slash + rest)
    if is_json is None or not deployment or method != "POST":
        return None
    sent = as_sent(path, raw_path, len(AZURE_PREFIX)).removeprefix("/openai")
    name = f"{AZURE_PREFIX}{{model}}/{rest}"
    return Route(Dialect.AZURE, "azure-openai-deployments", name, sent, is_json, model=deployment)


def _collection_route(
    method: str, path: str, raw_path: bytes | None, headers: Mapping[bytes, bytes]
) -> Route | None:
    """Match what is relayed unparsed: files, batches, stored answers, uploads of media, models.

    Anthropic and OpenAI share some paths; the header that Anthropic demands tells them apart.
    Sent to the other, the call would take its key along.
    """
    version = "/v1" if path.startswith("/v1/") else ""
    first, slash, rest = path[len(version) + 1 :].partition("/")
    is_anthropic = b"anthropic-version" in headers
    if first == "models":
        dialect = Dialect.OPENAI
        if is_anthropic:
            dialect = Dialect.ANTHROPIC
        elif b"x-goog-api-key" in headers:
            dialect = Dialect.GEMINI
        return _models_route(method, path, raw_path, version, dialect)
    collection = COLLECTIONS.get(first)
    if collection is None or method not in collection.methods or (slash and not rest):
        return None
    below = rest.partition("/")[0]
    if not below and (method == "DELETE" or not collection.has_list):
        return None
    if collection.only is not None and below != collection.only:
        return None
    dialect, wire_format = Dialect.OPENAI, f"openai-{collection.format}"
    if collection.is_anthropic or (first == "files" and is_anthropic):
        dialect, wire_format = Dialect.ANTHROPIC, f"anthropic-{collection.format}"
    name = "/".join(
        ["/v1", first, *(w if w in WORDS else "{id}" for w in rest.split("/")[:3] if w)]
    )
    sent = as_sent(path, raw_path, len(version) + len(first) + 2)[len(version) :]
    return Route(dialect, wire_format, name, sent, False)


def _models_route(
    method: str, path: str, raw_path: bytes | None, version: str, dialect: Dialect
) -> Route | None:
    """Match the list of models and one of them; ids may hold slashes."""
    rest = path[len(version) :]
    if method != "GET" or not (rest == "/models" or rest.startswith("/models/")):
        return None
    if rest == "/models/":
        return None
    sent = as_sent(path, raw_path, len(version) + len("/models/"))
    if dialect is not Dialect.GEMINI:
        sent = sent[len(version) :]
    name = f"{version or '/v1'}/models" + ("/{id}" if rest != "/models" else "")
    return Route(dialect, f"{dialect.value}-models", name, sent, False, is_stream=False)


def _provider_route(
    method: str, path: str, raw_path: bytes | None, headers: Mapping[bytes, bytes]
) -> Route | None:
    """Match `/providers/{id}/*`: any path of a provider, its format told from the end.

    The format is there so that usage is metered; the body is not ours to touch, so `is_json`
    is False whatever it holds.
    """
    provider, slash, rest = path[len(PROVIDERS_PREFIX) :].partition("/")
    if not rest or method not in PROVIDER_METHODS or not PROVIDER_ID.fullmatch(provider):
        return None
    skipped = len(PROVIDERS_PREFIX) + len(provider)
    tail = slash + rest
    sent = as_sent(path, raw_path, skipped)[skipped:]
    known = EXACT.get((method, tail)) or _surface_route(method, tail, sent.encode(), headers)
    if known is None:
        known = _route_by_end(method, tail, headers, sent)
    name = "/providers/{id}" + known.name
    return replace(known, name=name, is_json=False, provider=provider.lower())


def _route_by_end(method: str, tail: str, headers: Mapping[bytes, bytes], sent: str) -> Route:
    """Tell a provider's own path by its last words: `/api/paas/v4/chat/completions`."""
    last = tail[tail.rfind("/") + 1 :]
    if method == "POST" and last in BY_END:
        known = CHAT if tail.endswith("/chat/completions") else BY_END[last]
        return replace(known, name=f"/*{known.path}", path=sent)
    if method == "POST" and tail == COHERE_CHAT.path:
        return COHERE_CHAT
    model, _, verb = last.rpartition(":")
    for dialect, verbs in ((Dialect.GEMINI, GEMINI_VERBS), (Dialect.ANTHROPIC, VERTEX_VERBS)):
        if verb in verbs and model and method == "POST":
            wire_format, is_stream = verbs[verb]
            name = f"/*/{{model}}:{verb}"
            return Route(dialect, wire_format, name, sent, False, model=model, is_stream=is_stream)
    dialect = Dialect.OPENAI
    if b"anthropic-version" in headers:
        dialect = Dialect.ANTHROPIC
    elif b"x-goog-api-key" in headers:
        dialect = Dialect.GEMINI
    return Route(dialect, None, "/*", sent, False)
