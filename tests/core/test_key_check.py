from __future__ import annotations

import dataclasses
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.key_check import SLOTS, TokenDigests, known_key
from asgi_llmgate.core.virtual_keys import mint
from asgi_llmgate.types import Grants, KeyScope, KeySecret, StoredKey

OLD, NEW = b"o" * 32, b"n" * 32
TOKEN = mint("aaaaaaaaaa", bytes(32))
DIGESTS = TokenDigests([NEW])


def secret(token: str = TOKEN, digests: TokenDigests = DIGESTS, **changes: Any) -> KeySecret:
    plain = KeySecret("aaaaaaaaaa", digests.current(token), digests.current_id)
    return dataclasses.replace(plain, **changes)


def key(kid: str = "aaaaaaaaaa", **changes: Any) -> StoredKey:
    return dataclasses.replace(StoredKey(kid, "acme", "x", (secret(),), Grants()), **changes)


def test_a_key_is_its_tenants_under_its_own_id() -> None:
    found = known_key([key(user_id="ann")], DIGESTS.all(TOKEN))

    assert found is not None
    assert (found.principal.tenant, found.principal.id) == ("acme", "aaaaaaaaaa")
    assert (found.principal.kind, found.principal.user_id) == ("key", "ann")
    assert not found.is_revoked


@given(st.text(max_size=20), st.text(max_size=20))
def test_tokens_that_share_a_long_beginning_are_never_one(left: str, right: str) -> None:
    shared = "lg_" + "x" * 200
    stored = key(secrets=(secret(shared + left),))

    found = known_key([stored], DIGESTS.all(shared + right))
    assert (found is not None) == (left == right)


def test_unknown_wrong_and_right_are_compared_equally_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(len(one) + len(other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    rotated = (secret(), secret("before", expires_at_s=9.0))
    for chain in ([], [key()], [key(secrets=rotated)]):
        for token in (TOKEN, "wrong", "before"):
            compared.clear()
            known_key(chain, DIGESTS.all(token))

            assert compared == [64] * SLOTS


def test_a_digest_of_zeros_is_nobodys() -> None:
    """What stands where there is no secret must not match anything that can be sent."""
    assert known_key([], {DIGESTS.current_id: bytes(32)}) is None
    assert known_key([key(secrets=())], {DIGESTS.current_id: bytes(32)}) is None


def test_the_secret_before_works_until_its_end() -> None:
    rotated = key(secrets=(secret("new"), secret("old", expires_at_s=50.0)), expires_at_s=90.0)
    by_new, by_old = (known_key([rotated], DIGESTS.all(token)) for token in ("new", "old"))

    assert by_new is not None
    assert by_old is not None
    assert (by_new.expires_at_s, by_old.expires_at_s) == (90.0, 50.0)


def test_a_key_made_under_the_secret_before_is_still_known() -> None:
    before = TokenDigests([OLD])
    stored = key(secrets=(secret(digests=before),))
    found = known_key([stored], TokenDigests([NEW, OLD]).all(TOKEN))

    assert found is not None
    assert found.matched.secret_id == before.current_id
    assert known_key([stored], DIGESTS.all(TOKEN)) is None


def test_a_child_may_what_all_above_it_may() -> None:
    chain = [
        key(parent="b", grants=Grants(frozenset({KeyScope.CALL, KeyScope.READ}), ("gpt-*",))),
        key("b", parent="c", grants=Grants(models=("gpt-4*",)), expires_at_s=70.0),
        key("c", expires_at_s=60.0, grants=Grants(tags=(("team", "a"),))),
    ]
    found = known_key(chain, DIGESTS.all(TOKEN))

    assert found is not None
    assert found.principal.grants == Grants(models=("gpt-4*",), tags=(("team", "a"),))
    assert found.expires_at_s == 60.0
    assert found.kids == {"aaaaaaaaaa", "b", "c"}


@pytest.mark.parametrize(
    "above",
    [
        [key("b", revoked_at_s=1.0)],
        [key("b", parent="c"), key("c", revoked_at_s=1.0)],
        [key("b", tenant="other")],
        [key("b", user_id="somebody")],
        [key("b", parent="gone")],
        [],
    ],
    ids=["revoked", "revoked above", "other tenant", "other user", "cut", "no parent"],
)
def test_a_child_falls_with_its_parents(above: list[StoredKey]) -> None:
    found = known_key([key(parent="b"), *above], DIGESTS.all(TOKEN))

    assert found is not None
    assert found.is_revoked


def test_no_repr_shows_a_digest() -> None:
    found = known_key([key()], DIGESTS.all(TOKEN))

    assert str(DIGESTS.current(TOKEN)) not in repr(found) + repr(key()) + repr(DIGESTS)


@pytest.mark.parametrize("secrets", [[], [b"short"]])
def test_a_secret_is_needed(secrets: list[bytes]) -> None:
    with pytest.raises(ValueError, match="secret"):
        TokenDigests(secrets)
