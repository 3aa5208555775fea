"""Find out where one call may go, with which keys, in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.balance import Strategy, by_cost, by_load, by_weight
from asgi_llmgate.core.chain import Link
from asgi_llmgate.core.directives import Directives
from asgi_llmgate.core.estimate import estimate_input_tokens, prompt_size
from asgi_llmgate.core.fallback import Leg, MoveOn, Reason
from asgi_llmgate.core.forward import SIGNED, key_header
from asgi_llmgate.core.grants import check_target
from asgi_llmgate.core.health import NO_KEY, Health, Place, callers_key
from asgi_llmgate.core.key_pool import Chosen, missing_key, usable_keys
from asgi_llmgate.core.registry import ProviderKey
from asgi_llmgate.core.retry import RetryPolicy
from asgi_llmgate.errors import GatewayError
from asgi_llmgate.protocols import Price
from asgi_llmgate.types import CallerKey, Usage

__all__ = ["Member", "Picker", "Pool", "PoolTarget", "retry_of"]

# What a target costs is compared by a call of this size.
TYPICAL = Usage(input_tokens=1000, output_tokens=300)

# Helicone's defaults, for who asks for retries and says no more.
ASKED_RETRY = RetryPolicy(attempts=5, factor=2.0, min_s=1.0, max_s=10.0)


Credential = tuple[ProviderKey | None, CallerKey | None, str]
"""The operator's key, or the caller's, or neither; and under which name it is known."""


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """What is known of one target of an alias beside its name. None is unknown."""

    weight: float = 1.0
    window: int | None = None
    takes_tools: bool = True
    takes_images: bool = True


@dataclass(frozen=True, slots=True)
class Pool:
    """How to choose among the targets of an alias.

    Args:
        targets: In the order in which the alias has them.
        moves, retry: Those of the middleware where None.
    """

    targets: tuple[PoolTarget, ...]
    strategy: Strategy = Strategy.PRIORITY
    moves: MoveOn | None = None
    retry: RetryPolicy | None = None


@dataclass(slots=True)
class Member:
    """One target of a call, with what it takes to call it.

    Args:
        name: Provider and model, for the record.
        places, chosen: One for each key, in the order in which they are tried.
        near: Keys that come last because they are near a limit or were refused: id and reason.
        rewrite: Alone: the model to write into the body.
        error: What to say where nothing at all can be called.
    """

    name: tuple[str, str | None]
    leg: Leg = field(default_factory=Leg)
    places: Sequence[Place] = ()
    chosen: Sequence[Chosen] = ()
    near: Sequence[tuple[str, str]] = ()
    rewrite: str | None = None
    error: GatewayError | None = None


@dataclass(frozen=True, slots=True)
class Picker:
    """Makes the members of a call. See `FallbackMiddleware` for the arguments."""

    health: Health
    clock: Callable[[], float]
    roll: Callable[[], float]
    stored_keys: Callable[[str], Sequence[ProviderKey]] | None
    price: Price | None
    window: Callable[[str, str], int | None] | None

    def members(
        self,
        links: Sequence[Link],
        pool: Pool | None,
        request: Mapping[str, Any],
        context: GatewayContext,
    ) -> list[Member]:
        """Return the targets of a call in the order in which they are tried.

        Raises:
            ForbiddenError: the caller may not have one of them.
        """
        first_provider = links[0].name[0]
        if pool is not None and len(pool.targets) != len(links):
            pool = None  # The header names others.
        wants = _Wants(context.route.format, request)
        made = []
        for place, link in enumerate(links):
            about = pool.targets[place] if pool is not None else PoolTarget()
            made.append(self._member(link, about, pool, wants, context, first_provider, len(links)))
        return made if pool is None else [made[place] for place in self._order(pool, made)]

    def _member(
        self,
        link: Link,
        about: PoolTarget,
        pool: Pool | None,
        wants: _Wants,
        context: GatewayContext,
        first_provider: str,
        number: int,
    ) -> Member:
        provider_id, model = link.name
        target = link.target
        if target is None:
            return Member(link.name, Leg(unfit=link.unfit, moves=link.moves), error=link.error)
        if number > 1:
            _check_allowed(context, provider_id, model)
        window = about.window
        if window is None and self.window is not None and model is not None and number > 1:
            window = self.window(provider_id, model)
        unfit = None
        if number > 1:
            takes_images = about.takes_images and not target.provider.content_must_be_string
            unfit = wants.unfit(model, about.takes_tools, takes_images, window)
        error: GatewayError | None = None
        keys: Sequence[Credential] = ()
        near: Sequence[tuple[str, str]] = ()
        defer = None
        if unfit is None:
            keys, near = self._keys(link, pool, context, first_provider)
            if near and len(near) == len(keys):
                # Not one of them is good: it is another target's turn, if there is one.
                are_out = all(reason == Reason.AUTH_OUT for _, reason in near)
                defer, near = Reason.AUTH_OUT if are_out else Reason.NEAR_LIMIT, ()
            if not keys:
                unfit = Reason.NO_KEY
                stored = self.stored_keys(provider_id) if self.stored_keys is not None else ()
                error = missing_key(target.provider, stored, context.principal)
        leg = Leg(len(keys), unfit, link.moves, window, model, defer)
        chosen = [
            Chosen(target, key, caller, link.headers, link.override) for key, caller, _ in keys
        ]
        places = [Place(provider_id, name, model or "") for _, _, name in keys]
        return Member(link.name, leg, places, chosen, near, error=error)

    def _keys(
        self, link: Link, pool: Pool | None, context: GatewayContext, first_provider: str
    ) -> tuple[Sequence[Credential], Sequence[tuple[str, str]]]:
        """Return the credentials for a target, and those that come last, with the reason."""
        assert link.target is not None
        provider = link.target.provider
        principal = context.principal
        theirs = callers_key(principal.tenant if principal is not None else "")
        if link.caller_key is not None and not _is_ours(link.caller_key, context):
            return [(None, link.caller_key, theirs)], ()
        # A caller's key goes to the provider of the first target, and to nobody else.
        if context.caller_key is not None and provider.id == first_provider:
            return [(None, context.caller_key, theirs)], ()
        stored = self.stored_keys(provider.id) if self.stored_keys is not None else ()
        usable = [
            key
            for key in usable_keys(provider, stored, principal)
            if provider.auth in SIGNED or key_header(provider.auth, key.key) is not None
        ]
        if not usable:
            return ([(None, None, NO_KEY)] if provider.key_optional else []), ()
        order = self._key_order(usable, provider.id, link.name[1], pool)
        now_s = self.clock()
        good, last, near = [], [], []
        for key in order:
            if self.health.is_out(provider.id, key.id, now_s):
                near.append((key.id, Reason.AUTH_OUT))
                last.append(key)
            elif self.health.limits and self.health.limits_of(provider.id, key.id).is_near(now_s):
                near.append((key.id, Reason.NEAR_LIMIT))
                last.insert(0, key)  # One that was refused is the very last.
            else:
                good.append(key)
        return [(key, None, key.id) for key in (*good, *last)], near

    def _key_order(
        self, keys: Sequence[ProviderKey], provider: str, model: str | None, pool: Pool | None
    ) -> list[ProviderKey]:
        if len(keys) == 1:
            return list(keys)
        order = by_weight([key.weight for key in keys], [self.roll() for _ in keys])
        if pool is not None and pool.strategy is Strategy.LATENCY:
            order = by_load(
                order, self._scores([Place(provider, key.id, model or "") for key in keys])
            )
        return [keys[place] for place in order]

    def _order(self, pool: Pool, members: Sequence[Member]) -> list[int]:
        match pool.strategy:
            case Strategy.PRIORITY:
                return list(range(len(members)))
            case Strategy.COST:
                return by_cost([self._cost(*member.name) for member in members])
            case Strategy.WEIGHTED | Strategy.LATENCY:
                weights = [target.weight for target in pool.targets]
                order = by_weight(weights, [self.roll() for _ in members])
                if pool.strategy is Strategy.WEIGHTED:
                    return order
                places = [Place(provider, "", model or "") for provider, model in _names(members)]
                return by_load(order, self._scores(places))

    def _scores(self, places: Sequence[Place]) -> list[float]:
        now_s = self.clock()
        return [self.health.load(place).score(now_s) for place in places]

    def _cost(self, provider: str, model: str | None) -> int | None:
        if self.price is None or model is None:
            return None
        return self.price(provider, model, TYPICAL)


def _names(members: Sequence[Member]) -> list[tuple[str, str | None]]:
    return [member.name for member in members]


class _Wants:
    """What a request needs of a target. Measured once it is asked for."""

    __slots__ = ("_format", "_request", "_size")

    def __init__(self, wire_format: str | None, request: Mapping[str, Any]) -> None:
        self._format = wire_format
        self._request = request
        self._size = prompt_size(request)

    def unfit(
        self, model: str | None, takes_tools: bool, takes_images: bool, window: int | None
    ) -> str | None:
        if self._size.has_tools and not takes_tools:
            return Reason.TOOLS
        if self._size.images and not takes_images:
            return Reason.IMAGES
        if window is not None:
            tokens = estimate_input_tokens(self._format, self._request, model)
            # An estimate is within a fifth or so; what might fit is left to the provider.
            if tokens > window * 1.25:
                return Reason.CONTEXT_WINDOW
        return None


def _check_allowed(context: GatewayContext, provider: str, model: str | None) -> None:
    """Refuse a target that the caller may not have, before the first is called."""
    principal = context.principal
    if principal is not None and principal.grants is not None:
        check_target(principal.grants, provider, model, context.route.format)
    policy = context.policy
    if policy is not None and policy.restricts_targets and not policy.policy.observe:
        refusal = policy.not_allowed(provider, model, context.route.format)
        if refusal is not None:
            raise refusal.error


def _is_ours(key: CallerKey, context: GatewayContext) -> bool:
    """Tell whether a key in an entry is what the caller authenticated with here."""
    if context.caller_key is not None and context.caller_key.key == key.key:
        return False
    value = key.key.reveal().encode()
    names = (b"llmgate-auth", b"helicone-auth", b"authorization", b"x-api-key", b"api-key")
    return any(
        value in context.headers.get(name, b"").split() for name in (*names, b"x-goog-api-key")
    )


def retry_of(directives: Directives, default: RetryPolicy) -> RetryPolicy:
    """Return how often to ask the same target again, as the caller says, else `default`."""
    if directives.retry_enabled is None:
        return default
    if not directives.retry_enabled:
        return RetryPolicy()
    base = default if default.attempts > 1 else ASKED_RETRY
    low, high = directives.retry_min_timeout_ms, directives.retry_max_timeout_ms
    most_s = base.max_s if high is None else high / 1000
    return RetryPolicy(
        attempts=base.attempts if directives.retry_num is None else max(1, directives.retry_num),
        factor=base.factor if directives.retry_factor is None else directives.retry_factor,
        min_s=min(base.min_s if low is None else low / 1000, most_s),
        max_s=most_s,
    )
