from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.limits import (
    CENT,
    SEGMENTS,
    BadPolicyError,
    Identity,
    Policy,
    Unit,
    parse_helicone_policy,
    parse_policies,
    shown_quota,
)


def test_a_policy_is_a_quota_a_window_a_unit_and_a_segment() -> None:
    [policy] = parse_policies("1.5;w=3600;u=cents;s=user")

    assert policy.quota == 15_000_000
    assert policy.window_s == 3600
    assert policy.unit is Unit.CENTS
    assert policy.segment == "user"
    assert policy.describe() == "1.5;w=3600;u=cents;s=user"


def test_several_policies_are_separated_by_commas() -> None:
    policies = parse_policies("10;w=1, 1000;w=86400;u=token;s=X-Team ,5;u=concurrent")

    assert [policy.quota for policy in policies] == [10, 1000, 5]
    assert [policy.segment for policy in policies] == ["tenant", "property:x-team", "tenant"]
    assert policies[2].window_s == 0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "quota"),
        ("0;w=60", "quota"),
        ("-1;w=60", "quota"),
        ("1.5;w=60", "quota"),
        ("1e9;w=60", "quota"),
        ("9" * 19 + ";w=60", "quota"),
        ("10", "`w=`"),
        ("10;w=0", "`w=`"),
        ("10;w=0.5", "`w=`"),
        ("10;w=31536001", "`w=`"),
        ("10;w=60;w=60", "only once"),
        ("10;w=60;u=dollars", "`u=`"),
        ("10;w=60;s=", "`s=`"),
        ("10;w=60;s=all", "`s=`"),
        ("10;w=60;s=a b", "`s=`"),
        ("10;w=60;x=1", "parts"),
        ("10;w=60;u", "parts"),
        ("10;w=60;u=concurrent", "no `w=`"),
        (",".join(["1;w=1"] * 17), "16"),
    ],
)
def test_a_bad_policy_is_refused_by_the_part_that_is_wrong(text: str, part: str) -> None:
    with pytest.raises(BadPolicyError, match=part):
        parse_policies(text)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("10;w=60", True),
        ("10;w=60;u=request", True),
        ("0.5;w=60;u=cents", True),
        ("10;W=60;U=Request;S=User", True),
        ("10;w=60;s=my-prop", True),
        ("10;w=59", False),
        ("10;w=31536001", False),
        ("0;w=60", False),
        ("10;w=60;u=token", True),  # Helicone has none, but a caller of ours who writes it does.
        ("10;w=60;s=user;u=request", False),
        ("10;w=60,20;w=60", False),
        ("ten;w=60", False),
    ],
)
def test_helicones_policies_are_those_that_helicone_reads(text: str, reads: bool) -> None:
    assert (parse_helicone_policy(text) is not None) is reads


def test_helicones_cents_are_charged_afterwards() -> None:
    policy = parse_helicone_policy("0.5;w=60;u=cents;s=user")

    assert policy is not None
    assert policy.charges_after
    assert policy.quota == CENT // 2


@given(st.text(alphabet="0123456789.;,=wus requestcnk", max_size=60))
def test_what_is_read_is_within_bounds_and_reads_again_the_same(text: str) -> None:
    try:
        policies = parse_policies(text)
    except BadPolicyError:
        return

    for policy in policies:
        assert policy.quota > 0
        assert policy.window_s >= 1 or policy.unit is Unit.CONCURRENT
        assert parse_policies(policy.describe()) == (policy,)


@given(st.integers(min_value=0, max_value=10**18))
def test_cents_are_shown_exactly(amount: int) -> None:
    shown = shown_quota(Unit.CENTS, amount)
    whole, _, fraction = shown.partition(".")

    assert int(whole) * CENT + int(fraction.ljust(7, "0")) == amount


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_two_callers_never_share_a_bucket_by_their_names(
    tenant: str, value: str, other_tenant: str, other_value: str
) -> None:
    policy = Policy(1, 1, segment="user")
    same = policy.bucket(tenant, value) == policy.bucket(other_tenant, other_value)

    assert same == ((tenant, value) == (other_tenant, other_value))


def test_every_segment_has_a_value_in_an_identity() -> None:
    identity = Identity("t", "k", "u", "s", "m", "r", {"team": "x"})

    values = [identity.of(segment) for segment in (*SEGMENTS, "property:team", "property:none")]

    assert values == ["", "t", "k", "u", "s", "m", "r", "x", None]


def test_a_policy_applies_to_what_it_names() -> None:
    policy = Policy(1, 1, models=("gpt-4*",), keys=("alice",))

    assert policy.applies(Identity("t", "alice", model="gpt-4o"))
    assert not policy.applies(Identity("t", "bob", model="gpt-4o"))
    assert not policy.applies(Identity("t", "alice", model="o3"))
    assert not policy.applies(Identity("t", "alice"))
