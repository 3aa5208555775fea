"""Turn usage into money: nano-dollars (1e-9 USD), as integers.

Prices come from the list that ships with genai-prices (no network, ever) and from the operator's
own. A price is resolved once per provider and model, compiled to integers, and kept until the
list says that it changes (a new price from some date on, off-peak hours); a call then costs a few
multiplications. Tiers, where a long prompt makes every token dearer, are one set of integers each.

Exact: the sum is rounded once, half to even, to a nano-dollar, and equals what genai-prices
calculates in decimals. Unknown: a model that is not in the list, or that is billed by something
the answer did not report (characters of speech, pages, seconds), has no price, and None is not 0.
Not priced: service tiers, batch discounts and regional surcharges, which are not in a `Usage`;
standard prices count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from asgi_llmgate.core.price import NANO, UNITS, FlatPrice, flat_price, quantities
from asgi_llmgate.types import Usage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider

__all__ = ["PriceOverride", "Prices"]

# Callers choose model names, so what is kept about them is bounded.
MAX_RESOLVED = 4096
MAX_UNKNOWN = 256

# Our providers whose ids are others in genai-prices. Only exact names: a provider of the
# operator's own that is called "my-openai" has prices of its own, or none.
_THEIR_IDS = {
    "amazon-bedrock": "aws",
    "amazon-bedrock-mantle": "aws",
    "anthropic-aws": "anthropic",
    "azure-ai": "azure",
    "azure-openai": "azure",
    "bedrock": "aws",
    "cloudflare-workers-ai": "cloudflare",
    "codestral": "mistral",
    "gemini": "google",
    "google-vertex": "google",
    "minimax-cn": "minimax",
    "moonshot": "moonshotai",
    "moonshot-cn": "moonshotai",
    "vertex": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
    "zhipu": "zhipuai",
}

# What vendors append to a model's name without changing its price: a date, a revision, an alias.
_EDITION = re.compile(r"(?:[-@](?:20\d{6}|20\d\d-\d\d-\d\d|\d{3})|-latest|@default)$")

# What every answer says, or what needs no saying.
_ALWAYS_COUNTED = frozenset({"input_tokens", "output_tokens", "requests"})

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """A price of the operator's own, in US dollars per million tokens.

    Cached reads and writes without a price of their own cost what input costs.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Read decimals from strings, as settings have them. None is an absent price.

        Raises:
            ValueError: a price is not a number of at least 0, or `input` or `output` is absent.
        """
        read, write = given.get("cache_read"), given.get("cache_write")
        return cls(
            _decimal("input", given.get("input")),
            _decimal("output", given.get("output")),
            None if read is None else _decimal("cache_read", read),
            None if write is None else _decimal("cache_write", write),
        )

    def compiled(self) -> FlatPrice:
        dollars = {
            "input_mtok": self.input,
            "output_mtok": self.output,
            "cache_read_mtok": self.cache_read,
            "cache_write_mtok": self.cache_write,
        }
        return flat_price({k: Fraction(usd) for k, usd in dollars.items() if usd is not None})


class _Resolved(NamedTuple):
    """A price, good until `until` (seconds since the epoch).

    `tiers` go up; each counts for inputs of more tokens than its first element. Without any the
    price is unknown, unless `model` has one that only genai-prices itself can calculate. `needs`
    names what alone is billed where that is neither tokens nor calls: seconds of speech, searches.
    A usage without any of it is not free, but unknown.
    """

    until: float
    tiers: tuple[tuple[int, FlatPrice], ...] = ()
    model: tuple[Provider, ModelInfo] | None = None
    needs: frozenset[str] = frozenset()


class Prices:
    """Callable as `protocols.Price`: `prices(provider, model, usage)` → nano-dollars or None.

    The first call imports genai-prices, which takes about 0.4 s; call `load` before, in a thread
    if need be. Without the package only overrides have a price.

    Args:
        overrides: By model (`gpt-4o`) or provider and model (`openai/gpt-4o`), which wins; in any
            case. Mappings have the fields of `PriceOverride`.
        same_as: Providers of the operator's own, and whose prices they have.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        overrides: Mapping[str, PriceOverride | Mapping[str, Any]] | None = None,
        *,
        same_as: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._overrides: dict[str, FlatPrice] = {}
        for name, given in (overrides or {}).items():
            price = given if isinstance(given, PriceOverride) else PriceOverride.of(given)
            self._overrides[name.lower()] = price.compiled()
        self._their_ids = {**_THEIR_IDS, **(same_as or {})}
        self._clock = clock
        self._resolved: dict[tuple[str, str], _Resolved] = {}
        self._unknown: dict[tuple[str, str], int] = {}
        self._windows: dict[tuple[str, str], int | None] = {}

    def __call__(self, provider: str, model: str, usage: Usage, /) -> int | None:
        """Return the cost now, in nano-dollars; None if the price is unknown."""
        price = self._resolved.get((provider, model))
        if price is None or self._clock() >= price.until:
            price = self._resolve(provider, model)
        tiers = price.tiers
        if not tiers:
            return self._without_tiers(provider, model, usage, price)
        found = tiers[0][1]
        if len(tiers) > 1:
            for start, tier in tiers:
                if usage.input_tokens > start:
                    found = tier
        if price.needs and not _has_any(price.needs, usage):
            self._note_unknown(provider, model)
            return None
        return found.cost_nanousd(usage)

    @property
    def unknown(self) -> Mapping[tuple[str, str], int]:
        """Calls without a price since start, by provider and model; the first 256 pairs."""
        return self._unknown

    def load(self) -> bool:
        """Import the price list; tell whether there is one. Safe in another thread."""
        return _snapshot() is not None

    def flat(self, provider: str, model: str) -> FlatPrice | None:
        """Return the price if it is one for any amount of tokens, as of now."""
        price = self._resolved.get((provider, model))
        if price is None or self._clock() >= price.until:
            price = self._resolve(provider, model)
        return price.tiers[0][1] if len(price.tiers) == 1 else None

    def exact(self, provider: str, model: str, usage: Usage, at: datetime) -> int | None:
        """Return the cost at another time, by genai-prices' own decimals. Slow: ~0.1 ms.

        Args:
            at: Aware; prices change with date and hour.
        """
        override = self._override(provider, model)
        if override is not None:
            return override.cost_nanousd(usage)
        found = self._find(provider, model)
        return None if found is None else _calculate(*found, usage, at)

    def _without_tiers(
        self, provider: str, model: str, usage: Usage, price: _Resolved
    ) -> int | None:
        if price.model is not None:
            now = datetime.fromtimestamp(self._clock(), UTC)
            if (cost := _calculate(*price.model, usage, now)) is not None:
                return cost
        self._note_unknown(provider, model)
        return None

    def _note_unknown(self, provider: str, model: str) -> None:
        pair = (provider, model)
        if pair in self._unknown or len(self._unknown) < MAX_UNKNOWN:
            self._unknown[pair] = self._unknown.get(pair, 0) + 1

    def context_window(self, provider: str, model: str) -> int | None:
        """Return how many tokens a model takes; None if nobody knows."""
        key = provider, model
        if key not in self._windows:
            if len(self._windows) >= MAX_RESOLVED:
                self._windows.clear()
            found = self._find(provider, model)
            self._windows[key] = None if found is None else found[1].context_window
        return self._windows[key]

    def _resolve(self, provider: str, model: str) -> _Resolved:
        override = self._override(provider, model)
        if override is not None:
            price = _Resolved(_FOREVER, ((0, override),))
        else:
            found = self._find(provider, model)
            price = _Resolved(_FOREVER)
            if found is not None:
                price = _compile(*found, datetime.fromtimestamp(self._clock(), UTC))
        if len(self._resolved) >= MAX_RESOLVED:
            self._resolved.clear()
        self._resolved[provider, model] = price
        return price

    def _override(self, provider: str, model: str) -> FlatPrice | None:
        if not self._overrides:
            return None
        for name in _spellings(model):
            for key in (f"{provider}/{name}", name):
                if (price := self._overrides.get(key)) is not None:
                    return price
        return None

    def _find(self, provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
        snapshot = _snapshot()
        if snapshot is None:
            return None
        their_id = self._their_ids.get(provider, provider)
        if provider == "huggingface":
            # Its router takes `org/model:provider`, at that provider's price.
            model, _, behind = model.rpartition(":")
            their_id = f"huggingface_{behind}"
        for candidate in snapshot.providers:
            if candidate.id == their_id:
                for name in _spellings(model):
                    info = candidate.find_model(name, all_providers=snapshot.providers)
                    if info is not None:
                        return candidate, info
        return None


def _snapshot() -> DataSnapshot | None:
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    return get_snapshot()


def _spellings(model: str) -> Iterator[str]:
    """Yield the names a price list may know a model by, the given one first.

    Callers write `openai/gpt-4o`, `models/gemini-2.5-flash`, `publishers/google/models/…`.
    """
    name = model.lower()
    seen: set[str] = set()
    for shorter in (name, name.partition("/")[2], name.rpartition("/")[2]):
        for spelling in (shorter, _EDITION.sub("", shorter)):
            if spelling and spelling not in seen:
                seen.add(spelling)
                yield spelling


def _compile(provider: Provider, model: ModelInfo, now: datetime) -> _Resolved:
    until = _next_change(model, now)
    if provider.id == "groq" and "whisper" in model.id:
        return _Resolved(until, model=(provider, model))  # At least ten seconds are billed.
    listed = {key: price for key, price in vars(model.get_prices(now)).items() if price is not None}
    if listed and not listed.keys() & UNITS.keys():
        return _Resolved(until)
    starts = {0}
    for price in listed.values():
        if not isinstance(price, Decimal):
            starts.update(tier.start for tier in price.tiers)
    tiers = tuple(
        (start, flat_price({key: _at_tier(price, start) for key, price in listed.items()}))
        for start in sorted(starts)
    )
    return _Resolved(until, tiers, needs=_needs(listed))


def _needs(listed: Iterable[str]) -> frozenset[str]:
    """Return what alone is billed by the prices `listed`; empty if tokens or calls are."""
    names = frozenset(UNITS[key].name for key in listed if key in UNITS)
    return frozenset() if names & _ALWAYS_COUNTED else names


def _has_any(names: frozenset[str], usage: Usage) -> bool:
    counts = quantities(usage)
    return any(counts.get(name) for name in names)


def _at_tier(price: Any, start: int) -> Fraction:
    """Return the price of inputs just longer than `start` tokens."""
    if isinstance(price, Decimal):
        return Fraction(price)
    found = price.base
    for tier in price.tiers:
        if tier.start <= start:
            found = tier.price
    return Fraction(found)


def _next_change(model: ModelInfo, now: datetime) -> float:
    """Return when another of the model's prices may begin, in seconds since the epoch."""
    if not isinstance(model.prices, list):
        return _FOREVER
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    changes = [midnight + timedelta(days=1)]
    for conditional in model.prices:
        for name in ("start_time", "end_time"):
            hour = getattr(conditional.constraint, name, None)
            if hour is not None:
                # Times are UTC where they do not say otherwise, as dates are.
                moment = datetime.combine(midnight.date(), hour.replace(tzinfo=hour.tzinfo or UTC))
                changes += [moment + timedelta(days=days) for days in (-1, 0, 1)]
    return min(change.timestamp() for change in changes if change > now)


def _calculate(provider: Provider, model: ModelInfo, usage: Usage, at: datetime) -> int | None:
    from genai_prices import Usage as TheirUsage

    listed: ModelPrice = model.get_prices(at)
    priced = {key for key, price in vars(listed).items() if price is not None}
    if priced and not priced & UNITS.keys():
        return None
    if (needs := _needs(priced)) and not _has_any(needs, usage):
        return None
    try:
        cost = model.calc_price(
            TheirUsage(**quantities(usage)), provider, genai_request_timestamp=at
        ).total_price
    except ValueError:
        return None  # Counts that contradict one another in a way `quantities` cannot mend.
    return int((cost * NANO).quantize(Decimal(1), ROUND_HALF_EVEN))


def _decimal(name: str, value: Any) -> Decimal:
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        price = Decimal(-1)
    if not price.is_finite() or price < 0:
        raise ValueError(
            f"The {name} price {value!r} is not a number of dollars per million tokens, "
            'such as "2.50".'
        )
    return price
