from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.directives import DEFAULT, Directives
from asgi_llmgate.core.registry import HOMES, Provider, Registry
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.core.targets import MAX_TARGETS, Target, resolve_targets
from asgi_llmgate.errors import (
    GatewayError,
    InvalidRequestError,
    TranslationError,
    UnknownProviderError,
)
from asgi_llmgate.providers.reach import REACH
from asgi_llmgate.types import Dialect, Route


def row(name: str, /, *aliases: str, dormant: tuple[str, ...] = (), **endpoints: str) -> Provider:
    """A provider of `endpoints` written as `openai_chat="https://…"`."""
    urls = {wire_format.replace("_", "-"): url for wire_format, url in endpoints.items()}
    off = dict.fromkeys(dormant, "https://{x}/v1")
    return Provider(name, name, endpoints=urls, dormant=off, aliases=aliases)


ROWS = (
    row(
        "openai",
        openai_chat="https://api.openai.com/v1",
        openai_responses="https://api.openai.com/v1",
    ),
    row("anthropic", "claude", anthropic_messages="https://api.anthropic.com/v1"),
    row(
        "google",
        "gemini",
        gemini="https://gl.googleapis.com/v1beta",
        openai_chat="https://gl.googleapis.com/v1beta/openai",
    ),
    row("groq", openai_chat="https://api.groq.com/openai/v1"),
    row("together", "together-ai", openai_chat="https://api.together.xyz/v1"),
    row("openrouter", openai_chat="https://openrouter.ai/api/v1"),
    row("jina", openai_embeddings="https://api.jina.ai/v1"),
    row("azure-openai", "azure", dormant=("azure-openai-deployments", "openai-chat")),
    row("amazon-bedrock", "bedrock", bedrock_converse="https://br.us-east-1.amazonaws.com"),
    row("plan", openai_chat="https://api.twins.ai/api/coding/v4"),
    row("pay", openai_chat="https://api.twins.ai/api/v4"),
    row("mock", openai_chat="http://localhost:9000/v1"),
)
REGISTRY = Registry(
    MappingProxyType({provider.id: provider for provider in ROWS}),
    allowed_hosts=frozenset({"llm.corp.example"}),
    model_aliases={"fast": "groq/llama", "best": "openai/gpt-5, claude/opus"},
)


def route(path: str = "/v1/chat/completions", method: str = "POST") -> Route:
    found = match_route(method, path, None, {})
    assert found is not None
    return found


def resolve(
    model: str | None, path: str = "/v1/chat/completions", *, method: str = "POST", **headers: str
) -> tuple[Target, ...]:
    return resolve_targets(route(path, method), model, Directives(**headers), REGISTRY)  # type: ignore[arg-type]  # all are strings here


def where(targets: tuple[Target, ...]) -> list[tuple[str, str | None]]:
    return [(target.provider.id, target.model) for target in targets]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o", [("openai", "gpt-4o")]),
        ("groq/llama-3", [("groq", "llama-3")]),
        ("Together_AI/meta-llama/Llama-3-70b", [("together", "meta-llama/Llama-3-70b")]),
        ("gpt-4o/openai", [("openai", "gpt-4o")]),
        ("meta-llama/Llama-3-70b/together", [("together", "meta-llama/Llama-3-70b")]),
        ("openrouter/openai/gpt-4o", [("openrouter", "openai/gpt-4o")]),
        ("openai/gpt-oss/groq", [("openai", "gpt-oss/groq")]),  # the first segment wins
        ("meta-llama/Llama-3-70b", [("openai", "meta-llama/Llama-3-70b")]),
        ("openai/", [("openai", "openai/")]),
        ("/openai", [("openai", "/openai")]),
        ("fast", [("groq", "llama")]),
        ("gpt-4o, groq/llama", [("openai", "gpt-4o"), ("groq", "llama")]),
    ],
)
def test_the_model_says_where_a_call_goes(model: str, expected: list[tuple[str, str]]) -> None:
    assert where(resolve(model)) == expected


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("together", "meta-llama/Llama-3", [("together", "meta-llama/Llama-3")]),
        ("openrouter", "openai/gpt-4o", [("openrouter", "openai/gpt-4o")]),
        ("openrouter", "openrouter/auto", [("openrouter", "openrouter/auto")]),
        ("groq", "fast", [("groq", "fast")]),
        ("groq, together", "m", [("groq", "m"), ("together", "m")]),
        (
            "groq,together",
            "a,b",
            [("groq", "a"), ("together", "a"), ("groq", "b"), ("together", "b")],
        ),
    ],
)
def test_the_provider_header_beats_the_model_and_leaves_it_alone(
    provider: str, model: str, expected: list[tuple[str, str]]
) -> None:
    assert where(resolve(model, provider=provider)) == expected


@pytest.mark.parametrize(
    ("method", "path", "model", "provider", "url"),
    [
        ("POST", "/v1/messages", "claude-4", "anthropic", "https://api.anthropic.com/v1/messages"),
        (
            "POST",
            "/v1beta/models/g:generateContent",
            None,
            "google",
            "https://gl.googleapis.com/v1beta/models/g:generateContent",
        ),
        (
            "POST",
            "/v1/models/g:generateContent",
            None,
            "google",
            "https://gl.googleapis.com/v1/models/g:generateContent",
        ),
        (
            "POST",
            "/model/m/converse",
            None,
            "amazon-bedrock",
            "https://br.us-east-1.amazonaws.com/model/m/converse",
        ),
        ("GET", "/v1/models", None, "openai", "https://api.openai.com/v1/models"),
        ("GET", "/v1/files/f/content", None, "openai", "https://api.openai.com/v1/files/f/content"),
    ],
)
def test_what_names_no_provider_goes_to_the_home_of_its_dialect(
    method: str, path: str, model: str | None, provider: str, url: str
) -> None:
    (target,) = resolve(model, path, method=method)

    assert (target.provider.id, target.url()) == (provider, url)


def test_every_dialect_has_a_home() -> None:
    assert set(HOMES) == set(Dialect)


@pytest.mark.parametrize(
    ("path", "model", "url"),
    [
        ("/v1/embeddings", "jina/e5", "https://api.jina.ai/v1/embeddings"),
        ("/v1/embeddings", "groq/e5", "https://api.groq.com/openai/v1/embeddings"),
        ("/v1/rerank", "jina/r", "https://api.jina.ai/v1/rerank"),
        ("/v1/responses/input_tokens", "x", "https://api.openai.com/v1/responses/input_tokens"),
        (
            "/v1/chat/completions",
            "google/g",
            "https://gl.googleapis.com/v1beta/openai/chat/completions",
        ),
    ],
)
def test_smaller_surfaces_ride_on_the_base_url_of_their_family(
    path: str, model: str, url: str
) -> None:
    assert resolve(model, path)[0].url() == url


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/moderations", "/v1/images/generations"])
def test_a_model_is_optional_where_the_provider_has_a_default(path: str) -> None:
    assert where(resolve(None, path)) == [("openai", None)]
    assert where(resolve("", path, provider="openai")) == [("openai", None)]


@pytest.mark.parametrize("model", [None, ""])
def test_a_missing_model_is_told(model: str | None) -> None:
    with pytest.raises(InvalidRequestError, match="names no model") as caught:
        resolve(model)

    assert (caught.value.code, caught.value.param) == ("missing_model", "model")


def test_unparsed_bodies_go_to_the_headers_provider() -> None:
    assert where(resolve(None, "/v1/files", provider="groq")) == [("groq", None)]


@pytest.mark.parametrize(
    ("path", "model", "url"),
    [
        (
            "/v1beta/models/google/tuned/a b:streamGenerateContent",
            "tuned/a b",
            "https://gl.googleapis.com/v1beta/models/tuned%2Fa%20b:streamGenerateContent",
        ),
        (
            "/model/bedrock/us.m-1/invoke",
            "us.m-1",
            "https://br.us-east-1.amazonaws.com/model/us.m-1/invoke",
        ),
        # An ARN is no list of names, whatever its words are.
        (
            "/model/arn:aws:bedrock:::imported-model/groq/converse",
            "arn:aws:bedrock:::imported-model/groq",
            "https://br.us-east-1.amazonaws.com/model/arn:aws:bedrock:::imported-model/groq/converse",
        ),
        # A comma in a path is a character of the model.
        (
            "/v1/models/a,b:countTokens",
            "a,b",
            "https://gl.googleapis.com/v1/models/a,b:countTokens",
        ),
    ],
)
def test_a_provider_is_cut_out_of_a_model_in_the_path(path: str, model: str, url: str) -> None:
    (target,) = resolve("ignored", path)

    assert (target.model, target.url()) == (model, url)


def test_an_alias_may_stand_in_a_path() -> None:
    azure = row("azure-openai", azure_openai_deployments="https://r.openai.azure.com/openai")
    registry = Registry({"azure-openai": azure}, model_aliases={"prod": "azure-openai/gpt-4o-eu"})
    (target,) = resolve_targets(
        route("/openai/deployments/prod/chat/completions"), None, DEFAULT, registry
    )

    assert target.url(b"api-version=1&key=k") == (
        "https://r.openai.azure.com/openai/deployments/gpt-4o-eu/chat/completions?api-version=1"
    )


def test_an_azure_upload_keeps_its_deployment() -> None:
    azure = row("azure-openai", azure_openai_deployments="https://r.openai.azure.com/openai")
    registry = Registry({"azure-openai": azure})
    whisper = route("/openai/deployments/w/audio/transcriptions")
    (target,) = resolve_targets(whisper, None, DEFAULT, registry)

    assert target.model == "w"
    assert target.url().endswith("/openai/deployments/w/audio/transcriptions")


# --- refusals ---


def test_an_unknown_provider_is_named_with_the_near_ones() -> None:
    with pytest.raises(
        UnknownProviderError, match=r"no provider 'grok'\. Did you mean groq"
    ) as one:
        resolve("m", provider="grok")
    with pytest.raises(UnknownProviderError, match=r"no provider 'zzzzzz'\.$"):
        resolve(None, "/providers/zzzzzz/v1/x")

    assert one.value.code == "unknown_provider"


def test_an_unknown_provider_is_quoted_in_bounds() -> None:
    with pytest.raises(UnknownProviderError) as caught:
        resolve("m", provider="é" * 300)

    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 500


def test_a_provider_that_does_not_speak_the_format_is_told_with_what_it_speaks() -> None:
    with pytest.raises(TranslationError, match="speaks anthropic-messages") as caught:
        resolve("anthropic/claude-4")

    assert caught.value.code == "translation_unavailable"


def test_a_provider_without_endpoints_speaks_nothing() -> None:
    silent = Provider("silent", "Silent")
    with pytest.raises(TranslationError, match="speaks no format"):
        resolve_targets(route(), "silent/m", DEFAULT, Registry({"silent": silent}))


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/chat/completions", "azure/gpt-4o"),
        ("/openai/deployments/d/chat/completions", None),
        ("/providers/azure/openai/v1/chat/completions", None),
    ],
)
def test_a_provider_that_is_off_tells_the_operator_what_to_set(
    path: str, model: str | None
) -> None:
    with pytest.raises(
        UnknownProviderError, match="must set LLMGATE_PROVIDERS__AZURE_OPENAI__BASE_URL"
    ):
        resolve(model, path)


@pytest.mark.parametrize("model", ["a,,b", "a,", " , "])
def test_an_empty_place_in_a_list_is_told(model: str) -> None:
    with pytest.raises(InvalidRequestError, match="has an empty place") as caught:
        resolve(model)
    with pytest.raises(InvalidRequestError, match="LLMGate-Provider") as other:
        resolve("m", provider=model)

    assert (caught.value.code, other.value.code) == ("missing_model", "invalid_header")


def test_at_most_eight_fallbacks_are_tried() -> None:
    assert len(resolve(",".join("m" * MAX_TARGETS))) == MAX_TARGETS
    with pytest.raises(InvalidRequestError, match="names 10 targets; at most 9"):
        resolve(",".join("m" * (MAX_TARGETS + 1)))


def test_helicones_exclusions_are_not_taken_for_models() -> None:
    with pytest.raises(TranslationError, match="Excluding a provider"):
        resolve("!openai,gpt-4o/azure")


# --- /providers/{id}/* ---


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/providers/groq/v1/chat/completions", "https://api.groq.com/openai/v1/chat/completions"),
        ("/providers/groq/openai/v1/models", "https://api.groq.com/openai/v1/models"),
        ("/providers/pay/v1/chat/completions", "https://api.twins.ai/api/v4/chat/completions"),
        ("/providers/claude/v1/messages", "https://api.anthropic.com/v1/messages"),
        ("/providers/anthropic/v1/skills", "https://api.anthropic.com/v1/skills"),
        (
            "/providers/google/v1beta/openai/chat/completions",
            "https://gl.googleapis.com/v1beta/openai/chat/completions",
        ),
        ("/providers/google/v1beta/caches", "https://gl.googleapis.com/v1beta/caches"),
        # Nothing is translated here, so nothing is refused: jina may have a chat one day.
        ("/providers/jina/v1/chat/completions", "https://api.jina.ai/v1/chat/completions"),
        ("/providers/mock/v1/x", "http://localhost:9000/v1/x"),
    ],
)
def test_any_path_of_a_provider_is_passed_through(path: str, url: str) -> None:
    (target,) = resolve("groq/untouched", path, provider="together")

    assert target.url() == url
    assert target.model == "groq/untouched"


def test_a_model_in_a_passed_through_path_is_known() -> None:
    (target,) = resolve(None, "/providers/google/v1beta/models/g:generateContent")

    assert (target.model, target.format) == ("g", "gemini")


# --- Target-URL ---


@pytest.mark.parametrize(
    ("target_url", "provider", "url"),
    [
        ("https://api.groq.com", "groq", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://API.GROQ.COM:443/", "groq", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://api.groq.com/openai", "groq", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://api.groq.com/beta/v2", "groq", "https://api.groq.com/beta/v2/chat/completions"),
        ("https://api.twins.ai/api/v4", "pay", "https://api.twins.ai/api/v4/chat/completions"),
        (
            "https://api.twins.ai/api/coding/v4",
            "plan",
            "https://api.twins.ai/api/coding/v4/chat/completions",
        ),
        (
            "https://llm.corp.example",
            "llm.corp.example",
            "https://llm.corp.example/v1/chat/completions",
        ),
        (
            "https://llm.corp.example/team-a/v2/",
            "llm.corp.example",
            "https://llm.corp.example/team-a/v2/chat/completions",
        ),
    ],
)
def test_a_target_url_selects_a_known_host(target_url: str, provider: str, url: str) -> None:
    (target,) = resolve("openai/gpt-4o", target_url=target_url)

    assert (target.provider.id, target.url()) == (provider, url)
    assert target.model == "openai/gpt-4o"


def test_a_host_of_the_allow_list_has_no_keys_and_reads_the_dialects_own_header() -> None:
    (gemini,) = resolve(
        None, "/v1beta/models/g:generateContent", target_url="https://llm.corp.example"
    )
    (claude,) = resolve("c", "/v1/messages", target_url="https://llm.corp.example")

    assert gemini.url() == "https://llm.corp.example/v1beta/models/g:generateContent"
    assert (gemini.provider.auth, gemini.provider.keys) == ("x-goog-api-key", ())
    assert (claude.provider.auth, claude.provider.other_auth) == ("x-api-key", ("bearer",))


def test_a_target_url_works_without_a_model() -> None:
    (target,) = resolve(None, "/v1/models", method="GET", target_url="https://api.groq.com")

    assert target.url() == "https://api.groq.com/openai/v1/models"


MOVED = Registry(
    MappingProxyType(
        {
            "groq": Provider(
                "groq",
                "groq",
                endpoints={"openai-chat": "http://localhost:9000/openai/v1"},
                moved={"openai-chat": "https://api.groq.com/openai/v1"},
            )
        }
    )
)


@pytest.mark.parametrize("path", ["", "/", "/openai", "/openai/v1"])
def test_a_provider_that_was_moved_is_selected_by_its_own_host(path: str) -> None:
    directives = Directives(target_url=f"https://api.groq.com{path}")
    (target,) = resolve_targets(route(), "m", directives, MOVED)

    assert target.provider.id == "groq"
    assert target.url() == "http://localhost:9000/openai/v1/chat/completions"


def test_a_path_that_nobody_said_where_it_went_is_refused() -> None:
    directives = Directives(target_url="https://api.groq.com/openai/v2")
    with pytest.raises(InvalidRequestError, match="leave it out"):
        resolve_targets(route(), "m", directives, MOVED)


def test_a_target_url_must_belong_to_the_named_provider() -> None:
    (target,) = resolve("m", provider="groq", target_url="https://api.groq.com/x/v1")
    with pytest.raises(InvalidRequestError, match="no host of openai") as caught:
        resolve("m", provider="openai", target_url="https://api.groq.com")
    with pytest.raises(InvalidRequestError, match="no host of azure-openai"):
        resolve("m", provider="azure", target_url="https://llm.corp.example")
    with pytest.raises(InvalidRequestError, match="no host of openai"):
        resolve(None, "/providers/openai/v1/x", target_url="https://llm.corp.example")

    assert target.url() == "https://api.groq.com/x/v1/chat/completions"
    assert caught.value.code == "invalid_header"


def test_a_target_url_may_choose_the_base_of_a_passed_through_path() -> None:
    (threads,) = resolve(None, "/providers/openai/threads", target_url="https://api.openai.com/v2")
    (plain,) = resolve(None, "/providers/openai/threads", target_url="https://api.openai.com")

    assert threads.url() == "https://api.openai.com/v2/threads"
    assert plain.url() == "https://api.openai.com/v1/threads"


def test_a_target_url_does_not_change_what_a_provider_speaks() -> None:
    with pytest.raises(TranslationError, match="speaks openai-embeddings"):
        resolve("m", target_url="https://api.jina.ai/v1")


@pytest.mark.parametrize(
    "target_url",
    [
        "http://api.groq.com",
        "//api.groq.com",
        "api.groq.com",
        "https://",
        "https:///v1",
        "https://api.groq.com:8443",
        "https://api.groq.com:x",
        "https://[::1",
        "https://user@api.groq.com",
        "https://api.groq.com@evil.example",
        "https://evil.example\\@api.groq.com",
        "https://api.groq.com/v1?x=1",
        "https://api.groq.com/v1?",
        "https://api.groq.com/v1#x",
        "https://api.groq.com/a/../b",
        "https://api.groq.com/..",
        "https://api.groq.com//evil.example",
        "https://api.groq.com/%2e%2e/x",
        "https://api.groq.com/a b",
        "https://api.groq.com/a\\b",
        "https://api.groq.com/é",
    ],
)
def test_a_target_url_that_could_mean_two_things_is_refused(target_url: str) -> None:
    with pytest.raises(InvalidRequestError, match="LLMGate-Target-URL") as caught:
        resolve("m", target_url=target_url)

    assert caught.value.code == "invalid_header"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "api.groq.com.evil.example",
        "evil-api.groq.com",
        "api.groq.com.",
        "localhost",
        "127.0.0.1",
        "169.254.169.254",
        "xn--api.groq.com",
    ],
)
def test_a_host_that_is_not_known_is_refused(host: str) -> None:
    with pytest.raises(UnknownProviderError, match="no host of a known provider"):
        resolve("m", target_url=f"https://{host}/v1")


HOSTS = REGISTRY.hosts | REGISTRY.allowed_hosts | {"localhost:9000"}
PARTS = "https:// http:// api.groq.com evil.example @ :443 / \\ ? # %2e .. v1 [ ] é"
url_parts = st.sampled_from([*PARTS.split(), "\t"])


@given(
    st.none() | st.lists(url_parts, max_size=6).map("".join),
    st.none() | st.sampled_from(["groq", "openai,groq", "evil.example", ""]),
    st.text(max_size=12)
    | st.sampled_from(["groq/x", "x/groq", "https://evil.example/groq", "a,b"]),
    st.sampled_from(
        [
            "/v1/chat/completions",
            "/v1/embeddings",
            "/providers/groq/v1/x",
            "/v1/models/a:countTokens",
        ]
    ),
)
def test_no_request_leads_to_a_host_that_is_not_known(
    target_url: str | None, provider: str | None, model: str, path: str
) -> None:
    directives = Directives(target_url=target_url or None, provider=provider or None)
    try:
        targets = resolve_targets(route(path), model, directives, REGISTRY)
    except GatewayError:
        return
    for target in targets:
        assert target.url().split("/")[2] in HOSTS


REACHING = Registry(
    MappingProxyType(
        {
            **REGISTRY.providers,
            "both": row(
                "both", openai_chat="https://b.example/v1", anthropic_messages="https://b.example/a"
            ),
            "cohere": row("cohere", cohere_v2="https://api.cohere.com/v2"),
            "off": row("off", dormant=("bedrock-converse",)),
        }
    ),
    reach=REACH,
)


@pytest.mark.parametrize(
    ("path", "model", "wire_format", "base_url"),
    [
        (
            "/v1/chat/completions",
            "anthropic/c",
            "anthropic-messages",
            "https://api.anthropic.com/v1",
        ),
        ("/v1/responses", "groq/llama", "openai-chat", "https://api.groq.com/openai/v1"),
        ("/v1/messages", "openai/gpt", "openai-chat", "https://api.openai.com/v1"),
        ("/v1/messages", "google/gemini-3", "gemini", "https://gl.googleapis.com/v1beta"),
        ("/v1/messages", "bedrock/x", "bedrock-converse", "https://br.us-east-1.amazonaws.com"),
        ("/v1/messages", "cohere/command", "cohere-v2", "https://api.cohere.com/v2"),
        ("/v1/embeddings", "cohere/embed", "cohere-v2", "https://api.cohere.com/v2"),
        (
            "/v1beta/models/openai%2Fgpt:generateContent",
            None,
            "openai-chat",
            "https://api.openai.com/v1",
        ),
        (
            "/v1beta/models/jina%2Fv4:embedContent",
            None,
            "openai-embeddings",
            "https://api.jina.ai/v1",
        ),
    ],
)
def test_a_provider_of_another_format_gets_the_one_native_to_him(
    path: str, model: str | None, wire_format: str, base_url: str
) -> None:
    [target] = resolve_targets(route(path.replace("%2F", "/")), model, DEFAULT, REACHING)

    assert (target.format, target.base_url) == (wire_format, base_url)


def test_the_same_format_in_and_out_is_preferred() -> None:
    [chat] = resolve_targets(route(), "both/m", DEFAULT, REACHING)
    [messages] = resolve_targets(route("/v1/messages"), "both/m", DEFAULT, REACHING)

    assert chat.format == "openai-chat"
    assert messages.format == "anthropic-messages"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/responses/compact", "anthropic/c"),
        ("/v1/chat/completions", "jina/v4"),
        ("/v1/embeddings", "anthropic/c"),
    ],
)
def test_what_no_translator_knows_is_refused(path: str, model: str) -> None:
    with pytest.raises(TranslationError, match="does not speak"):
        resolve_targets(route(path), model, DEFAULT, REACHING)


def test_a_format_within_reach_that_is_off_names_the_setting() -> None:
    with pytest.raises(UnknownProviderError, match="LLMGATE_PROVIDERS__OFF__BASE_URL"):
        resolve_targets(route(), "off/m", DEFAULT, REACHING)
