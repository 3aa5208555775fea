from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.routes import FORMATS, find_route, match_route, route_for_format
from asgi_llmgate.types import Dialect, Route

ANTHROPIC = {b"anthropic-version": b"2023-06-01"}
GEMINI = {b"x-goog-api-key": b"k"}


def match(
    method: str, path: str, raw: str | None = None, headers: dict[bytes, bytes] | None = None
) -> Route:
    route = match_route(method, path, None if raw is None else raw.encode(), headers or {})
    assert route is not None, f"no route for {method} {path}"
    return route


# method, path, format, appended path, is_json, is_stream, model
SURFACES = [
    ("POST", "/v1/chat/completions", "openai-chat", "/chat/completions", True, None, None),
    ("POST", "/chat/completions", "openai-chat", "/chat/completions", True, None, None),
    ("POST", "/v1/responses", "openai-responses", "/responses", True, None, None),
    ("POST", "/v1/responses/compact", "openai-responses", "/responses/compact", True, None, None),
    (
        "POST",
        "/v1/responses/input_tokens",
        "openai-input-tokens",
        "/responses/input_tokens",
        True,
        None,
        None,
    ),
    ("GET", "/v1/responses/r_1", "openai-stored-responses", "/responses/r_1", False, None, None),
    ("DELETE", "/responses/r_1", "openai-stored-responses", "/responses/r_1", False, None, None),
    (
        "POST",
        "/v1/responses/r_1/cancel",
        "openai-stored-responses",
        "/responses/r_1/cancel",
        False,
        None,
        None,
    ),
    ("POST", "/v1/conversations", "openai-conversations", "/conversations", False, None, None),
    ("POST", "/v1/embeddings", "openai-embeddings", "/embeddings", True, None, None),
    ("POST", "/v1/completions", "openai-completions", "/completions", True, None, None),
    ("POST", "/v1/images/generations", "openai-images", "/images/generations", True, None, None),
    ("POST", "/v1/images/edits", "openai-images", "/images/edits", False, None, None),
    ("POST", "/v1/audio/speech", "openai-audio", "/audio/speech", True, None, None),
    (
        "POST",
        "/v1/audio/transcriptions",
        "openai-audio",
        "/audio/transcriptions",
        False,
        None,
        None,
    ),
    ("POST", "/v1/moderations", "openai-moderations", "/moderations", True, None, None),
    ("POST", "/v1/rerank", "openai-rerank", "/rerank", True, None, None),
    ("GET", "/v1/files", "openai-files", "/files", False, None, None),
    ("POST", "/v1/files", "openai-files", "/files", False, None, None),
    ("GET", "/v1/files/f-1/content", "openai-files", "/files/f-1/content", False, None, None),
    ("POST", "/v1/batches", "openai-batches", "/batches", False, None, None),
    ("POST", "/v1/batches/b/cancel", "openai-batches", "/batches/b/cancel", False, None, None),
    ("GET", "/v1/models", "openai-models", "/models", False, False, None),
    ("GET", "/models/gpt-4o", "openai-models", "/models/gpt-4o", False, False, None),
    ("POST", "/v1/messages", "anthropic-messages", "/messages", True, None, None),
    (
        "POST",
        "/v1/messages/count_tokens",
        "anthropic-count-tokens",
        "/messages/count_tokens",
        True,
        None,
        None,
    ),
    ("POST", "/v1/messages/batches", "anthropic-batches", "/messages/batches", False, None, None),
    (
        "GET",
        "/v1/messages/batches/b/results",
        "anthropic-batches",
        "/messages/batches/b/results",
        False,
        None,
        None,
    ),
    (
        "POST",
        "/v1beta/models/gemini-3:generateContent",
        "gemini",
        "/v1beta/models/gemini-3:generateContent",
        True,
        False,
        "gemini-3",
    ),
    (
        "POST",
        "/v1/models/gemini-3:streamGenerateContent",
        "gemini",
        "/v1/models/gemini-3:streamGenerateContent",
        True,
        True,
        "gemini-3",
    ),
    (
        "POST",
        "/v1/models/google/gemini-3:countTokens",
        "gemini-count-tokens",
        "/v1/models/google/gemini-3:countTokens",
        True,
        False,
        "google/gemini-3",
    ),
    (
        "POST",
        "/v1beta/models/e:batchEmbedContents",
        "gemini-embeddings",
        "/v1beta/models/e:batchEmbedContents",
        True,
        False,
        "e",
    ),
    ("GET", "/v1beta/models", "gemini-models", "/v1beta/models", False, False, None),
    ("GET", "/v1beta/models/g", "gemini-models", "/v1beta/models/g", False, False, None),
    (
        "POST",
        "/openai/deployments/gpt/chat/completions",
        "azure-openai-deployments",
        "/deployments/gpt/chat/completions",
        True,
        None,
        "gpt",
    ),
    (
        "POST",
        "/openai/deployments/w/audio/transcriptions",
        "azure-openai-deployments",
        "/deployments/w/audio/transcriptions",
        False,
        None,
        "w",
    ),
    ("POST", "/model/m/converse", "bedrock-converse", "/model/m/converse", True, False, "m"),
    (
        "POST",
        "/model/m/converse-stream",
        "bedrock-converse",
        "/model/m/converse-stream",
        True,
        True,
        "m",
    ),
    ("POST", "/model/m/invoke", "bedrock-invoke", "/model/m/invoke", True, False, "m"),
    (
        "POST",
        "/model/m/invoke-with-response-stream",
        "bedrock-invoke",
        "/model/m/invoke-with-response-stream",
        True,
        True,
        "m",
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "wire_format", "appended", "is_json", "is_stream", "model"),
    SURFACES,
    ids=[f"{row[0]} {row[1]}" for row in SURFACES],
)
def test_every_surface_is_known_by_method_and_path(
    method: str,
    path: str,
    wire_format: str,
    appended: str,
    is_json: bool,
    is_stream: bool | None,
    model: str | None,
) -> None:
    route = match(method, path)

    assert route.format == wire_format
    assert route.path == appended
    assert (route.is_json, route.is_stream, route.model) == (is_json, is_stream, model)
    assert route.provider is None
    assert wire_format in FORMATS


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("get", "/v1/models"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1"),
        ("POST", "/"),
        ("POST", ""),
        ("PUT", "/v1/files/f"),
        ("DELETE", "/v1/files"),
        ("DELETE", "/v1/models/gpt-4o"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/modelsx"),
        ("GET", "/v1/files/"),
        ("GET", "/v1/responses"),
        ("POST", "/v1/images"),
        ("GET", "/v1/images/i"),
        ("GET", "/v1/messages"),
        ("GET", "/v1/messages/m"),
        ("PATCH", "/v1/messages/batches/b"),
        ("POST", "/v1beta/models/g:predict"),
        ("POST", "/v1beta/models/:generateContent"),
        ("GET", "/v1beta/models/"),
        ("POST", "/v1beta/cachedContents"),
        ("GET", "/model/m/converse"),
        ("POST", "/model/m/delete"),
        ("POST", "/model//converse"),
        ("POST", "/model/converse"),
        ("GET", "/openai/deployments/d/chat/completions"),
        ("POST", "/openai/deployments/d/threads"),
        ("POST", "/openai/deployments/d"),
        ("GET", "/providers/openai"),
        ("GET", "/providers/openai/"),
        ("GET", "/providers//v1/models"),
        ("TRACE", "/providers/openai/v1/models"),
        ("GET", "/providers/open ai/v1/models"),
        ("GET", "/v1/threads"),
    ],
)
def test_what_is_not_in_the_tables_does_not_exist(method: str, path: str) -> None:
    assert match_route(method, path, None, {}) is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1//models",
        "/v1/models/../files",
        "/v1/models/.",
        "/v1/models/a\\b",
        "/v1/models/a\x00",
        "/providers/openai/v1/../../admin",
        "/model/../x/converse",
    ],
)
def test_paths_that_servers_read_differently_are_no_routes(path: str) -> None:
    assert match_route("GET", path, None, {}) is None
    assert match_route("POST", path, None, {}) is None


@pytest.mark.parametrize(
    ("path", "headers", "dialect", "wire_format"),
    [
        ("/v1/models", ANTHROPIC, Dialect.ANTHROPIC, "anthropic-models"),
        ("/v1/models/claude", ANTHROPIC, Dialect.ANTHROPIC, "anthropic-models"),
        ("/v1/models", GEMINI, Dialect.GEMINI, "gemini-models"),
        ("/models", GEMINI, Dialect.GEMINI, "gemini-models"),
        ("/v1/models", ANTHROPIC | GEMINI, Dialect.ANTHROPIC, "anthropic-models"),
        ("/v1/models", {}, Dialect.OPENAI, "openai-models"),
        ("/v1/files", ANTHROPIC, Dialect.ANTHROPIC, "anthropic-files"),
        ("/v1/files", GEMINI, Dialect.OPENAI, "openai-files"),
    ],
)
def test_a_header_tells_whose_api_a_shared_path_is(
    path: str, headers: dict[bytes, bytes], dialect: Dialect, wire_format: str
) -> None:
    route = match("GET", path, headers=headers)

    assert (route.dialect, route.format) == (dialect, wire_format)


def test_a_gemini_list_keeps_the_version_that_was_sent() -> None:
    assert match("GET", "/v1/models", headers=GEMINI).path == "/v1/models"
    assert match("GET", "/v1beta/models").path == "/v1beta/models"


@pytest.mark.parametrize(
    ("method", "path", "raw", "appended"),
    [
        (
            "GET",
            "/v1/models/meta-llama/Llama-3",
            "/v1/models/meta-llama%2FLlama-3",
            "/models/meta-llama%2FLlama-3",
        ),
        (
            "GET",
            "/v1/models/meta-llama/Llama-3",
            "/llm/v1/models/meta-llama%2FLlama-3",
            "/models/meta-llama%2FLlama-3",
        ),
        (
            "GET",
            "/v1/models/meta-llama/Llama-3",
            "/v1/models/meta-llama/Llama-3",
            "/models/meta-llama/Llama-3",
        ),
        (
            "POST",
            "/model/arn:aws:bedrock:us-east-1:1:inference-profile/us.x/converse",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.x/converse",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.x/converse",
        ),
        (
            "POST",
            "/v1beta/models/tuned/a b:generateContent",
            "/v1beta/models/tuned%2Fa%20b%3AgenerateContent",
            "/v1beta/models/tuned%2Fa%20b%3AgenerateContent",
        ),
        ("GET", "/v1/models/a b", None, "/models/a%20b"),
        ("GET", "/v1/models/a?b", "/v1/models/a%3Fb", "/models/a%3Fb"),
        ("GET", "/v1/models/ü", "/v1/models/%C3%BC?limit=1", "/models/%C3%BC"),
        # What does not decode to the path that was decided on is not used.
        ("GET", "/v1/models/a", "/v1/models/b", "/models/a"),
        ("GET", "/v1/models/a", "/llm%2Fv1/models/a", "/models/a"),
        ("GET", "/v1/models/a", "xx/v1/models/a%2", "/models/a"),
        ("GET", "/v1/models/a", "xx%2Fv1%2Fmodels%2Fa", "/models/a"),
        # Words of the table that came encoded are written plain.
        ("GET", "/v1/models/a/b", "/v1/%6Dodels/a%2Fb", "/models/a/b"),
        # Bytes a server lets through, though they may not stand in a request line.
        ("GET", '/v1/models/a"b', '/v1/models/a"b', "/models/a%22b"),
    ],
)
def test_an_id_is_appended_as_it_was_sent(
    method: str, path: str, raw: str | None, appended: str
) -> None:
    assert match(method, path, raw).path == appended


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/a/b", "/v1/models/{id}"),
        ("/files/f-1/content", "/v1/files/{id}/content"),
        ("/v1/responses/r/input_items/i/j/k", "/v1/responses/{id}/input_items/{id}"),
        ("/v1beta/models/g", "/v1beta/models/{id}"),
        ("/providers/openai/v1/models/x", "/providers/{id}/v1/models/{id}"),
        ("/providers/openai/v1/threads/t", "/providers/{id}/*"),
    ],
)
def test_names_hold_no_ids(path: str, name: str) -> None:
    assert match("GET", path).name == name


# path below /providers/x, headers, dialect, format, appended path, is_stream, model
PASSED_THROUGH = [
    ("/v1/chat/completions", {}, Dialect.OPENAI, "openai-chat", "/chat/completions", None, None),
    (
        "/api/paas/v4/chat/completions",
        {},
        Dialect.OPENAI,
        "openai-chat",
        "/api/paas/v4/chat/completions",
        None,
        None,
    ),
    (
        "/beta/completions",
        {},
        Dialect.OPENAI,
        "openai-completions",
        "/beta/completions",
        None,
        None,
    ),
    ("/v1/messages", {}, Dialect.ANTHROPIC, "anthropic-messages", "/messages", None, None),
    ("/v2/chat", {}, Dialect.OPENAI, "cohere-v2", "/v2/chat", None, None),
    (
        "/v1beta/models/g:streamGenerateContent",
        {},
        Dialect.GEMINI,
        "gemini",
        "/v1beta/models/g:streamGenerateContent",
        True,
        "g",
    ),
    (
        "/models/g:generateContent",
        {},
        Dialect.GEMINI,
        "gemini",
        "/models/g:generateContent",
        False,
        "g",
    ),
    (
        "/v1/projects/p/locations/l/publishers/anthropic/models/c:streamRawPredict",
        {},
        Dialect.ANTHROPIC,
        "anthropic-messages",
        "/v1/projects/p/locations/l/publishers/anthropic/models/c:streamRawPredict",
        True,
        "c",
    ),
    ("/model/m/converse", {}, Dialect.BEDROCK, "bedrock-converse", "/model/m/converse", False, "m"),
    (
        "/openai/deployments/d/chat/completions",
        {},
        Dialect.AZURE,
        "azure-openai-deployments",
        "/deployments/d/chat/completions",
        None,
        "d",
    ),
    ("/v1/threads", {}, Dialect.OPENAI, None, "/v1/threads", None, None),
    ("/v1/skills", ANTHROPIC, Dialect.ANTHROPIC, None, "/v1/skills", None, None),
    ("/v1beta/caches", GEMINI, Dialect.GEMINI, None, "/v1beta/caches", None, None),
    ("/v1/models/m:predict", {}, Dialect.OPENAI, None, "/v1/models/m:predict", None, None),
    ("/providers/y/v1/responses", {}, Dialect.OPENAI, "openai-responses", None, None, None),
]


@pytest.mark.parametrize(
    ("tail", "headers", "dialect", "wire_format", "appended", "is_stream", "model"),
    PASSED_THROUGH,
    ids=[row[0] for row in PASSED_THROUGH],
)
def test_the_end_of_a_passed_through_path_tells_its_format(
    tail: str,
    headers: dict[bytes, bytes],
    dialect: Dialect,
    wire_format: str | None,
    appended: str | None,
    is_stream: bool | None,
    model: str | None,
) -> None:
    route = match("POST", "/providers/Some_One" + tail, headers=headers)

    assert (route.dialect, route.format) == (dialect, wire_format)
    assert route.path == (appended or tail)
    assert (route.is_stream, route.model) == (is_stream, model)
    assert route.provider == "some_one"
    assert not route.is_json


def test_a_passed_through_path_keeps_its_encoding() -> None:
    route = match("GET", "/providers/x/v9/a/b c", "/llm/providers/x/v9/a%2Fb%20c")

    assert route.path == "/v9/a%2Fb%20c"


def test_only_posts_of_a_passed_through_path_are_metered() -> None:
    assert match("GET", "/providers/x/api/chat/completions").format is None
    assert match("GET", "/providers/x/api/models/g:generateContent").format is None


@pytest.mark.parametrize(
    ("path", "wire_format"),
    [
        ("/api/v1/chat/completions", "openai-chat"),
        ("/chat/completions", "openai-chat"),
        ("/x/v1/completions", "openai-completions"),
        ("/v1/responses", "openai-responses"),
        ("/v1/embeddings", "openai-embeddings"),
        ("/v1/moderations", "openai-moderations"),
        ("/v1/rerank", "openai-rerank"),
        ("/claude/v1/messages", "anthropic-messages"),
        ("/x/v1beta/models/g:generateContent", "gemini"),
        ("/x/v1/models/a/b:streamGenerateContent", "gemini"),
    ],
)
def test_a_middleware_alone_finds_llm_calls_below_any_prefix(path: str, wire_format: str) -> None:
    route = find_route("POST", path)

    assert route is not None
    assert route.format == wire_format


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/rooms/7/messages"),  # a chat application's own
        ("POST", "/survey/responses"),
        ("POST", "/completions"),
        ("POST", "/v1/models/g:publish"),
        ("POST", "/time/12:30"),
        ("POST", "/v1/files"),
        ("POST", "/"),
        ("POST", ""),
    ],
)
def test_a_middleware_alone_leaves_other_traffic(method: str, path: str) -> None:
    assert find_route(method, path) is None


@pytest.mark.parametrize("wire_format", sorted(FORMATS))
def test_an_endpoint_of_ones_own_may_have_any_format(wire_format: str) -> None:
    route = route_for_format(wire_format, "/api/chat")

    assert (route.format, route.name) == (wire_format, "/api/chat")


def test_the_plain_call_is_what_a_format_means() -> None:
    assert route_for_format("openai-responses", "/x").path == "/responses"


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'openai' is not a wire format.*openai-chat"):
        route_for_format("openai", "/api/chat")


WORDS = (
    "v1 v1beta models providers model openai deployments converse files a:generateContent messages"
    " batches chat completions .. %2F é"
)
segments = st.sampled_from([*WORDS.split(), ""]) | st.text(max_size=6)
paths = st.lists(segments, max_size=7).map(lambda words: "/" + "/".join(words))
methods = st.sampled_from(["GET", "POST", "DELETE", "PATCH", "OPTIONS", "x"])
some_headers = st.sampled_from([{}, ANTHROPIC, GEMINI])


@given(methods, paths, st.none() | st.binary(max_size=60), some_headers)
def test_no_path_breaks_the_matching(
    method: str, path: str, raw: bytes | None, headers: dict[bytes, bytes]
) -> None:
    route = match_route(method, path, raw, headers)
    find_route(method, path)

    if route is not None:
        assert route.path.startswith("/")
        assert route.path.isascii()
        assert route.path.isprintable()
        assert "?" not in route.path


@given(methods, paths, st.sampled_from(["", "/llm", "/a%2Fb"]), st.booleans())
def test_what_is_appended_always_decodes_to_what_was_decided_on(
    method: str, path: str, mount: str, encode_slashes: bool
) -> None:
    raw = mount + quote(path, safe="" if encode_slashes else "/", errors="replace")
    route = match_route(method, unquote(quote(path, errors="replace")), raw.encode(), {})

    if route is not None:
        assert unquote(quote(path, errors="replace")).endswith(unquote(route.path))
