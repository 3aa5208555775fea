from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.price import UNITS, FlatPrice, flat_price, quantities
from asgi_llmgate.types import Usage

counts = st.integers(0, 10**6)
OTHERS = sorted(
    {unit.name for unit in UNITS.values()}
    - {"input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "requests"}
    - {"cache_write_1h_tokens", "output_reasoning_tokens", "input_audio_tokens"}
    - {"output_audio_tokens"}
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage as `read_usage` makes it: some parts fit their whole, `others` may not."""
    prompt, output = draw(counts), draw(counts)
    read = draw(st.integers(0, prompt))
    written = draw(st.integers(0, prompt - read))
    return Usage(
        prompt,
        output,
        read,
        written,
        draw(st.integers(0, written)),
        draw(st.integers(0, output)),
        draw(st.integers(0, prompt)),
        draw(st.integers(0, output)),
        False,
        tuple(draw(st.dictionaries(st.sampled_from(OTHERS), counts, max_size=4)).items()),
    )


def test_each_token_is_billed_once_by_its_most_special_price() -> None:
    price = flat_price(
        {
            "input_mtok": Fraction(3),
            "output_mtok": Fraction(15),
            "cache_read_mtok": Fraction("0.3"),
            "cache_write_mtok": Fraction("3.75"),
            "cache_write_1h_mtok": Fraction(6),
        }
    )
    # 500 fresh, 300 read, 150 written for 5 minutes and 50 for an hour, 10 out.
    usage = Usage(1000, 10, 300, 200, 50)
    dollars_per_million = 500 * 3 + 300 * 0.3 + 150 * 3.75 + 50 * 6 + 10 * 15

    assert price.cost_nanousd(usage) == dollars_per_million * 1000


def test_a_part_without_a_price_costs_what_the_whole_does() -> None:
    price = flat_price({"input_mtok": Fraction(1), "output_mtok": Fraction(2)})

    assert price.cost_nanousd(Usage(100, 10, 60, 20, 20, 10, 50, 10)) == 120_000


def test_requests_searches_and_seconds_are_billed_too() -> None:
    price = flat_price(
        {
            "requests_kcount": Fraction(12),
            "web_searches_kcount": Fraction(5),
            "audio_hours": Fraction("0.36"),
        }
    )
    usage = Usage(others=(("web_searches", 3), ("audio_seconds", 7)))

    assert price.cost_nanousd(usage) == 12_000_000 + 15_000_000 + 700_000


def test_audio_that_is_cached_has_a_price_of_its_own() -> None:
    price = flat_price(
        {
            "input_mtok": Fraction(1),
            "input_audio_mtok": Fraction(10),
            "cache_read_mtok": Fraction("0.1"),
            "cache_audio_read_mtok": Fraction(2),
        }
    )
    told = Usage(100, 0, 40, input_audio_tokens=50, others=(("cache_audio_read_tokens", 30),))
    # 40 text, 10 of them cached; 50 audio, 30 of them cached.
    untold = Usage(100, 0, 80, input_audio_tokens=50)
    # At least 30 of 50 must be both, or 80 and 50 would not fit into 100.

    assert price.cost_nanousd(told) == 1000 * (40 * 1 + 10 * 0.1 + 20 * 10 + 30 * 2)
    assert price.cost_nanousd(untold) == 1000 * (0 * 1 + 50 * 0.1 + 20 * 10 + 30 * 2)


@pytest.mark.parametrize(
    ("tokens", "denominator", "nanousd"),
    [(1, 2, 0), (3, 2, 2), (5, 2, 2), (7, 2, 4), (2, 3, 1), (1, 3, 0), (10**12, 1, 10**12)],
)
def test_halves_are_rounded_to_even(tokens: int, denominator: int, nanousd: int) -> None:
    assert FlatPrice(denominator, input=1).cost_nanousd(Usage(tokens)) == nanousd


def test_units_nobody_counts_are_not_billed() -> None:
    price = flat_price({"input_mtok": Fraction(1), "input_mchars": Fraction(100)})

    assert price == FlatPrice(1, input=1000)


def test_nothing_listed_is_free() -> None:
    assert flat_price({}).cost_nanousd(Usage(10**6, 10**6)) == 0


@given(usages())
def test_quantities_never_contradict(usage: Usage) -> None:
    found = quantities(usage)
    media = ("audio", "image", "video")
    for kind in media:
        both = found[f"cache_{kind}_read_tokens"]
        assert 0 <= both <= min(found.get(f"input_{kind}_tokens", 0), usage.cache_read_tokens)

    overlap = sum(found[f"cache_{kind}_read_tokens"] for kind in media)
    assert overlap <= usage.cache_read_tokens
    assert sum(found.get(f"input_{kind}_tokens", 0) for kind in media) <= usage.input_tokens
    kinds = ("reasoning", "citation", *media)
    assert sum(found.get(f"output_{kind}_tokens", 0) for kind in kinds) <= usage.output_tokens


@given(usages())
def test_no_cost_is_negative(usage: Usage) -> None:
    dearest_first = {key: Fraction(100, 1 + len(unit.traits)) for key, unit in UNITS.items()}

    # Parts that cost less than their whole are taken back from it, never below nothing.
    assert flat_price(dearest_first).cost_nanousd(usage) >= 0
