from __future__ import annotations

import re
from collections import Counter
from urllib.parse import urlsplit

import pytest

from asgi_llmgate.core.directives import DEFAULT
from asgi_llmgate.core.registry import HOMES, Provider, ProviderKey, Registry, normalised
from asgi_llmgate.core.routes import FORMATS, match_route
from asgi_llmgate.core.targets import resolve_targets
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.providers.base_urls import needs_operator, rebased
from asgi_llmgate.providers.registry import ProviderOverride, load_registry
from asgi_llmgate.types import Secret

ROWS = tuple(load_registry().providers.values())


def endpoints(row: Provider) -> dict[str, str]:
    return {**row.endpoints, **row.dormant}


# --- the rows ---


def test_all_providers_are_there() -> None:
    assert len(ROWS) == 230
    assert {row.kind for row in ROWS} == {"cloud", "aggregator", "local"}


def test_every_row_is_whole() -> None:
    for row in ROWS:
        assert re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", row.id)
        assert row.name, row.id
        assert endpoints(row), row.id
        assert row.confidence in {"high", "single", "disputed"}, row.id
        assert row.variant in {None, "subscription-plan"}, row.id
        assert row.keys == ()


def test_only_variables_that_hold_a_key_are_taken_for_one() -> None:
    named_like_keys = re.compile(r".*(?:KEY|TOKEN|PAT|JWT|TOKEN_BEDROCK)")
    for row in ROWS:
        assert not set(row.key_variables) & set(row.other_variables), row.id
        assert all(map(named_like_keys.fullmatch, row.key_variables)), row.id
        assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(row.key_variables)


def test_every_base_url_can_be_appended_to() -> None:
    for row in ROWS:
        for url in endpoints(row).values():
            parts = urlsplit(url.replace("{", "").replace("}", ""))
            assert parts.scheme == "https" or needs_operator(url), url
            assert parts.hostname, url
            assert not parts.query, url
            assert not parts.fragment, url
            assert not url.endswith(("/", "/completions", "/messages", "/responses")), url


def test_only_rows_that_mean_something_by_themselves_are_on() -> None:
    for row in ROWS:
        assert not any(needs_operator(url) for url in row.endpoints.values()), row.id
        assert all(needs_operator(url) for url in row.dormant.values()), row.id
        if row.kind == "local":
            assert not row.endpoints, row.id
            assert row.key_optional, row.id


def test_every_row_is_found_by_all_of_its_names() -> None:
    registry = load_registry()

    for row in ROWS:
        for name in (row.id, *row.aliases, row.id.upper(), row.id.replace("-", "_")):
            assert registry.get(name) is row, name


def test_no_two_providers_share_a_name() -> None:
    names = Counter(name for row in ROWS for name in (row.id, *row.aliases))

    assert [name for name, times in names.items() if times > 1] == []
    assert all(name == normalised(name) for name in names)


@pytest.mark.parametrize(
    ("alias", "provider"),
    [
        ("azure", "azure-openai"),
        ("azure_ai", "azure-ai"),
        ("bedrock", "amazon-bedrock"),
        ("gemini", "google"),
        ("google-ai-studio", "google"),
        ("vertex", "google-vertex"),
        ("vertex_ai", "google-vertex"),
        ("together", "together"),
        ("together_ai", "together"),
        ("fireworks_ai", "fireworks"),
        ("grok", "xai"),
        ("x-ai", "xai"),
        ("claude", "anthropic"),
        ("kimi", "moonshot"),
        ("qwen", "alibaba"),
        ("dashscope", "alibaba"),
        ("mistralai", "mistral"),
        ("hosted_vllm", "vllm"),
        ("lm_studio", "lmstudio"),
        ("wafer.ai", "wafer-ai"),
        ("docker_model_runner", "docker-model-runner"),
    ],
)
def test_the_names_people_use_are_known(alias: str, provider: str) -> None:
    row = load_registry().get(alias)

    assert row is not None
    assert row.id == provider


def test_every_home_has_a_row() -> None:
    assert set(HOMES.values()) <= set(load_registry().providers)


@pytest.mark.parametrize(
    ("provider", "is_asked"),
    [
        ("openai", True),
        ("openrouter", True),
        ("vllm", True),
        ("mistral", False),
        ("databricks", False),
        ("perplexity", False),
    ],
)
def test_usage_is_asked_for_only_where_that_is_known_to_work(provider: str, is_asked: bool) -> None:
    assert load_registry().providers[provider].stream_usage is is_asked


def test_facts_beside_the_address_are_kept() -> None:
    providers = load_registry().providers

    assert providers["publicai"].content_must_be_string
    assert providers["chutes"].renames == {"max_completion_tokens": "max_tokens"}
    assert providers["sarvam"].auth == "header:api-subscription-key"
    assert (providers["anthropic"].auth, providers["anthropic"].other_auth) == (
        "x-api-key",
        ("bearer",),
    )
    assert providers["amazon-bedrock"].key_variables == ("AWS_BEARER_TOKEN_BEDROCK",)
    assert "AWS_ACCESS_KEY_ID" in providers["amazon-bedrock"].other_variables
    assert (providers["cohere"].embeddings, providers["zai-coding-plan"].variant) == (
        True,
        "subscription-plan",
    )


def test_hosts_are_those_of_rows_that_are_on() -> None:
    hosts = load_registry().hosts

    assert {"api.openai.com", "api.anthropic.com", "openrouter.ai"} <= hosts
    assert not any("{" in host or host in {"localhost", "127.0.0.1"} for host in hosts)


def test_a_plan_does_not_shadow_the_provider_at_its_host() -> None:
    first, *others = load_registry().at_host("api.z.ai")

    assert (first.id, [row.id for row in others]) == ("zai", ["zai-coding-plan"])


def test_the_plain_registry_is_built_once() -> None:
    assert load_registry() is load_registry({})


# --- one base URL for several formats ---

AZURE = {
    "openai-chat": "https://{resource}.openai.azure.com/openai/v1",
    "azure-openai-deployments": "https://{resource}.openai.azure.com/openai",
}
VERTEX = {
    "gemini": "https://{region}-x.com/v1/projects/{project}/locations/{region}/publishers/google",
    "openai-chat": "https://{region}-x.com/v1/projects/{project}/locations/{region}/endpoints/openapi",
}
DEEPSEEK = {
    "openai-chat": "https://api.deepseek.com",
    "anthropic-messages": "https://api.deepseek.com/anthropic/v1",
}
OPENAI = {
    "openai-chat": "https://api.openai.com/v1",
    "openai-responses": "https://api.openai.com/v1",
    "other": "https://api.openai.com/other",
}


@pytest.mark.parametrize(
    ("row", "base_url", "expected"),
    [
        # the origin
        (OPENAI, "http://localhost:9", {"openai-chat": "http://localhost:9/v1"}),
        (OPENAI, "http://localhost:9/", {"other": "http://localhost:9/other"}),
        (AZURE, "https://r.x", {"azure-openai-deployments": "https://r.x/openai"}),
        # as in the row, behind a prefix or not
        (OPENAI, "https://p/proxy/v1", {"other": "https://p/proxy/other"}),
        (AZURE, "https://r.x/openai/v1", {"azure-openai-deployments": "https://r.x/openai"}),
        (AZURE, "https://r.x/openai", {"openai-chat": "https://r.x/openai/v1"}),
        (DEEPSEEK, "https://p/ds", {"anthropic-messages": "https://p/ds/anthropic/v1"}),
        (DEEPSEEK, "https://p/ds/anthropic/v1", {"openai-chat": "https://p/ds"}),
        (
            VERTEX,
            "https://eu-x.com/v1/projects/p1/locations/eu/publishers/google",
            {"openai-chat": "https://eu-x.com/v1/projects/p1/locations/eu/endpoints/openapi"},
        ),
        # anything else
        (
            OPENAI,
            "https://p/api/v3/",
            {"openai-chat": "https://p/api/v3", "openai-responses": "https://p/api/v3"},
        ),
    ],
)
def test_one_base_url_speaks_for_all_formats(
    row: dict[str, str], base_url: str, expected: dict[str, str]
) -> None:
    found = rebased(row, base_url)

    assert expected.items() <= found.items()
    assert found.get("other") != "https://api.openai.com/other"


def test_what_a_base_url_leaves_open_stays_off() -> None:
    assert rebased(VERTEX, "https://eu-x.com") == {}
    assert set(rebased(OPENAI, "https://p/api/v3")) == {"openai-chat", "openai-responses"}


def test_every_row_filled_in_as_it_is_written_is_wholly_on() -> None:
    for row in ROWS:
        first = next(iter(endpoints(row).values()))
        filled = re.sub(r"\{[a-z_]+\}", "word", first)
        overridden = rebased(endpoints(row), filled)

        assert next(iter(overridden.values())) == filled
        assert set(overridden) == set(endpoints(row)), row.id


# --- overrides ---


def overridden(name: str, /, **values: object) -> Provider:
    registry = load_registry({name: ProviderOverride(**values)})  # type: ignore[arg-type]  # tests pass the right ones
    row = registry.get(name)
    assert row is not None
    return row


def test_an_override_completes_its_row_and_leaves_the_rest() -> None:
    keys = (ProviderKey("main", Secret("sk-secret"), 2),)
    row = overridden("AZURE", base_url="https://r.openai.azure.com/", keys=keys, stream_usage=False)

    assert row.id == "azure-openai"
    assert row.endpoints["openai-chat"] == "https://r.openai.azure.com/openai/v1"
    assert (row.dormant, row.keys, row.stream_usage) == ({}, keys, False)
    assert (row.name, row.auth) == (load_registry().providers["azure-openai"].name, "api-key")
    assert "sk-secret" not in repr(row)
    assert load_registry().providers["azure-openai"].keys == ()


def test_loopback_is_fine_if_an_operator_says_so() -> None:
    row = overridden("ollama", base_url="http://localhost:11434/v1")

    assert row.endpoints["openai-chat"] == "http://localhost:11434/v1"
    assert row.endpoints["ollama-chat"] == "http://localhost:11434"
    assert load_registry({"ollama": ProviderOverride(base_url="http://localhost:1")}).hosts == (
        load_registry().hosts
    )


def test_a_moved_provider_is_still_known_by_its_own_host() -> None:
    registry = load_registry({"groq": ProviderOverride(base_url="http://localhost:9/openai/v1")})
    row = registry.providers["groq"]

    assert row.hosts == frozenset()
    assert row.names == {"api.groq.com"}
    assert registry.at_host("api.groq.com") == (row,)


def test_formats_are_taken_literally_and_beat_the_base_url() -> None:
    row = overridden(
        "openai",
        base_url="https://p/v1",
        formats={"openai-responses": "https://q/r/", "anthropic-messages": "https://q/v1"},
    )

    assert row.endpoints == {
        "openai-chat": "https://p/v1",
        "openai-responses": "https://q/r",
        "anthropic-messages": "https://q/v1",
    }


def test_a_key_for_a_provider_that_needs_none_is_sent() -> None:
    keys = (ProviderKey("k", Secret("x")),)

    assert overridden("ollama", base_url="http://gpu:1", keys=keys).auth == "bearer"
    assert overridden("ollama", base_url="http://gpu:1").auth == "none"
    assert overridden("ollama", base_url="http://gpu:1", auth="header:x-token").auth == (
        "header:x-token"
    )


def test_a_provider_is_added_by_a_base_url_and_a_key() -> None:
    keys = (ProviderKey("k", Secret("x")),)
    registry = load_registry({"My_LLM": ProviderOverride("https://llm.corp/v1/", keys=keys)})
    route = match_route("POST", "/v1/chat/completions", None, {})
    assert route is not None
    (target,) = resolve_targets(route, "my-llm/m", DEFAULT, registry)

    assert target.url() == "https://llm.corp/v1/chat/completions"
    assert (target.provider.keys, target.provider.auth) == (keys, "bearer")
    assert (target.provider.stream_usage, target.provider.confidence) == (True, "operator")
    assert len(registry.providers) == 231


def test_an_added_provider_is_asked_for_the_usage_of_streams_unless_settings_say_not() -> None:
    row = overridden("my-llm", base_url="https://llm.corp/v1", stream_usage=False)

    assert not row.stream_usage


def test_an_added_provider_may_have_formats_only() -> None:
    row = overridden("demo", formats={"gemini": "https://d/v1beta"}, auth="none", name="Demo")

    assert (row.endpoints, row.name, row.key_optional) == (
        {"gemini": "https://d/v1beta"},
        "Demo",
        True,
    )


def test_hosts_and_model_aliases_of_the_operator_are_kept() -> None:
    registry = load_registry(allowed_hosts=["LLM.corp"], model_aliases={"fast": "groq/x"})

    assert registry.allowed_hosts == {"llm.corp"}
    assert registry.model_aliases == {"fast": "groq/x"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"opnai": ProviderOverride()}, "opnai is not in the registry and has no base URL"),
        ({"a b": ProviderOverride("https://x")}, "cannot be the id of a provider"),
        ({"x": ProviderOverride("https://x", auth="magic")}, "unknown way of sending its key"),
        ({"openai": ProviderOverride(auth="magic")}, "unknown way of sending its key"),
        ({"x": ProviderOverride(formats={"chat": "https://x"})}, "formats nobody speaks: chat"),
        ({"vertex": ProviderOverride("https://eu-x.com")}, "leaves too much open"),
        (
            {"azure": ProviderOverride(), "azure-openai": ProviderOverride()},
            "azure-openai is set twice",
        ),
        (
            {"n": ProviderOverride("https://x"), "N": ProviderOverride("https://x")},
            "n is set twice",
        ),
    ],
)
def test_a_mistake_in_an_override_is_told_with_a_hint(
    overrides: dict[str, ProviderOverride], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_registry(overrides)

    assert "\nHINT: " in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com/v1",
        "ftp://x/v1",
        "https://",
        "https://:80",
        "https://user:secret@x/v1",
        "https://x/v1?key=secret",
        "https://x/v1#secret",
        "https://{resource}.x/v1",
        "https://x y/v1",
        "https://[x/v1",
        "https://x:0/v1",
        "https://x/é",
    ],
)
def test_a_base_url_that_is_none_is_refused_and_not_shown(url: str) -> None:
    for override in (ProviderOverride(url), ProviderOverride(formats={"openai-chat": url})):
        with pytest.raises(ConfigurationError, match="is not usable") as caught:
            load_registry({"openai": override})

        assert "secret" not in str(caught.value)


def test_an_id_is_never_shadowed_by_an_alias() -> None:
    registry = Registry(
        {"a": Provider("a", "A", aliases=("b",)), "b": Provider("b", "B")},
    )

    assert (row := registry.get("b")) is not None
    assert row.name == "B"


def test_settings_are_named_after_the_id() -> None:
    row = load_registry().providers["azure-openai"]

    assert row.base_url_variable == "LLMGATE_PROVIDERS__AZURE_OPENAI__BASE_URL"
    assert row.api_key_variable == "LLMGATE_PROVIDERS__AZURE_OPENAI__API_KEY"


def test_every_route_format_is_served_somewhere() -> None:
    unserved = {
        wire_format
        for wire_format in FORMATS
        if not any(row.base_url(wire_format) or row.is_dormant(wire_format) for row in ROWS)
    }

    assert unserved == set()
