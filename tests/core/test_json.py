from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.ids import new_id
from asgi_llmgate.core.json import MAX_DEPTH, JSONError, dumps, loads, repeats_key, too_deep

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_python_writes_is_read_the_same(value: Any) -> None:
    assert loads(json.dumps(value)) == loads(json.dumps(value).encode())
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [b'{"a":"\\ud800"}', b'{"big":123456789012345678901234567890}'],
    ids=["lone surrogate", "big integer"],
)
def test_what_only_python_accepts_is_accepted(text: bytes) -> None:
    value = loads(text)

    assert loads(dumps(value)) == value


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(JSONError):
        loads(text)


def test_nesting_has_a_limit_and_brackets_in_strings_do_not_count() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    flat = b'["' + b"[" * 500 + b'\\"{", ' + b"[],{}," * 200 + b"1]"

    assert loads(deepest)
    assert not too_deep(flat)
    with pytest.raises(JSONError, match="deep"):
        loads(b"[" + deepest + b"]")


def test_ids_sort_by_time_and_are_version_7() -> None:
    ids = [new_id(1_700_000_000_000 + step) for step in range(100)]

    assert ids == sorted(ids)
    assert all(identifier[14] == "7" and identifier[19] in "89ab" for identifier in ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"model":"a"}', False),
        (b'{"model":"a","model":"b"}', True),
        (b'{"model":"a","MODEL":"b"}', True),
        (b'{"model":"a","\\u006dodel":"b"}', True),
        (b'{"model":"a","\\u006Dodel":"b"}', True),
        (b'{"model":"a","metadata":{"model":"b"}}', False),
        (b'{"metadata":{"model":"b","model":"c"},"model":"a"}', False),
        (b'{"model":"a","text":"\\"model\\" and \\u0061"}', False),
        (b'{"model":"model"}', False),
    ],
)
def test_a_key_that_is_there_twice_is_noticed(text: bytes, *, expected: bool) -> None:
    assert repeats_key(text, "model") is expected
