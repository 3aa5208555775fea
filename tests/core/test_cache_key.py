from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.cache_key import ATTRIBUTION, NOT_IN_KEY, CacheKey, Question, cache_key

SECRET = b"s" * 32
BASE = Question("own:acme", "openai", "openai-chat", "/v1/chat/completions", {"model": "m"})


def key(body: bytes | dict[str, Any], **changes: Any) -> CacheKey:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return cache_key(SECRET, BASE._replace(request=json.loads(raw), body=raw, **changes))


def test_spelling_does_not_matter_and_meaning_does() -> None:
    assert key(b'{"a": 1, "b": "\\u0041"}') == key(b'{"b":"A","a":1}')
    assert key({"a": 1}) != key({"a": "1"})
    assert key({"a": 1}) != key({"a": 1.0})
    assert key({"a": None}) != key({})
    assert key({"a": "x"}) != key({"a": "X"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"seed": 123456789012345678901234567890}', b'{"seed": 123456789012345678901234567891}'),
        (b'{"a": NaN}', b'{"a": null}'),
        (b'{"a": NaN}', b'{"a": Infinity}'),
        (b'{"a": "\\ud800"}', b'{"a": "\\ud801"}'),
        (b'{"a": 18446744073709551616}', b'{"a": 18446744073709551617}'),
    ],
    ids=["long integers", "nan", "infinity", "surrogates", "just above 64 bits"],
)
def test_values_that_a_fast_parser_confuses_are_apart(one: bytes, other: bytes) -> None:
    assert key(one) != key(other)


def test_form_is_out_and_attribution_only_in_front_of_a_provider() -> None:
    for name in NOT_IN_KEY:
        assert key({"a": 1, name: True}) == key({"a": 1})
    for name in ATTRIBUTION:
        assert key({"a": 1, name: "x"}) != key({"a": 1})
        left_out = NOT_IN_KEY | ATTRIBUTION
        assert key({"a": 1, name: "x"}, left_out=left_out) == key({"a": 1}, left_out=left_out)


def test_ignored_fields_are_ignored_by_who_asks_for_it_only() -> None:
    ignoring = {"ignored": ("id", "at")}
    assert key({"m": 1, "id": 1}, **ignoring) == key({"m": 1, "id": 2, "at": 3}, **ignoring)
    assert key({"m": 1, "id": 1}, **ignoring) == key({"m": 1}, ignored=("at", "id"))
    assert key({"m": 1}, **ignoring) != key({"m": 1})


def test_credentials_and_form_in_the_query_are_out() -> None:
    assert key({}, query=b"alt=sse&key=secret&v=1") == key({}, query=b"v=1&key=other")
    assert key({}, query=b"v=1") != key({}, query=b"v=2")


def test_another_secret_is_another_key() -> None:
    assert cache_key(b"a" * 32, BASE) != cache_key(b"b" * 32, BASE)


def test_there_is_no_key_without_a_namespace() -> None:
    with pytest.raises(ValueError, match="namespace"):
        cache_key(SECRET, BASE._replace(namespace=""))


text = st.text(max_size=4)
optional = st.none() | text
words = st.lists(text, max_size=3).map(tuple)
questions = st.builds(
    Question,
    namespace=st.text(min_size=1, max_size=4),
    query=st.just(b""),
    body=st.none(),
    left_out=st.just(NOT_IN_KEY),
    dialect=st.sampled_from(["openai", "gemini"]),
    wire_format=st.sampled_from(["openai-chat", "gemini"]),
    endpoint=text,
    request=st.dictionaries(text, text | st.integers(), max_size=2),
    target=st.tuples(optional, optional),
    headers=st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), max_size=2).map(
        tuple
    ),
    prompt_digest=optional,
    prompt_epoch=st.none() | st.integers(0, 3),
    seed=optional,
    data_versions=words,
    ignored=words.map(lambda names: tuple(sorted(set(names)))),
)


def identity(question: Question) -> object:
    """Return what must be equal for keys to be equal, and nothing else."""
    values = question._asdict()
    out = {*NOT_IN_KEY, *question.ignored}
    values["request"] = {k: v for k, v in question.request.items() if k not in out}
    return values


@given(questions, questions)
def test_keys_are_equal_exactly_where_all_fields_are(one: Question, other: Question) -> None:
    same = identity(one) == identity(other)

    assert (cache_key(SECRET, one) == cache_key(SECRET, other)) is same


@given(questions, st.data())
def test_nothing_moves_from_one_field_to_the_next(question: Question, data: st.DataObject) -> None:
    """The last character of a field becomes the first of the following one."""
    names = ["namespace", "endpoint", "seed", "prompt_digest"]
    giver, taker = data.draw(st.permutations(names))[:2]
    given_, taken = getattr(question, giver) or "", getattr(question, taker) or ""
    if len(given_) < 2:
        return
    changes: dict[str, Any] = {giver: given_[:-1], taker: given_[-1] + taken}
    moved = question._replace(**changes)

    assert cache_key(SECRET, moved) != cache_key(SECRET, question)
