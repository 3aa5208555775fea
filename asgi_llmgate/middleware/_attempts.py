"""Make the attempts of one call, as its plan says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate._asgi.disconnect import DisconnectWatch
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.breaker import Ticket
from asgi_llmgate.core.fallback import (
    Attempt,
    Outcome,
    PassOver,
    Pause,
    Reason,
    fallback_plan,
)
from asgi_llmgate.core.health import NO_KEY, Health, Place
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.retry import RetryPolicy
from asgi_llmgate.errors import (
    ClientDisconnectedError,
    GatewayError,
    OverloadedError,
    TranslationError,
    UpstreamError,
)
from asgi_llmgate.middleware._gate import ResponseGate
from asgi_llmgate.middleware._judge import is_the_upstreams_fault, judge_answer, judge_error
from asgi_llmgate.middleware._members import Member
from asgi_llmgate.protocols import Price
from asgi_llmgate.types import AttemptRecord, Usage

__all__ = ["Attempts", "Parts", "closed_to_all"]

SPENT = [(b"x-should-retry", b"false")]
"""Told to a caller whose SDK would otherwise do again what was done here in vain."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all calls share. See `FallbackMiddleware`."""

    app: ASGIApp
    is_alone: bool
    health: Health
    sleep: Callable[[float], Awaitable[None]]
    clock: Callable[[], float]
    wall: Callable[[], float]
    roll: Callable[[], float]
    stall_s: float
    count: Callable[..., None] | None
    price: Price | None = None


@dataclass(slots=True)
class _Answer:
    """An answer that is held back, and what the context said of it."""

    gate: ResponseGate
    index: int
    number: int
    provider: str | None
    model: str | None
    error_code: str | None
    usage: Usage | None
    cost_nanousd: int
    complete: bool
    is_spent: bool
    """It would have been another one's turn, if there were one."""


class Attempts:
    """One call. `run` returns when the caller has his answer, or raises what he is told."""

    def __init__(
        self,
        parts: Parts,
        context: GatewayContext,
        members: Sequence[Member],
        retry: RetryPolicy,
        *,
        is_chain: bool,
    ) -> None:
        self._parts = parts
        self._context = context
        self._members = members
        self._retry = retry
        self._is_chain = is_chain
        self._held: _Answer | None = None
        self._error: GatewayError | None = None
        self._closed: list[Place] = []
        self._called: set[str] = set()
        self._made = 0
        self._committed = False
        self._was_refused = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        plan = fallback_plan(
            [member.leg for member in self._members], self._retry, self._parts.roll
        )
        try:
            step = next(plan)
            while True:
                outcome: Outcome | None = None
                match step:
                    case Attempt():
                        outcome = await self._attempt(step, scope, receive, send)
                    case Pause(seconds):
                        if not await self._pause(seconds, receive):
                            break
                    case PassOver(place, reason):
                        self._pass_over(self._members[place], reason)
                    case _:
                        assert_never(step)
                step = plan.send(outcome)
        except StopIteration:
            pass
        finally:
            plan.close()
            if self._context.usage is None and self._context.earlier_nanousd:
                self._context.cost_nanousd = self._context.earlier_nanousd
        await self._end()

    async def _end(self) -> None:
        """Give the caller the last real answer, if he has none yet."""
        if self._committed:
            return
        context, held = self._context, self._held
        if held is not None:
            self._leave_behind()
            context.target_provider, context.target_model = held.provider, held.model
            context.error_code = held.error_code
            context.usage, context.complete = held.usage, held.complete
            # It was left behind, and is not after all.
            context.earlier_tokens -= _tokens(held.usage)
            context.earlier_nanousd -= held.cost_nanousd
            if self._is_chain:
                context.fallback_index = held.index
            if context.attempt is not None:
                context.attempt.is_over = True
            given = context.attempts[held.number]
            is_refusal = held.gate.status is not None and held.gate.status >= 400
            if is_refusal:
                context.attempts[held.number] = given._replace(reason=None)
            await held.gate.release(SPENT if is_refusal and held.is_spent else None)
            return
        context.attempt = None
        if self._error is not None:
            if isinstance(self._error, UpstreamError):
                self._error.should_retry = False
            raise self._error
        if self._closed:
            raise closed_to_all(self._closed, self._parts.health, self._parts.clock())
        for member in self._members:
            if member.error is not None:
                raise member.error
        reasons = ", ".join(dict.fromkeys(member.leg.unfit or "" for member in self._members))
        raise OverloadedError(f"No target can take this request: {reasons}.", should_retry=False)

    async def _attempt(self, step: Attempt, scope: Scope, receive: Receive, send: Send) -> Outcome:
        parts = self._parts
        health = parts.health
        member = self._members[step.leg]
        place = member.places[step.key]
        now_s = parts.clock()
        if step.key == 0 and not step.is_repeat:
            for key_id, reason in member.near:
                self._note(member, key_id, reason)
        budget = health.budget(place.provider)
        # The same provider again, with whatever key or model, is more load on who has failed; but
        # not if it only refused a key, which nobody uses from then on.
        is_again = place.provider in self._called and not self._was_refused
        if is_again and not budget.take(now_s):
            return self._passed_over(member, place, Reason.RETRY_BUDGET)
        ticket = health.admit(place, now_s)
        if ticket is None:
            self._closed.append(place)
            return self._passed_over(member, place, Reason.BREAKER_OPEN)
        if place.provider not in self._called:
            self._called.add(place.provider)
            budget.calls += 1
        return await self._call(step, member, place, ticket, scope, receive, send)

    async def _call(
        self,
        step: Attempt,
        member: Member,
        place: Place,
        ticket: Ticket,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Outcome:
        parts, context = self._parts, self._context
        reads_end = member.leg.moves.content_filter and not step.is_last
        self._prepare(step, member)
        noted = len(context.attempts)
        self._made += 1
        loads = [parts.health.load(place), parts.health.load(place._replace(key=""))]
        for load in loads:
            load.in_flight += 1
        began_s = parts.clock()
        loop_began_s = asyncio.get_running_loop().time()
        outcome: Outcome | None = None
        timer = asyncio.timeout(None)
        gate = ResponseGate(
            send,
            wire_format=context.route.format,
            holds=not step.is_last,
            reads_end=reads_end,
            extra=SPENT if self._made > 1 else None,
            stall_s=None if step.is_last else parts.stall_s,
            timer=timer,
        )
        try:
            async with timer:
                await self._inner(member, scope, receive, gate)
            outcome = judge_answer(
                gate,
                list(context.attempt.answer_headers) if context.attempt is not None else [],
                is_broken=context.error_code is not None,
                reads_end=reads_end,
            )
        except TimeoutError:
            if gate is None or not timer.expired() or (gate.is_open and gate.started):
                raise
            outcome = Outcome(gate.status, Reason.STALLED)
        except TranslationError as error:
            # Nobody was called: this target cannot be asked that, but another may.
            self._error = self._error or error
            outcome = Outcome(None, Reason.UNTRANSLATABLE, was_sent=False)
        except UpstreamError as error:
            if gate.is_open and gate.started:
                raise
            status = None
            if len(context.attempts) > noted:
                status = context.attempts[-1].status
            outcome = judge_error(error, status)
            self._error = error
        finally:
            for load in loads:
                load.in_flight -= 1
            self._learn(place, ticket, outcome, gate, began_s, loop_began_s)
        self._was_refused = outcome.reason in (Reason.AUTH, Reason.QUOTA)
        took_ms = (parts.clock() - began_s) * 1000
        self._record(member, place, outcome, noted, took_ms)
        if gate.is_open and gate.started:
            self._committed = True
        elif gate.started and outcome.reason not in (Reason.STALLED, Reason.AUTH):
            self._hold(step, gate, is_spent=member.leg.moves.allows(outcome))
        return outcome

    def _prepare(self, step: Attempt, member: Member) -> None:
        context = self._context
        self._leave_behind()
        context.error_code = None
        context.complete = False
        if self._is_chain:
            context.fallback_index = step.leg
        if member.rewrite is not None:
            request = context.body.parsed or {}
            context.model_requested = context.model_requested or request.get("model")
            context.target_model = member.rewrite
            return
        chosen = member.chosen[step.key]
        chosen.is_over = False
        chosen.answer_headers = ()
        chosen.timeout_ms = self._left_ms()
        context.attempt = chosen

    def _leave_behind(self) -> None:
        """Count what the last attempt took: it is paid for, whoever gets its answer."""
        context = self._context
        context.earlier_tokens += _tokens(context.usage)
        context.earlier_nanousd += self._cost()
        context.usage = None
        context.cost_nanousd = None

    def _cost(self) -> int:
        context, price = self._context, self._parts.price
        provider, model = context.target_provider, context.billed_model or context.target_model
        if context.usage is None or price is None or provider is None or model is None:
            return 0
        return price(provider, model, context.usage) or 0

    async def _inner(
        self, member: Member, scope: Scope, receive: Receive, gate: ResponseGate
    ) -> None:
        context = self._context
        if member.rewrite is None:
            await self._parts.app(scope, receive, gate)
            return
        request = {**(context.body.parsed or {}), "model": member.rewrite}
        data = dumps(request)
        context.body.replace(data, request)
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % len(data)))
        inner = {**scope, "headers": headers}
        await self._parts.app(inner, context.body.replay(receive, again=True), gate)

    def _left_ms(self) -> int | None:
        """Return what is left of the time the caller gave."""
        context = self._context
        limit_ms = context.directives.timeout_ms
        if limit_ms is None:
            return None
        return max(1, int(limit_ms - self._elapsed_ms()))

    def _elapsed_ms(self) -> float:
        return (time.perf_counter_ns() - self._context.started_ns) / 1e6

    async def _pause(self, seconds: float, receive: Receive) -> bool:
        """Wait; False if there is no time for it.

        Raises:
            ClientDisconnectedError: the caller left meanwhile.
        """
        left_ms = self._left_ms()
        if left_ms is not None and left_ms <= seconds * 1000:
            return False
        watch = DisconnectWatch(receive)
        try:
            await self._parts.sleep(seconds)
        except asyncio.CancelledError:
            if watch.caused():
                self._context.client_left = True
                raise ClientDisconnectedError from None
            raise
        finally:
            watch.stop()
        return True

    def _hold(self, step: Attempt, gate: ResponseGate, *, is_spent: bool) -> None:
        context = self._context
        self._held = _Answer(
            gate,
            step.leg,
            len(context.attempts) - 1,
            context.target_provider,
            context.target_model,
            context.error_code,
            context.usage,
            self._cost(),
            context.complete,
            is_spent,
        )

    def _passed_over(self, member: Member, place: Place, reason: str) -> Outcome:
        self._note(member, None if place.key == NO_KEY else place.key, reason)
        return Outcome(None, reason, was_sent=False)

    def _pass_over(self, member: Member, reason: str) -> None:
        if reason != member.leg.defer:
            self._note(member, None, reason)
            return
        for place in member.places:
            self._note(member, place.key, reason)

    def _note(self, member: Member, key_id: str | None, reason: str) -> None:
        provider, model = member.name
        self._context.attempts.append(AttemptRecord(provider, key_id, model, None, reason, 0.0))

    def _record(
        self, member: Member, place: Place, outcome: Outcome, noted: int, took_ms: float
    ) -> None:
        """Say why an attempt was not the last one; note it where nobody inside did."""
        attempts = self._context.attempts
        if len(attempts) == noted:
            provider, model = member.name
            attempts.append(
                AttemptRecord(provider, None, model, outcome.status, outcome.reason, took_ms)
            )
        elif outcome.reason is not None:
            attempts[-1] = attempts[-1]._replace(reason=outcome.reason)

    def _learn(
        self,
        place: Place,
        ticket: Ticket,
        outcome: Outcome | None,
        gate: ResponseGate,
        began_s: float,
        loop_began_s: float,
    ) -> None:
        parts, context = self._parts, self._context
        health, now_s = parts.health, parts.clock()
        head_s: float | None = None
        if gate.head_at_s is not None:
            head_s = gate.head_at_s - loop_began_s
        is_good: bool | None = None
        reason = ""
        if outcome is not None:
            is_bad = is_the_upstreams_fault(outcome) or (
                outcome.committed and context.error_code is not None and not parts.is_alone
            )
            is_slow = head_s is not None and head_s > health.policy.slow_s
            is_good = not is_bad and not is_slow
            if outcome.reason in (Reason.AUTH, Reason.QUOTA) or not outcome.was_sent:
                is_good = None  # It answers, but that says nothing of the model, or of the key.
            if is_bad:
                reason = outcome.reason or f"status {outcome.status}"
                if reason == Reason.STATUS:
                    reason = f"status {outcome.status}"
            elif is_slow:
                reason = "slow"
        health.record(place, ticket, is_good=is_good, now_s=now_s, roll=parts.roll(), reason=reason)
        if outcome is None:
            return
        if is_good is False:
            # Who fails fast must not look quick.
            head_s = max(head_s or 0.0, now_s - began_s, 1.0)
        if head_s is not None:
            for key in (place.key, ""):
                health.load(place._replace(key=key)).note(head_s, now_s)
        self._learn_of_key(place, outcome, now_s)

    def _learn_of_key(self, place: Place, outcome: Outcome, now_s: float) -> None:
        parts, chosen = self._parts, self._context.attempt
        if chosen is None or chosen.key is None:
            return
        limits = parts.health.limits_of(place.provider, place.key)
        headers = dict(reversed(list(chosen.answer_headers)))
        limits.learn(headers, now_s=now_s, wall_s=parts.wall())
        if outcome.status == 429 and outcome.asked_s is not None:
            limits.block(outcome.asked_s, now_s)
        if outcome.reason in (Reason.AUTH, Reason.QUOTA):
            reason = "quota" if outcome.reason == Reason.QUOTA else f"status {outcome.status}"
            parts.health.take_out(place.provider, place.key, now_s, parts.roll(), reason)
            if parts.count is not None:
                parts.count("llmgate_keys_refused_total", provider=place.provider)


def _tokens(usage: Usage | None) -> int:
    return 0 if usage is None else usage.input_tokens + usage.output_tokens


def closed_to_all(places: Sequence[Place], health: Health, now_s: float) -> GatewayError:
    """Return the error of a call for which everything is held to fail."""
    wait_s = min(health.wait_s(place, now_s) for place in places)
    names = ", ".join(dict.fromkeys(place.provider for place in places))
    return OverloadedError(
        f"{names} failed too often just now and is not called for the moment.",
        retry_after_s=max(1.0, wait_s),
    )
