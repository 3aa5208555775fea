from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core import directive_table, directives
from asgi_llmgate.core.directive_table import HELICONE_NAMES, PROTECTION, SPECS
from asgi_llmgate.core.directives import DEFAULT, Directives, parse_directives
from asgi_llmgate.errors import InvalidRequestError

EVERY_PART = frozenset(spec.part for spec in SPECS.values())


@pytest.fixture
def all_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every part of the gateway existed, whatever this version has."""
    monkeypatch.setattr(directives, "BUILT", EVERY_PART)


@pytest.fixture
def little_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directives, "BUILT", frozenset({"auth", "log", "routing", "tags"}))


def parse(**headers: str) -> Directives:
    """Parse headers written as keywords: `llmgate_user_id="ann"`."""
    return parse_directives(
        {
            name.replace("_", "-").encode(): value.encode("latin-1")
            for name, value in headers.items()
        }
    )


def refusal(**headers: str) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**headers)
    assert caught.value.code == "invalid_header"
    return caught.value


# header without prefix, value, field, what it means
MEANINGS: list[tuple[str, str, str, Any]] = [
    ("user-id", " ann ", "user_id", "ann"),
    ("session-id", "s1", "session_id", "s1"),
    ("session-path", "/a/b", "session_path", "/a/b"),
    ("session-name", "Réunion", "session_name", "Réunion"),
    ("request-id", "req_1:a.b-c", "request_id", "req_1:a.b-c"),
    ("provider", "together, groq", "provider", "together, groq"),
    ("target-url", "https://api.groq.com", "target_url", "https://api.groq.com"),
    ("model-override", "gpt-4o", "model_override", "gpt-4o"),
    ("stream-usage", "TRUE", "stream_usage", True),
    ("omit-request", "true", "omit_request", True),
    ("omit-response", "False", "omit_response", False),
    ("timeout-ms", "1500", "timeout_ms", 1500),
    ("hedge-after-ms", "200", "hedge_after_ms", 200),
    ("translation", "Strict", "translation", "strict"),
    ("cache-enabled", "true", "cache_enabled", True),
    ("cache-mode", "Semantic", "cache_mode", "semantic"),
    ("cache-threshold", "0.97", "cache_threshold", 0.97),
    ("cache-max-error", ".01", "cache_max_error", 0.01),
    ("cache-question", "Gr%C3%B6%C3%9Fe?", "cache_question", "Größe?"),
    ("cache-bucket-max-size", "20", "cache_bucket_max_size", 20),
    ("cache-seed", "x", "cache_seed", "x"),
    ("cache-control", "max-age=60", "cache_control", "max-age=60"),
    ("cache-ignore-keys", "user, metadata", "cache_ignore_keys", ("user", "metadata")),
    ("cache-ignore-keys", '"user","metadata"', "cache_ignore_keys", ("user", "metadata")),
    ("cache-tags", "a,b", "cache_tags", ("a", "b")),
    ("cache-read", "false", "cache_read", False),
    ("cache-save", "false", "cache_save", False),
    ("fallbacks", '["groq/x", {"model": "y"}]', "fallbacks", ("groq/x", {"model": "y"})),
    ("retry-enabled", "true", "retry_enabled", True),
    ("retry-num", "0", "retry_num", 0),
    ("retry-factor", "1.5", "retry_factor", 1.5),
    ("retry-min-timeout", "0", "retry_min_timeout_ms", 0),
    ("retry-max-timeout", "10000", "retry_max_timeout_ms", 10000),
    ("prompt-id", "p", "prompt_id", "p"),
    ("prompt-version", "3", "prompt_version", "3"),
    ("prompt-label", "production", "prompt_label", "production"),
    ("prompt-inputs", '{"name": "J\u00c3\u00bcrg"}', "prompt_inputs", {"name": "Jürg"}),
]


@pytest.mark.parametrize(("name", "value", "field", "meaning"), MEANINGS)
@pytest.mark.parametrize("prefix", ["llmgate", "helicone"])
@pytest.mark.usefixtures("all_built")
def test_each_header_means_the_same_in_both_spellings(
    prefix: str, name: str, value: str, field: str, meaning: Any
) -> None:
    parsed = parse(**{f"{prefix}-{name}": value})

    assert getattr(parsed, field) == meaning
    assert parsed == dataclasses.replace(
        DEFAULT, **{field: getattr(parsed, field)}, uses_helicone=prefix == "helicone"
    )


def test_every_field_has_a_header_and_every_header_a_test() -> None:
    fields = {field.name for field in dataclasses.fields(Directives)}
    told = {spec.field for spec in SPECS.values()} - {None}

    assert fields - told == {"properties", "uses_helicone", "warnings"}
    # A rate limit is read differently under each name, and has a test of its own.
    assert {name for name, *_ in MEANINGS} == set(SPECS) - {"auth", "ratelimit-policy", "user"}


def test_requests_without_such_headers_share_one_object() -> None:
    assert parse(host="x", authorization="Bearer k", x_llm="1") is DEFAULT
    assert parse_directives({}) is DEFAULT


def test_a_name_that_only_looks_like_ours_asks_for_nothing() -> None:
    assert parse(x_llmgate_provider="groq") == DEFAULT


# --- LLMGate-*: mistakes are told ---

MALFORMED = [
    ("request-id", "a b", "1 to 128 of"),
    ("request-id", "x" * 129, "1 to 128 of"),
    ("request-id", "", "1 to 128 of"),
    ("user-id", "x" * 257, "at most 256 characters"),
    ("user-id", "a\x01b", "no control characters"),
    ("target-url", "https://" + "x" * 2048, "at most 2048 characters"),
    ("omit-request", "yes", "true or false"),
    ("omit-request", "", "true or false"),
    ("timeout-ms", "0", "a whole number from 1 to 86400000"),
    ("timeout-ms", "1e3", "a whole number"),
    ("timeout-ms", "+5", "a whole number"),
    ("timeout-ms", "1_000", "a whole number"),
    ("timeout-ms", "²", "a whole number"),
    ("timeout-ms", "9" * 5000, "a whole number"),
    ("cache-threshold", "1.01", "a number from 0 to 1"),
    ("cache-threshold", "nan", "a number"),
    ("cache-threshold", "1e-3", "a number"),
    ("cache-mode", "fuzzy", "exact or semantic or threshold"),
    ("cache-question", "%20", "a question of 1 to 1000 characters"),
    ("cache-question", "a%00b", "a question of 1 to 1000 characters"),
    ("cache-question", "a" * 1001, "a question of 1 to 1000 characters"),
    ("cache-bucket-max-size", "21", "a whole number from 1 to 20"),
    ("cache-tags", "a,,b", "1 to 32 names"),
    ("cache-tags", ",".join("a" * 33), "1 to 32 names"),
    ("fallbacks", "gpt-4o", "JSON"),
    ("fallbacks", "[]", "a JSON list of 1 to 8"),
    ("fallbacks", "{}", "a JSON list of 1 to 8"),
    ("fallbacks", '["a","a","a","a","a","a","a","a","a"]', "a JSON list of 1 to 8"),
    ("fallbacks", "[1]", "a JSON list of strings or objects"),
    ("prompt-inputs", "[]", "a JSON object"),
    ("property-", "x", "a name of 1 to 256 bytes"),
    ("property-" + "n" * 257, "x", "a name of 1 to 256 bytes"),
    ("property-a", "v" * 257, "at most 256 bytes"),
]


@pytest.mark.parametrize(("name", "value", "expected"), MALFORMED)
@pytest.mark.usefixtures("all_built")
def test_a_malformed_header_of_ours_is_named_but_not_quoted(
    name: str, value: str, expected: str
) -> None:
    error = refusal(**{f"llmgate-{name}": value})

    assert f"is malformed: expected {expected}" in str(error)
    assert error.param is not None
    assert error.param.lower().startswith(f"llmgate-{name}"[:40])
    assert len(value) < 6 or value not in str(error)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("llmgate-usr-id", "LLMGate-User-Id"),
        ("llmgate-cache-enable", "LLMGate-Cache-Enabled"),
        ("llmgate-properties-app", "LLMGate-Property"),
        ("llmgate-target-uri", "LLMGate-Target-URL"),
        ("llmgate-rate-limit-policy", "LLMGate-RateLimit-Policy"),
    ],
)
def test_an_unknown_header_of_ours_is_answered_with_the_nearest(name: str, near: str) -> None:
    assert f"Did you mean {near}" in str(refusal(**{name: "x"}))


@pytest.mark.parametrize("name", ["llmgate-id", "llmgate-cost-usd", "llmgate-", "llmgate-zzz"])
def test_what_only_we_send_is_not_taken(name: str) -> None:
    assert "is not a header of this gateway" in str(refusal(**{name: "x"}))


@pytest.mark.usefixtures("little_built")
@pytest.mark.parametrize("name", ["cache-enabled", "prompt-id", "hedge-after-ms", "retry-num"])
def test_a_header_of_ours_for_a_part_that_is_not_built_is_refused(name: str) -> None:
    assert "is not available in this version" in str(refusal(**{f"llmgate-{name}": "true"}))


# --- Helicone-*: what Helicone does ---


# Read otherwise, a destination, and what Helicone itself refuses.
REFUSED_OF_HELICONE = {"omit-request", "target-url", "cache-bucket-max-size", "fallbacks"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [row for row in MALFORMED if row[0] not in REFUSED_OF_HELICONE],
)
@pytest.mark.usefixtures("all_built")
def test_a_malformed_header_of_helicone_is_passed_over_with_a_warning(
    name: str, value: str, expected: str
) -> None:
    parsed = parse(**{f"helicone-{name}": value})

    assert dataclasses.replace(parsed, warnings=()) == dataclasses.replace(
        DEFAULT, uses_helicone=True
    )
    assert f"was ignored: expected {expected}" in parsed.warnings[0]


@pytest.mark.parametrize("value", [row[1] for row in MALFORMED if row[0] == "fallbacks"])
@pytest.mark.usefixtures("all_built")
def test_a_malformed_chain_is_refused_under_both_names(value: str) -> None:
    assert refusal(helicone_fallbacks=value).param == "Helicone-Fallbacks"
    assert refusal(llmgate_fallbacks=value).param == "LLMGate-Fallbacks"


def test_an_unknown_header_of_helicone_is_passed_over_with_a_warning() -> None:
    parsed = parse(helicone_posthog_key="phc_secret", helicone_jwt="eyJ")

    assert parsed.warnings == (
        "Helicone-Posthog-Key is not known here and was ignored",
        "Helicone-Jwt is not known here and was ignored",
    )


def test_warnings_are_few_and_fit_for_a_header() -> None:
    headers = {f"helicone-x{n}\r\nevil: 1\xff".encode("latin-1"): b"1" for n in range(40)}
    warnings = parse_directives(headers).warnings

    assert len(warnings) == 11
    assert warnings[-1] == "30 more Helicone-* headers were ignored"
    assert all(text.isascii() and text.isprintable() for text in warnings)


def test_anything_but_false_omits_in_helicones_spelling() -> None:
    parsed = parse(helicone_omit_request="yes", helicone_omit_response="false")

    assert (parsed.omit_request, parsed.omit_response) == (True, False)


@pytest.mark.parametrize("name", sorted(HELICONE_NAMES))
def test_helicones_other_words_for_a_destination_are_followed(name: str) -> None:
    parsed = parse(**{f"helicone-{name}": "https://api.groq.com"})

    assert "https://api.groq.com" in {parsed.provider, parsed.target_url}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("helicone-target-url", "https://\x01"),
        ("helicone-openai-api-base", "x" * 3000),
        ("helicone-target-provider", "x" * 257),
    ],
)
def test_a_malformed_destination_is_refused_in_any_spelling(name: str, value: str) -> None:
    # Passed over, the call and its key would go to another provider.
    assert "is malformed" in str(refusal(**{name: value}))


@pytest.mark.parametrize("name", sorted(PROTECTION))
def test_protection_that_is_not_here_is_not_promised(name: str) -> None:
    error = refusal(**{f"helicone-{name}": "True"})

    assert PROTECTION[name] in str(error)
    assert "Remove the header" in str(error)


def test_protection_that_is_switched_off_is_not_asked_for() -> None:
    assert parse(helicone_moderations_enabled="false").warnings == ()
    assert "truncate" not in str(refusal(helicone_token_limit_exception_handler="truncate"))


@pytest.mark.usefixtures("little_built")
def test_helicone_users_may_keep_headers_of_conveniences_that_are_not_built() -> None:
    parsed = parse(helicone_cache_enabled="true", helicone_retry_num="oops", helicone_user_id="ann")

    assert parsed.user_id == "ann"
    assert parsed.cache_enabled is None
    assert parsed.warnings == (
        "Helicone-Cache-Enabled is not available in this version and was ignored",
        "Helicone-Retry-Num is not available in this version and was ignored",
    )


@pytest.mark.usefixtures("little_built")
@pytest.mark.parametrize("name", ["helicone-fallbacks"])
def test_helicone_users_are_told_where_money_or_uptime_is_at_stake(name: str) -> None:
    assert "is not available in this version" in str(refusal(**{name: "x"}))


def test_parts_are_switched_by_names_that_exist() -> None:
    assert directive_table.BUILT <= EVERY_PART
    assert directive_table.REFUSED_UNBUILT <= EVERY_PART


# --- both ---


def test_ours_beats_theirs_in_any_order() -> None:
    ours, theirs = {b"llmgate-user-id": b"ours"}, {b"helicone-user-id": b"theirs"}

    assert parse_directives(ours | theirs).user_id == "ours"
    assert parse_directives(theirs | ours).user_id == "ours"


@pytest.mark.parametrize("name", ["user-id", "session-id", "provider", "target-url"])
def test_an_empty_text_is_an_absent_one(name: str) -> None:
    assert parse(**{f"llmgate-{name}": " "}) == DEFAULT


def test_credentials_are_never_kept() -> None:
    parsed = parse(llmgate_auth="Bearer lg_secret", helicone_auth="Bearer sk-helicone-secret")

    assert "secret" not in repr(parsed)
    assert parsed.uses_helicone


def test_properties_of_both_spellings_are_merged_under_lower_case_names() -> None:
    parsed = parse_directives(
        {
            b"llmgate-property-App": b"ours",
            b"helicone-property-app": b"theirs",
            b"helicone-property-plan": b"free",
        }
    )

    assert parsed.properties == {"app": "ours", "plan": "free"}
    assert parsed.warnings == ()


def test_too_many_properties_of_ours_are_refused() -> None:
    error = refusal(**{f"llmgate-property-p{n}": "x" for n in range(33)})

    assert "at most 32 properties" in str(error)


def test_too_many_properties_of_theirs_are_left_out_with_a_warning() -> None:
    theirs = parse(**{f"helicone-property-p{n}": "x" for n in range(34)})
    both = parse(
        **{f"llmgate-property-o{n}": "x" for n in range(31)},
        helicone_property_a="x",
        helicone_property_b="x",
    )

    assert (len(theirs.properties), len(theirs.warnings)) == (32, 2)
    assert len(both.properties) == 32
    assert both.warnings == ("Helicone-Property-B was ignored: expected at most 32 properties",)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"cache-control": "no-cache"}, "no-cache"),
        ({"cache-control": "a", "llmgate-cache-control": "b"}, "b"),
        ({"cache-control": "a", "helicone-cache-control": "c"}, "a"),
        ({"helicone-cache-control": "c"}, "c"),
        ({"cache-control": "a\x01"}, None),
        ({"cache-control": "", "llmgate-user-id": "ann"}, None),
    ],
)
@pytest.mark.usefixtures("all_built")
def test_our_cache_control_beats_the_plain_one(
    headers: dict[str, str], expected: str | None
) -> None:
    assert parse(**headers).cache_control == expected


names = st.sampled_from(
    [f"{prefix}-{name}".encode() for prefix in ("llmgate", "helicone") for name in SPECS]
) | st.binary(max_size=20).map(lambda rest: b"helicone-" + rest.lower())
ours_too = names | st.binary(max_size=20).map(lambda rest: b"llmgate-property-" + rest.lower())


def outcome(headers: dict[bytes, bytes]) -> Directives | InvalidRequestError:
    try:
        return parse_directives(headers)
    except InvalidRequestError as error:
        return error


@given(st.dictionaries(ours_too, st.binary(max_size=40), max_size=6), st.booleans())
def test_no_bytes_break_the_reading(headers: dict[bytes, bytes], everything: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if everything:
            patch.setattr(directives, "BUILT", EVERY_PART)
        came_of_it = outcome(headers)

    if isinstance(came_of_it, Directives):
        shown = list(came_of_it.warnings)
    else:
        shown = [str(came_of_it), came_of_it.param or "no name"]
    assert all(text.isascii() and text.isprintable() for text in shown)
    assert "no name" not in shown


def test_a_rate_limit_is_read_strictly_under_our_name_and_as_helicone_does_under_theirs() -> None:
    ours = parse(llmgate_ratelimit_policy="10;w=1, 2;w=3600;u=cents;s=user")
    theirs = parse(helicone_ratelimit_policy="10;w=60;s=Team")
    odd = parse(helicone_ratelimit_policy="10;w=59")

    assert [policy.quota for policy in ours.rate_limit_policy] == [10, 20_000_000]
    assert [policy.segment for policy in theirs.rate_limit_policy] == ["property:team"]
    assert odd.rate_limit_policy == ()
    assert "Helicone-RateLimit-Policy was ignored" in odd.warnings[0]
    assert refusal(llmgate_ratelimit_policy="10;w=0").param == "LLMGate-RateLimit-Policy"
