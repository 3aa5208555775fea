"""Keep calls within what their callers may spend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.budgets import Budget, budget_meter
from asgi_llmgate.core.estimate import complete_usage
from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.limits import Identity, Policy, Unit, key_policies
from asgi_llmgate.core.meter import StreamMeter, meter_json
from asgi_llmgate.core.meters import Claim, Kind, Meter, Standing
from asgi_llmgate.core.reserve import LearnedOutputs, expected_usage
from asgi_llmgate.core.tags import user_in_body
from asgi_llmgate.errors import InvalidRequestError, LimitExceededError
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware._grants import TargetsOf
from asgi_llmgate.middleware._limit_headers import Stands, limit_headers, without_repeats
from asgi_llmgate.protocols import LimitStore, Price, Taken
from asgi_llmgate.types import CacheStatus, Usage

__all__ = ["Count", "LimitsMiddleware"]

Count = Callable[..., None]
"""Adds one to a metric: `count("llmgate_limited_total", unit="token")`."""

NANO = 10**9
MAX_METERS = 10_000
MAX_METERED_BYTES = 32 * 1024 * 1024
# Helicone never takes more for one call: $10,000.
MAX_CALL_NANOUSD = 10_000 * NANO
_SPENDS = (Unit.TOKEN, Unit.CENTS)
_READS_ONLY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class LimitsMiddleware(GatewayMiddleware):
    """Refuse calls beyond the limits with 429; count what the others use.

    What a call may use is reserved before it, and settled after it by what it did use: also when
    it failed, when the caller left, and when the provider sent no usage. A request can add
    policies by `LLMGate-RateLimit-Policy`, never take one away.

    Alone: in front of any LLM-shaped endpoint; usage is read off the bytes that pass, and `key`
    says whose bucket it is. Stacked: inside auth and tagging, which say who calls, and outside
    the cache, whose hits use no tokens.

    Args:
        app: The application inside.
        store: Where it is counted. Yours to close.
        policies: For every call they apply to. A call that has no value for a policy's segment
            shares one bucket with all others that have none.
        budgets: Beside those of the store.
        price: Turns usage into nano-dollars; without it nothing costs anything.
        key: Says whose bucket a call is, where no AuthMiddleware does.
        targets: Where a call will go, for what it will cost; None takes `provider`.
        provider: Whose prices count where nobody knows the target.
        zone: In which budgets' hours, days and months begin.
        ietf_headers: Also send the fields `RateLimit` and `RateLimit-Policy`.
        count: Told of every refusal.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    must_be_inside = ("AuthMiddleware", "PolicyMiddleware", "TaggingMiddleware")

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: LimitStore,
        policies: Sequence[Policy] = (),
        budgets: Sequence[Budget] = (),
        price: Price | None = None,
        key: Callable[[Scope], str] | None = None,
        targets: TargetsOf | None = None,
        provider: str = "",
        zone: tzinfo = UTC,
        ietf_headers: bool = False,
        count: Count | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self.store = store
        self.policies = tuple(policies)
        self.own_budgets = tuple(budgets)
        self.price = price
        self.key = key
        self.targets = targets
        self.provider = provider
        self.zone = zone
        self.ietf_headers = ietf_headers
        self.count = count
        self._learned = LearnedOutputs()
        # By identity, for hashing a policy takes longer than all else; so the policy is kept, too.
        self._meters: dict[tuple[int, str, str], tuple[Policy, Meter]] = {}
        self._budget_meters: dict[tuple[int, str], tuple[Budget, Meter]] = {}

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        policies, principal = self.policies, context.principal
        if principal is not None and principal.rates:
            policies += key_policies(principal.rates)
        asked = context.directives.rate_limit_policy
        if asked:
            policies += asked
        stored = self.store.budgets()
        if stored is None:
            stored = await self.store.load_budgets()
        budgets = (*self.own_budgets, *stored) if stored else self.own_budgets
        if not policies and not budgets:
            await self.app(scope, receive, send)
            return
        request = context.body.parsed
        if request is None:
            request = await self._request(context)
        receive = context.body.replay(receive)
        call = _Call(self, context, scope, request, policies, budgets)
        taken = self.store.take(call.claims)
        if not isinstance(taken, Taken):
            taken = await taken
        if taken.hold is None:
            raise call.refusal(taken.standings)
        answer = _Answer(context, send, meters=call.spends)
        try:
            answer.headers = call.headers(taken.standings)
            await self.app(scope, receive, answer)
        finally:
            # Nothing here waits, so that a cancelled call is settled, too.
            self.store.settle(taken.hold, call.spent(answer))

    async def _request(self, context: GatewayContext) -> dict[str, Any] | None:
        route = context.route
        if route.is_json:
            return await context.body.json()
        content_type = context.headers.get(b"content-type", b"")
        if route.provider is None or not content_type.lower().startswith(b"application/json"):
            return None
        try:
            value = loads(await context.body.read())
        except JSONError:
            return None
        return value if isinstance(value, dict) else None

    def meter(self, policy: Policy, tenant: str, value: str) -> Meter:
        known = self._meters.get((id(policy), tenant, value))
        if known is not None and known[0] is policy:
            return known[1]
        if len(self._meters) >= MAX_METERS:
            self._meters.clear()
        kind = Kind.CONCURRENT if policy.unit is Unit.CONCURRENT else Kind.RATE
        meter = Meter(policy.bucket(tenant, value), kind, policy.quota, policy.window_s * NANO)
        self._meters[id(policy), tenant, value] = policy, meter
        return meter

    def budget_meter(self, budget: Budget, subject: str, wall_ns: int) -> Meter:
        known = self._budget_meters.get((id(budget), subject))
        if known is not None and known[0] is budget:
            ends_ns = known[1].ends_ns
            # A clock that was set back by some hours goes on in the period it has been in.
            if ends_ns - 31 * 86_400 * NANO <= wall_ns < ends_ns:
                return known[1]
        if len(self._budget_meters) >= MAX_METERS:
            self._budget_meters.clear()
        meter = budget_meter(budget, subject, wall_ns, self.zone)
        self._budget_meters[id(budget), subject] = budget, meter
        return meter

    def cost(self, targets: Iterable[tuple[str, str | None]], usage: Usage) -> int:
        """Return the highest cost among `targets`; 0 where no price is known."""
        if self.price is None:
            return 0
        costs = [
            self.price(provider, model, usage) for provider, model in targets if model is not None
        ]
        return max((cost for cost in costs if cost is not None), default=0)


class _Call:
    """What one call claims, and what it says when it is refused."""

    __slots__ = (
        "_budgets",
        "_context",
        "_expected",
        "_expected_cost",
        "_has_user",
        "_is_free",
        "_limits",
        "_model",
        "_policies",
        "_request",
        "claims",
        "spends",
    )

    def __init__(
        self,
        limits: LimitsMiddleware,
        context: GatewayContext,
        scope: Scope,
        request: dict[str, Any] | None,
        policies: Sequence[Policy],
        budgets: Sequence[Budget],
    ) -> None:
        self._limits = limits
        self._context = context
        self._request = request
        model = context.route.model
        if model is None and request is not None:
            named = request.get("model")
            model = named if isinstance(named, str) else None
        self._model = model
        self._expected: Usage | None = None
        self._expected_cost: int | None = None
        self._is_free = request is None and scope["method"] in _READS_ONLY
        self._policies: list[Policy] = []
        self._budgets: list[Budget] = []
        self.claims: list[Claim] = []
        # Whether it matters how much is used; else nobody looks.
        self.spends = False
        self._has_user = True
        identity = self._identity(scope)
        for policy in policies:
            self._claim(policy, identity)
        wall_ns = context.started_at_us * 1000
        for budget in budgets:
            subject = budget.subject_of(identity)
            if subject is None or self._is_free:
                continue
            meter = limits.budget_meter(budget, subject, wall_ns)
            amount = min(self.expected_cost, meter.quota)
            self.claims.append(Claim(meter, amount, max(1, amount)))
            self._budgets.append(budget)
            self.spends = True

    def headers(self, standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
        stands: Stands = list(zip(self._policies, standings, strict=False))
        limits = self._limits
        return limit_headers(stands, self._context.route.dialect, ietf=limits.ietf_headers)

    def refusal(self, standings: Sequence[Standing]) -> LimitExceededError:
        place = max(
            (place for place, standing in enumerate(standings) if not standing.allowed),
            key=lambda place: standings[place].wait_ns,
        )
        wait_s = standings[place].wait_ns / NANO
        headers = self.headers(standings)
        if place >= len(self._policies):
            budget = self._budgets[place - len(self._policies)]
            self._count(f"budget_{budget.period}")
            ends = datetime.fromtimestamp(
                self.claims[place].meter.ends_ns // NANO, self._limits.zone
            )
            return LimitExceededError(
                f"The budget {budget.name} of this {budget.period} does not cover this call. "
                f"The next {budget.period} begins at {ends.isoformat()}.",
                code="budget_exceeded",
                retry_after_s=wait_s,
                should_retry=False,
                headers=headers,
            )
        policy = self._policies[place]
        self._count(policy.unit.value)
        whose = policy.segment.removeprefix("property:")
        if whose == "tenant" and policy.source.startswith("key:"):
            whose = "key"
        if policy.unit is Unit.CONCURRENT:
            what = f"{_counted(policy.quota, 'call')} at once"
        else:
            amount = limit_amount(policy)
            what = f"{amount} in {policy.window_s} s"
        return LimitExceededError(
            f"The limit of {what} (for this {whose}) is reached. "
            f"Try again in {max(1, -(-standings[place].wait_ns // NANO))} s.",
            retry_after_s=wait_s,
            headers=headers,
        )

    def spent(self, answer: _Answer) -> list[int]:
        """Return what the call took of each claim, in their order."""
        context = self._context
        if not self.spends:
            return [1 if policy.unit is Unit.REQUEST else 0 for policy in self._policies]
        usage, cost = self._used(answer)
        if usage is not None and not usage.estimated and self._model is not None:
            self._limits._learned.observe(self._model, usage.output_tokens)
        tokens = context.earlier_tokens
        if usage is not None:
            tokens += usage.input_tokens + usage.output_tokens
        if context.cache is CacheStatus.HIT:
            tokens = cost = 0
        spent = []
        for policy in self._policies:
            unit = policy.unit
            if unit is Unit.REQUEST:
                spent.append(1)
            elif unit is Unit.TOKEN:
                spent.append(tokens)
            else:
                spent.append(min(cost, MAX_CALL_NANOUSD) if unit is Unit.CENTS else 0)
        spent.extend(cost for _ in self._budgets)
        return spent

    @property
    def expected_cost(self) -> int:
        if self._expected_cost is None:
            limits = self._limits
            self._expected_cost = 0
            if limits.price is not None and self.expected.input_tokens:
                self._expected_cost = limits.cost(self._targets(), self.expected)
        return self._expected_cost

    @property
    def expected(self) -> Usage:
        if self._expected is None:
            self._expected = self._expect(self._request)
            for entry in self._context.directives.fallbacks:
                # A body that is another one for some target may allow more.
                override = entry.get("bodyKeyOverride") if isinstance(entry, dict) else None
                if isinstance(override, dict) and self._request is not None:
                    other = self._expect({**self._request, **override})
                    self._expected = Usage(
                        max(self._expected.input_tokens, other.input_tokens),
                        max(self._expected.output_tokens, other.output_tokens),
                        estimated=True,
                    )
        return self._expected

    def _expect(self, request: Mapping[str, Any] | None) -> Usage:
        wire_format, learned = self._context.route.format, self._limits._learned
        return expected_usage(wire_format, request, self._model, learned)

    def _targets(self) -> Iterable[tuple[str, str | None]]:
        limits, override = self._limits, self._context.directives.model_override
        if limits.targets is None:
            found: Iterable[tuple[str, str | None]] = [(limits.provider, self._model)]
        else:
            found = limits.targets(self._context, self._model)
        if override is None:
            return found
        return [(provider, model) for provider, real in found for model in (real, override)]

    def _used(self, answer: _Answer) -> tuple[Usage | None, int]:
        """Return usage and cost, as whoever called the provider has them, or off the bytes."""
        context, limits = self._context, self._limits
        usage, cost = context.usage, context.cost_nanousd
        model, provider = context.target_model, context.target_provider
        if usage is None and not context.metered:
            usage, answered = answer.usage(self._request, self._model)
            model = model or answered or self._model
        if usage is None and context.client_left and context.upstream_started_ns is not None:
            # He left before the answer began; the provider had the prompt and bills it.
            usage, cost = Usage(self.expected.input_tokens, estimated=True), None
        price, provider = limits.price, provider or limits.provider
        if usage is None or price is None:
            return usage, cost or 0
        if cost is None and model is not None:
            cost = price(provider, model, usage)
            if context.earlier_nanousd:
                cost = (cost or 0) + context.earlier_nanousd
            if context.metered:
                context.cost_nanousd = cost
        if context.billed_model is not None and context.cache is not CacheStatus.HIT:
            # A header that says what a call is to be counted as makes no call cheaper.
            billed = price(provider, context.billed_model, usage) or 0
            cost = max(cost or 0, billed + context.earlier_nanousd)
        return usage, cost or 0

    def _identity(self, scope: Scope) -> Identity:
        context = self._context
        principal, tags = context.principal, context.tags
        key = principal.id if principal is not None else None
        if self._limits.key is not None:
            key = self._limits.key(scope)
        if tags is not None:
            user, session, properties = tags.user_id, tags.session_id, tags.properties
            self._has_user = tags.user_source != "synthetic"
        else:
            asked = context.directives
            user = asked.user_id or (user_in_body(self._request) if self._request else None)
            session, properties = asked.session_id, asked.properties
        tenant = principal.tenant if principal is not None else (key or "")
        return Identity(tenant, key, user, session, self._model, context.route.name, properties)

    def _claim(self, policy: Policy, identity: Identity) -> None:
        if not policy.applies(identity) or (self._is_free and policy.unit in _SPENDS):
            return
        value = identity.of(policy.segment)
        if policy.source in ("header", "helicone") and (
            # Who asks for a limit per user and names none has made a mistake.
            value is None or (policy.segment == "user" and not self._has_user)
        ):
            self._missing(policy)
            return
        meter = self._limits.meter(policy, identity.tenant, value or "")
        amount = 1
        unit = policy.unit
        if unit is Unit.TOKEN or unit is Unit.CENTS:
            self.spends = True
            if policy.charges_after:
                amount = 0
            elif unit is Unit.TOKEN:
                expected = self.expected
                amount = min(expected.input_tokens + expected.output_tokens, policy.quota)
            else:
                amount = min(self.expected_cost, policy.quota)
        self.claims.append(Claim(meter, amount, amount or 1))
        self._policies.append(policy)

    def _missing(self, policy: Policy) -> None:
        """Answer a caller's own policy whose segment his call does not have."""
        name = policy.segment.removeprefix("property:")
        if policy.source == "helicone":
            self._context.warn(
                "Helicone-RateLimit-Policy was ignored: the call has no value for its segment"
            )
            return
        header = {"user": "User-Id", "session": "Session-Id"}.get(name, f"Property-{name}")
        raise InvalidRequestError(
            f"LLMGate-RateLimit-Policy limits by {name!r} (`s=`), which this call does not have. "
            f"Send LLMGate-{header}, or take another segment.",
            code="invalid_header",
            param="LLMGate-RateLimit-Policy",
        )

    def _count(self, unit: str) -> None:
        if self._limits.count is not None:
            self._limits.count("llmgate_limited_total", unit=unit)


class _Answer:
    """The `send` of one call: adds the headers, and meters where nobody inside does."""

    __slots__ = ("_context", "_meter", "_meters", "_send", "_size", "_whole", "headers")

    def __init__(self, context: GatewayContext, send: Send, *, meters: bool) -> None:
        self._context = context
        self._send = send
        self._meters = meters
        self.headers: list[tuple[bytes, bytes]] = []
        self._meter: StreamMeter | None = None
        self._whole: list[bytes] | None = None
        self._size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            present = list(message.get("headers", ()))
            if self.headers:
                present += without_repeats(self.headers, present)
                message = {**message, "headers": present}
            if self._meters and not self._context.metered and message["status"] < 400:
                content_type = dict(message["headers"]).get(b"content-type", b"")
                if b"json" in content_type and b"stream" not in content_type:
                    self._whole = []
                else:
                    self._meter = StreamMeter(self._context.route.format or "")
        await self._send(message)
        if message["type"] == "http.response.body" and (body := message.get("body")):
            if self._meter is not None:
                self._meter.feed(body)
            elif self._whole is not None:
                self._size += len(body)
                if self._size <= MAX_METERED_BYTES:
                    self._whole.append(body)

    def usage(
        self, request: Mapping[str, Any] | None, model: str | None
    ) -> tuple[Usage | None, str | None]:
        """Return what the answer used, as far as it arrived, and the model that it names."""
        wire_format = self._context.route.format or ""
        if self._meter is not None:
            metered = self._meter.close()
        elif self._whole is not None:
            metered = meter_json(wire_format, b"".join(self._whole))
        else:
            return None, None
        usage = complete_usage(metered, wire_format, request, metered.model or model)
        return usage, metered.model


def limit_amount(policy: Policy) -> str:
    amount = policy.describe().partition(";")[0]
    return f"{amount} {policy.unit}" if policy.unit is Unit.CENTS else _counted(amount, policy.unit)


def _counted(amount: str | int, noun: str) -> str:
    return f"{amount} {noun}" if str(amount) == "1" else f"{amount} {noun}s"
