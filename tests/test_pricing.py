from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llmgate.core.price import flat_price
from asgi_llmgate.pricing import PriceOverride, Prices
from asgi_llmgate.protocols import Price
from asgi_llmgate.types import Usage
from tests.conftest import requires_data
from tests.core.answers import metered, recorded
from tests.core.test_price import usages

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

genai_prices = pytest.importorskip("genai_prices")

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TYPICAL = Usage(1000, 200, 500, 100, 30, 50)


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()


def models() -> Iterator[tuple[Provider, ModelInfo]]:
    from genai_prices.data_snapshot import get_snapshot

    for provider in get_snapshot().providers:
        for model in provider.models:
            yield provider, model


MODELS = list(models())


def theirs(provider: Provider, model: ModelInfo, usage: Usage, at: datetime) -> int:
    """Return the cost as genai-prices calculates it, from plain tokens only."""
    calculated = model.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            output_reasoning_tokens=usage.reasoning_tokens,
        ),
        provider,
        genai_request_timestamp=at,
    )
    return int((calculated.total_price * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


def test_prices_are_a_price() -> None:
    price: Price = Prices()

    assert price("openai", "gpt-4o", TYPICAL) is not None


def test_every_listed_model_costs_what_genai_prices_calculates() -> None:
    """All of them, once, with tokens below and above every tier."""
    compared = 0
    prices = Prices(clock=Clock())
    for provider, model in MODELS:
        # Only exact ids find this very model; patterns may name an earlier one.
        if provider.find_model(model.id) is not model:
            continue
        for usage in (TYPICAL, Usage(1_234_567, 4321, 300_001, 200_003, 100_001, 77)):
            cost = prices(provider.id, model.id, usage)
            if cost is None:
                assert not any(
                    key.startswith(("input_mtok", "output_mtok", "requests"))
                    for key, price in vars(model.get_prices(NOON)).items()
                    if price is not None
                ), (provider.id, model.id)
                continue
            assert cost == theirs(provider, model, usage, NOON), (provider.id, model.id, usage)
            compared += 1
    assert compared > 3000


@settings(max_examples=400)
@given(st.sampled_from(MODELS), usages(), st.integers(0, 3 * 365 * 24 * 60))
def test_integers_and_decimals_agree_on_any_usage_and_day(
    listed: tuple[Provider, ModelInfo], usage: Usage, minutes: int
) -> None:
    provider, model = listed
    at = datetime(2024, 6, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    prices = Prices(clock=Clock(at))

    assert prices(provider.id, model.id, usage) == prices.exact(provider.id, model.id, usage, at)


@pytest.mark.parametrize(
    ("provider", "model", "dollars"),
    [
        # 1,000 tokens in, 500 of them cached, and 200 out; beside each case dollars per million
        # tokens in, cached and out, as genai-prices 0.2.3 has them from the vendors' pages.
        ("openai", "gpt-4o", "0.003875"),  # 2.50 / 1.25 / 10
        ("openai", "gpt-4o-2024-08-06", "0.003875"),
        ("openai", "openai/gpt-4o", "0.003875"),
        ("azure-openai", "gpt-4o", "0.003875"),
        ("openai", "GPT-4o-mini", "0.0002325"),  # 0.15 / 0.075 / 0.60
        ("anthropic", "claude-sonnet-4-20250514", "0.00465"),  # 3 / 0.30 / 15
        ("anthropic", "anthropic/claude-sonnet-4-0", "0.00465"),
        ("google-vertex", "claude-sonnet-4@20250514", "0.00465"),
        ("google", "gemini-2.5-flash", "0.000665"),  # 0.30 / 0.03 / 2.50
        ("google", "models/gemini-2.5-flash", "0.000665"),
        ("google-vertex", "publishers/google/models/gemini-2.5-flash-001", "0.000665"),
        ("amazon-bedrock", "us.amazon.nova-micro-v1:0", "0.000049875"),  # 0.035 / 0.00875 / 0.14
        ("xai", "grok-3-mini", "0.0002875"),  # 0.30 / 0.075 / 0.50
        ("groq", "openai/gpt-oss-120b", "0.0002325"),  # 0.15 / 0.075 / 0.60
        ("huggingface", "openai/gpt-oss-120b:groq", "0.0003"),  # 0.15 / none / 0.75
    ],
)
def test_a_model_is_found_by_any_of_its_names(provider: str, model: str, dollars: str) -> None:
    assert Prices()(provider, model, Usage(1000, 200, 500)) == int(Decimal(dollars) * 10**9)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("my-openai", "gpt-4o"),
        ("vercel", "openai/gpt-4o"),
        ("openai", "tts-1"),
        ("mistral", "mistral-ocr-latest"),
        ("amazon-bedrock", "arn:aws:bedrock:us-east-1:1:application-inference-profile/mi1dadi0g"),
        ("openai", ""),
        ("", "gpt-4o"),
        ("huggingface", "openai/gpt-oss-120b"),
    ],
    ids=[
        "model",
        "own provider",
        "aggregator",
        "characters",
        "pages",
        "ARN",
        "",
        "nobody",
        "router",
    ],
)
def test_an_unknown_price_is_none_and_not_0(provider: str, model: str) -> None:
    prices = Prices()

    assert [prices(provider, model, TYPICAL) for _ in range(2)] == [None, None]
    assert prices.unknown == {(provider, model): 2}
    assert prices.flat(provider, model) is None
    assert prices.exact(provider, model, TYPICAL, NOON) is None


def test_what_is_known_to_be_free_costs_0() -> None:
    prices = Prices()

    assert prices("openrouter", "google/gemini-2.0-flash-exp:free", TYPICAL) == 0
    assert prices.unknown == {}


def test_a_long_prompt_makes_every_token_dearer() -> None:
    # Claude Sonnet 4.5: 3 / 15 up to 200,000 tokens of input, 6 / 22.50 beyond (genai-prices 0.2.3,
    # platform.claude.com/docs/en/about-claude/pricing).
    prices = Prices()
    cost = [prices("anthropic", "claude-sonnet-4-5", Usage(n, 100)) for n in (200_000, 200_001)]

    assert cost == [600_000_000 + 1_500_000, 1_200_006_000 + 2_250_000]
    assert prices.flat("anthropic", "claude-sonnet-4-5") is None


def test_audio_is_billed_by_the_second_with_the_minimum_that_groq_has() -> None:
    # 0.36 USD an hour at OpenAI; 0.111 at Groq, at least ten seconds (genai-prices 0.2.3).
    prices = Prices()
    usage = Usage(others=(("audio_seconds", 5),))

    assert prices("openai", "whisper-1", usage) == 500_000
    assert prices("groq", "whisper-large-v3", usage) == 308_333
    assert prices.unknown == {}


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "whisper-1"), ("groq", "whisper-large-v3")]
)
def test_speech_of_unknown_length_is_not_free(provider: str, model: str) -> None:
    prices = Prices(clock=Clock())

    assert prices(provider, model, TYPICAL) is None
    assert prices.exact(provider, model, TYPICAL, NOON) is None
    assert prices.unknown == {(provider, model): 1}


def test_a_price_that_changes_is_looked_up_again() -> None:
    from genai_prices.types import TimeOfDateConstraint

    provider, model = next(
        (provider, model)
        for provider, model in MODELS
        if isinstance(model.prices, list)
        and any(isinstance(each.constraint, TimeOfDateConstraint) for each in model.prices)
        and provider.find_model(model.id) is model
    )
    clock = Clock(NOON)
    prices = Prices(clock=clock)
    for minutes in range(0, 3 * 24 * 60, 10):
        clock.now = NOON + timedelta(minutes=minutes)
        cost = prices(provider.id, model.id, TYPICAL)
        assert cost == theirs(provider, model, TYPICAL, clock.now)


def test_a_price_is_found_once() -> None:
    prices = Prices(clock=Clock())

    assert prices.flat("openai", "gpt-4o") is prices.flat("openai", "gpt-4o")


def test_callers_cannot_fill_the_memory_with_names() -> None:
    prices = Prices()
    for number in range(5000):
        prices("nobody", f"model-{number}", TYPICAL)

    assert len(prices.unknown) == 256
    assert len(prices._resolved) <= 4096


def test_an_override_wins_over_the_list() -> None:
    prices = Prices(
        {
            "gpt-4o": {"input": "1", "output": "2", "cache_read": None, "cache_write": None},
            "Groq/GPT-4o": PriceOverride(Decimal(3), Decimal(4)),
            "my-model": {"input": "1", "output": 2, "cache_read": "0.1", "cache_write": "1.25"},
        }
    )

    assert prices("openai", "gpt-4o-2024-08-06", Usage(1000, 100, 900)) == 1_200_000
    assert prices("openai", "openai/gpt-4o", Usage(1000, 100)) == 1_200_000
    assert prices("groq", "gpt-4o", Usage(1000, 100)) == 3_400_000
    assert prices("vllm", "my-model", Usage(1000, 100, 300, 200)) == 980_000
    assert prices.exact("vllm", "my-model", Usage(1000, 100, 300, 200), NOON) == 980_000
    assert prices.flat("vllm", "my-model") == flat_price(
        {
            "input_mtok": Fraction(1),
            "output_mtok": Fraction(2),
            "cache_read_mtok": Fraction("0.1"),
            "cache_write_mtok": Fraction("1.25"),
        }
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": "-1", "output": "1"},
        {"input": "a lot", "output": "1"},
        {"input": "NaN", "output": "1"},
        {"output": "1"},
        {"input": "1", "output": "1", "cache_read": "Infinity"},
    ],
    ids=["negative", "words", "NaN", "absent", "infinite"],
)
def test_an_override_that_is_no_price_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"dollars per million tokens"):
        Prices({"gpt-4o": wrong})


def test_a_provider_of_ones_own_may_have_anothers_prices() -> None:
    prices = Prices(same_as={"my-openai": "openai"})

    assert prices("my-openai", "gpt-4o", Usage(1000)) == 2_500_000


def test_without_genai_prices_only_overrides_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
    prices = Prices({"gpt-4o": {"input": "1", "output": "2"}})

    assert prices.load() is False
    assert prices("openai", "gpt-4o", Usage(1000, 100)) == 1_200_000
    assert prices("openai", "gpt-4o-mini", Usage(1000, 100)) is None


def test_counts_that_contradict_have_no_exact_cost() -> None:
    prices = Prices()
    # More cached than there is input: genai-prices refuses to calculate with it.
    usage = Usage(1, 0, 2)

    assert prices.exact("openai", "gpt-4o", usage, NOON) is None


def test_load_brings_the_list() -> None:
    assert Prices().load() is True


# Dollars per million tokens: input, cached input, written input, output; from the vendors' pages
# (openai.com/api/pricing, claude.com/pricing, ai.google.dev/pricing), by way of genai-prices 0.2.3.
PAGES = {
    "gpt-4o-2024-08-06": ("openai", "2.50", "1.25", "0", "10"),
    "gpt-4o-mini-2024-07-18": ("openai", "0.15", "0.075", "0", "0.60"),
    "gpt-5-2025-08-07": ("openai", "1.25", "0.125", "0", "10"),
    "gpt-5-mini-2025-08-07": ("openai", "0.25", "0.025", "0", "2"),
    "claude-sonnet-4-20250514": ("anthropic", "3", "0.30", "3.75", "15"),
    "claude-haiku-4-5-20251001": ("anthropic", "1", "0.10", "1.25", "5"),
    "claude-opus-4-8": ("anthropic", "5", "0.50", "6.25", "25"),
    "gemini-2.5-flash": ("google", "0.30", "0.03", "0", "2.50"),
}


@requires_data("exchanges")
def test_recorded_calls_cost_what_a_pocket_calculator_says() -> None:
    prices = Prices(clock=Clock())
    priced = set()
    for case in recorded():
        seen = metered(case)
        usage = seen.usage
        if usage is None or usage.others or seen.model not in PAGES:
            continue
        provider, fresh, read, written, output = PAGES[seen.model]
        cached = usage.cache_read_tokens
        dollars = (
            (usage.input_tokens - cached - usage.cache_write_tokens) * Decimal(fresh)
            + cached * Decimal(read)
            + usage.cache_write_tokens * Decimal(written)
            + usage.output_tokens * Decimal(output)
        ) / 10**6

        assert prices(provider, seen.model, usage) == dollars * 10**9, case.name
        priced.add(seen.model)
    assert priced == set(PAGES)
