from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.grants import (
    MAX_PATTERNS,
    check_route,
    check_target,
    excess,
    intersection,
    matches,
    unfit,
)
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.errors import ForbiddenError
from asgi_llmgate.types import Grants, KeyScope

CALL, READ, INGEST = KeyScope.CALL, KeyScope.READ, KeyScope.INGEST
ALL = frozenset(KeyScope)
CHAT = match_route("POST", "/v1/chat/completions", None, {})
assert CHAT is not None

# Few letters, so that names and patterns meet often.
names = st.text("ab/", min_size=1, max_size=4)
patterns = st.one_of(names, names.map(lambda name: name + "*"), st.just("*"))
lists = st.none() | st.lists(patterns, min_size=1, max_size=3).map(tuple)
grants = st.builds(
    Grants,
    scopes=st.sets(st.sampled_from(KeyScope), min_size=1).map(frozenset),
    models=lists,
    providers=lists,
    routes=lists,
)
NAMES = ["".join(letters) for n in (1, 2, 3) for letters in itertools.product("ab/", repeat=n)]


def allows(grants: Grants, provider: str, model: str) -> bool:
    try:
        check_target(grants, provider, model, "openai-chat")
    except ForbiddenError:
        return False
    return True


@given(grants, grants)
def test_a_child_without_excess_may_nothing_that_its_parent_may_not(
    child: Grants, parent: Grants
) -> None:
    if excess(child, parent) is not None:
        return
    for model, provider in itertools.product(NAMES, "ab"):
        if allows(child, provider, model):
            assert allows(parent, provider, model)
    assert child.scopes <= parent.scopes


@given(grants, grants)
def test_an_intersection_allows_what_both_do(one: Grants, other: Grants) -> None:
    both = intersection(one, other)
    for model, provider in itertools.product(NAMES, "ab"):
        expected = allows(one, provider, model) and allows(other, provider, model)
        # Models may be named with or without their provider, so it may be stricter, never laxer.
        assert not allows(both, provider, model) or expected
        if one.models is None or other.models is None:
            assert allows(both, provider, model) == expected


@given(grants)
def test_a_key_may_have_what_its_parent_has(parent: Grants) -> None:
    assert excess(parent, parent) is None
    assert intersection(parent, parent).scopes == parent.scopes


@pytest.mark.parametrize(
    ("child", "parent", "why"),
    [
        (Grants(frozenset({CALL, READ})), Grants(frozenset({CALL})), "no scope read"),
        (Grants(), Grants(models=("gpt-4o",)), "restricted to the models"),
        (Grants(models=("gpt-*",)), Grants(models=("gpt-4*",)), "'gpt-\\*'"),
        (Grants(models=("gpt-5",)), Grants(models=("gpt-4*", "o3")), "'gpt-5'"),
        (Grants(models=("*",)), Grants(models=("o3",)), "'\\*'"),
        (Grants(providers=("groq",)), Grants(providers=("openai",)), "groq"),
        (Grants(routes=("/v1/*",)), Grants(routes=("/v1/chat/completions",)), "/v1/"),
        (Grants(tags=(("team", "b"),)), Grants(tags=(("team", "a"),)), "tag 'team'"),
    ],
)
def test_excess_says_what_the_parent_lacks(child: Grants, parent: Grants, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(excess(child, parent))


def test_tags_of_the_parent_win() -> None:
    child = Grants(tags=(("team", "b"), ("app", "x")))

    assert dict(intersection(child, Grants(tags=(("team", "a"),))).tags) == {
        "team": "a",
        "app": "x",
    }


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o*",), "gpt-4o-mini", True),
        (("gpt-4o*",), "gpt-4", False),
        (("*",), "anything", True),
        (("a", "b"), "b", True),
        ((), "a", False),
        (("gpt-4o",), "GPT-4O", False),
    ],
)
def test_patterns(patterns: tuple[str, ...], name: str, *, expected: bool) -> None:
    assert matches(patterns, (name,)) is expected


def test_a_model_may_be_allowed_at_one_provider_only() -> None:
    only = Grants(models=("openai/gpt-4o",))

    assert allows(only, "openai", "gpt-4o")
    assert not allows(only, "azure-openai", "gpt-4o")


def test_a_beginning_of_a_model_is_not_one_of_a_provider() -> None:
    some = Grants(models=("o*",))

    assert allows(some, "openai", "o3")
    assert not allows(some, "openai", "gpt-4o")
    assert excess(Grants(models=("openai/gpt-4o",)), some) is not None
    assert allows(Grants(models=("openai/*",)), "openai", "gpt-4o")
    assert excess(Grants(models=("openai/gpt-4o",)), Grants(models=("*",))) is None


def test_restricted_keys_need_to_say_their_model_except_to_list_models() -> None:
    only = Grants(models=("gpt-4o",))

    check_target(only, "openai", None, "openai-models")
    with pytest.raises(ForbiddenError, match="does not tell"):
        check_target(only, "openai", None, "openai-files")
    with pytest.raises(ForbiddenError, match="provider"):
        check_target(Grants(providers=("openai",)), None, "gpt-4o", "openai-chat")


@pytest.mark.parametrize("scopes", [{READ}, {INGEST}, {READ, INGEST}])
def test_only_the_scope_call_calls(scopes: set[KeyScope]) -> None:
    assert CHAT is not None
    with pytest.raises(ForbiddenError, match="scope `call`"):
        check_route(Grants(frozenset(scopes)), CHAT)


def test_routes_are_those_of_the_log() -> None:
    assert CHAT is not None
    check_route(Grants(routes=("/v1/chat/*",)), CHAT)
    with pytest.raises(ForbiddenError, match="/v1/chat/completions"):
        check_route(Grants(routes=("/v1/embeddings",)), CHAT)


@pytest.mark.parametrize(
    ("grants", "why"),
    [
        (Grants(frozenset()), "scope"),
        (Grants(models=()), "1 to 100"),
        (Grants(models=("m",) * (MAX_PATTERNS + 1)), "1 to 100"),
        (Grants(models=("",)), "empty"),
        (Grants(models=("a\nb",)), "printable"),
        (Grants(routes=("/v1/*/x",)), "only be at the end"),
        (Grants(tags=tuple((f"t{n}", "v") for n in range(17))), "16 tags"),
        (Grants(tags=(("Team", "a"),)), "lower-case"),
        (Grants(tags=(("team", ""),)), "1-256"),
    ],
)
def test_unfit_grants_are_told(grants: Grants, why: str) -> None:
    assert why in (unfit(grants) or "")


def test_fit_grants_are_fit() -> None:
    assert unfit(Grants(ALL, ("gpt-*",), ("openai",), ("/v1/*",), (("team", "a"),))) is None
