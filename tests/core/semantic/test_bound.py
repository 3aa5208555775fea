from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.semantic.bound import (
    beta_cdf,
    beta_quantile,
    is_at_most,
    lower_bound,
    upper_bound,
)

COUNTS = st.tuples(st.integers(0, 200), st.integers(1, 5000)).filter(lambda two: two[0] < two[1])


@pytest.mark.parametrize(
    ("wrong", "of", "known"),
    [
        # Without a wrong one the bound is 1 - 0.1 ** (1 / n).
        (0, 10, 1 - 0.1 ** (1 / 10)),
        (0, 114, 1 - 0.1 ** (1 / 114)),
        # With n - 1 wrong of n it is 0.9 ** (1 / n).
        (9, 10, 0.9 ** (1 / 10)),
        # One wrong of two: x ** 2 = 0.9.
        (1, 2, 0.9**0.5),
    ],
)
def test_the_bound_is_that_of_the_closed_forms(wrong: int, of: int, known: float) -> None:
    assert upper_bound(wrong, of) == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "a", "b", "known"),
    [
        (0.5, 2, 3, 0.6875),
        (0.2, 1, 5, 1 - 0.8**5),
        (0.3, 4, 1, 0.3**4),
        (0.5, 0.5, 0.5, 0.5),
        (0.25, 0.5, 0.5, 1 / 3),  # 2 / pi * asin(sqrt(x))
        (0.02, 2, 400, 1 - 0.98**401 - 401 * 0.02 * 0.98**400),  # by the binomial distribution
    ],
)
def test_the_distribution_is_that_of_known_values(
    x: float, a: float, b: float, known: float
) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(known, abs=1e-9)


@given(COUNTS)
def test_more_wrong_ones_raise_the_bound(counts: tuple[int, int]) -> None:
    wrong, of = counts

    assert wrong / of < upper_bound(wrong, of) < upper_bound(wrong + 1, of) <= 1


@given(COUNTS)
def test_more_right_ones_lower_the_bound(counts: tuple[int, int]) -> None:
    wrong, of = counts

    assert upper_bound(wrong, of + 1) < upper_bound(wrong, of)


@given(COUNTS)
def test_the_share_lies_between_the_bounds(counts: tuple[int, int]) -> None:
    wrong, of = counts

    assert lower_bound(wrong, of) <= wrong / of <= upper_bound(wrong, of)


@given(COUNTS, st.floats(0.001, 0.999))
def test_testing_a_share_is_the_same_as_comparing_with_the_bound(
    counts: tuple[int, int], share: float
) -> None:
    bound = upper_bound(*counts)

    assert is_at_most(share, *counts) == (bound <= share) or abs(bound - share) < 1e-8


@given(st.floats(0.01, 0.99), st.floats(0.5, 50), st.floats(0.5, 500))
def test_a_quantile_is_where_the_distribution_reaches_it(p: float, a: float, b: float) -> None:
    assert beta_cdf(beta_quantile(p, a, b), a, b) == pytest.approx(p, abs=1e-6)


def test_nothing_looked_at_says_nothing() -> None:
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0, 1)
    assert not is_at_most(0.5, 0, 0)
