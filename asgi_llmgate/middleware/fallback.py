"""Try another key, another provider or another model when one fails.

    FallbackMiddleware   finds out which targets there are        (core/chain.py)
    Call                 drives the plan of one request           (core/fallback.py)
    ResponseGate         holds back what may not be the last word (_gate.py)

An attempt is one call of the application inside. Nothing is tried again once anything of an answer
reached the caller.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.breaker import CALL
from asgi_llmgate.core.chain import Link, chain_of
from asgi_llmgate.core.directives import DEFAULT
from asgi_llmgate.core.fallback import DEFAULT_MOVES, Leg, MoveOn, Reason
from asgi_llmgate.core.health import NO_KEY, Health, Place, callers_key
from asgi_llmgate.core.key_pool import usable_keys
from asgi_llmgate.core.registry import ProviderKey, Registry
from asgi_llmgate.core.retry import NO_RETRY, RetryPolicy
from asgi_llmgate.errors import InvalidRequestError, UpstreamError
from asgi_llmgate.middleware._attempts import Attempts, Parts
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware._judge import judge_error
from asgi_llmgate.middleware._members import Member, Picker, Pool, PoolTarget, retry_of
from asgi_llmgate.protocols import Price

__all__ = ["FallbackMiddleware", "Pool", "PoolTarget"]

# A stream that has begun and then says nothing for so long, not even that it thinks, hangs.
STALL_S = 60.0

# Model names are a stranger's to choose.
MAX_KNOWN = 1000


class FallbackMiddleware(GatewayMiddleware):
    """Call the application inside again, until an answer may be sent.

    Alone: around any endpoint of OpenAI's shape; calls it again with the next of `models` in the
    body. Stacked: directly around dispatch, with a `registry`, which tells it the targets.

    A 429, a 503 or no connection moves on to the next key or target at once. The same target is
    asked again, after a pause, only where `Retry-Enabled` or `retry` says so. Before its first
    content a stream is held back; after it nothing can be tried again.

    Args:
        app: The application inside.
        models: Alone: the models to try, in order, whatever the request names; without them a comma
            list in the request is tried.
        registry: Stacked: every provider there is.
        pools: By the name of a model that is an alias: how its targets are chosen among.
        moves: What is reason enough to go on to another target.
        retry: How often the same target is asked, unless the request says.
        health: What is known about upstreams; shared with whoever shows it.
        stored_keys: Further keys of a provider, by its id.
        price: For the strategy `cost`, and for what attempts cost whose answers nobody gets.
        window: Tokens that a model of a provider takes; None if unknown.
        stall_s: How long a stream may take from its head to its first content.
        count: Called with the name and labels of a counter.
        sleep, clock, roll: Replaced in tests: seconds; monotonic seconds; random in [0, 1).
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    must_be_inside = (
        "LoggingMiddleware",
        "AuthMiddleware",
        "PolicyMiddleware",
        "TaggingMiddleware",
        "LimitsMiddleware",
        "IdempotencyMiddleware",
        "CacheMiddleware",
    )

    def __init__(
        self,
        app: ASGIApp,
        *,
        models: Sequence[str] = (),
        registry: Registry | None = None,
        pools: Mapping[str, Pool] | None = None,
        moves: MoveOn = DEFAULT_MOVES,
        retry: RetryPolicy = NO_RETRY,
        health: Health | None = None,
        stored_keys: Callable[[str], Sequence[ProviderKey]] | None = None,
        price: Price | None = None,
        window: Callable[[str, str], int | None] | None = None,
        stall_s: float = STALL_S,
        count: Callable[..., None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        roll: Callable[[], float] = random.random,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self.models = tuple(models)
        self.registry = registry
        self.pools = dict(pools or {})
        self.moves = moves
        self.retry = retry
        self.health = health if health is not None else Health()
        self.stored_keys = stored_keys
        self.clock = clock
        self._roll = roll
        self._picker = Picker(self.health, clock, roll, stored_keys, price, window)
        self._parts = Parts(
            app=app,
            is_alone=registry is None,
            health=self.health,
            sleep=sleep,
            clock=clock,
            wall=time.time,
            roll=roll,
            stall_s=stall_s,
            count=count,
            price=price,
        )
        self._known: dict[tuple[str, str | None], tuple[Link, ...]] = {}

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        route = context.route
        # Uploads are streamed through, and what is passed through is not ours to choose for.
        if not route.is_json or (route.provider is not None and self.registry is not None):
            if context.directives.fallbacks and self.registry is not None:
                chain_of(route, route.model, context.directives, self.registry)
            await self.app(scope, receive, send)
            return
        if self.health.on_use is not None:
            self.health.on_use()
        request = await context.body.json()
        model = route.model
        if model is None and isinstance(request.get("model"), str):
            model = request["model"]
        if self.registry is None:
            await self._alone(model, request, context, scope, receive, send)
            return
        chain = self._chain(model, context, self.registry)
        directives = context.directives
        wants_retry = directives.retry_enabled is True or (
            self.retry.attempts > 1 and directives.retry_enabled is None
        )
        if len(chain) == 1 and not wants_retry and model not in self.pools:
            key = self._only_key(chain[0], context)
            if key is not None:
                await self._once(chain[0], key, context, scope, receive, send)
                return
        # Dispatch says the same of every attempt, but there may be none.
        context.model_requested = model
        context.is_stream = route.is_stream is True or request.get("stream") is True
        pool = self.pools.get(model) if model is not None else None
        members = self._picker.members(chain, pool, request, context)
        default = pool.retry if pool is not None and pool.retry is not None else self.retry
        attempts = Attempts(
            self._parts,
            context,
            members,
            retry_of(directives, default),
            is_chain=len(members) > 1,
        )
        await attempts.run(scope, receive, send)

    def _chain(
        self, model: str | None, context: GatewayContext, registry: Registry
    ) -> tuple[Link, ...]:
        route = context.route
        is_plain = context.directives is DEFAULT and route.model is None
        key = (route.name, model)
        if is_plain and (known := self._known.get(key)) is not None:
            return known
        pool = self.pools.get(model) if model is not None else None
        moves = pool.moves if pool is not None and pool.moves is not None else self.moves
        chain = chain_of(route, model, context.directives, registry, moves)
        if is_plain:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = chain
        return chain

    def _only_key(self, link: Link, context: GatewayContext) -> str | None:
        """Return the name of the one credential there is; None if there are several."""
        if link.target is None or link.headers or link.caller_key is not None or link.override:
            return None
        principal = context.principal
        if context.caller_key is not None:
            return callers_key(principal.tenant if principal is not None else "")
        provider = link.target.provider
        stored = self.stored_keys(provider.id) if self.stored_keys is not None else ()
        if not stored:
            # Nearly every call comes here; the general rule takes a microsecond.
            if not provider.keys:
                return NO_KEY
            if len(provider.keys) == 1 and provider.keys[0].tenant is None:
                return provider.keys[0].id
        keys = usable_keys(provider, stored, principal)
        if len(keys) > 1:
            return None
        return keys[0].id if keys else NO_KEY

    async def _once(
        self,
        link: Link,
        key: str,
        context: GatewayContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Make the only attempt there can be: dispatch does all of it."""
        health = self.health
        provider, model = link.name
        health.budget(provider).calls += 1
        place: Place | None = None
        ticket = CALL
        if health.breakers or health.inbox:
            place = Place(provider, key, model or "")
            # A sole target is called although its breaker is open: there is nowhere else to go,
            # and the provider's own answer tells more than a refusal of ours.
            ticket = health.admit(place, self.clock()) or CALL
        is_good: bool | None = None
        reason = ""
        try:
            await self.app(scope, receive, send)
        except UpstreamError as error:
            outcome = judge_error(error, context.attempts[-1].status if context.attempts else None)
            if outcome.reason == Reason.AUTH:
                why = f"status {outcome.status}"
                health.take_out(provider, key, self.clock(), self._roll(), why)
                if self._parts.count is not None:
                    self._parts.count("llmgate_keys_refused_total", provider=provider)
            else:
                is_good, reason = False, outcome.reason or ""
            raise
        else:
            is_good, reason = self._seen(context)
        finally:
            if is_good is False or health.breakers:
                health.record(
                    place or Place(provider, key, model or ""),
                    ticket,
                    is_good=is_good,
                    now_s=self.clock(),
                    roll=self._roll(),
                    reason=reason,
                )

    def _seen(self, context: GatewayContext) -> tuple[bool | None, str]:
        """Tell whether the answer that went out speaks for the provider."""
        if not context.attempts:
            return None, ""
        last = context.attempts[-1]
        if last.reason is not None and context.error_code is not None:
            return False, last.reason
        if last.status is None or last.reason is not None:
            return None, ""
        if last.status >= 500:
            return False, f"status {last.status}"
        first_ns, began_ns = context.first_byte_ns, context.upstream_started_ns
        waited_ns = 0 if first_ns is None or began_ns is None else first_ns - began_ns
        if waited_ns / 1e9 > self.health.policy.slow_s:
            return False, "slow"
        return True, ""

    async def _alone(
        self,
        model: str | None,
        request: dict[str, Any],
        context: GatewayContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        names = list(self.models) or [name.strip() for name in (model or "").split(",")]
        for number, entry in enumerate(context.directives.fallbacks, 1):
            name = entry if isinstance(entry, str) else entry.get("model")
            if not isinstance(name, str) or not name:
                raise InvalidRequestError(
                    f"LLMGate-Fallbacks: entry {number} needs a `model`.",
                    code="invalid_header",
                    param="LLMGate-Fallbacks",
                )
            if name not in names:
                names.append(name)
        retry = retry_of(context.directives, self.retry)
        if len(names) == 1 and names[0] == model and retry.attempts <= 1:
            await self.app(scope, context.body.replay(receive), send)
            return
        provider = context.target_provider or "app"
        members = [
            Member(
                (provider, name),
                Leg(moves=self.moves, model=name),
                (Place(provider, NO_KEY, name),),
                rewrite=name,
            )
            for name in names
        ]
        attempts = Attempts(self._parts, context, members, retry, is_chain=len(members) > 1)
        await attempts.run(scope, receive, send)
