"""One request on its way through the cache."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from starlette.types import Message, Receive, Send

from asgi_llmgate._asgi.dependencies import collected_tags
from asgi_llmgate._asgi.disconnect import DisconnectWatch
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.cache_entry import Entry, encode_entry
from asgi_llmgate.core.cache_headers import cache_headers, followers_headers
from asgi_llmgate.core.cache_plan import BUMPS, Verdict, generation_name, jittered, lacks_tag
from asgi_llmgate.core.replay import Wanted, replay
from asgi_llmgate.errors import (
    BackendError,
    ClientDisconnectedError,
    GatewayError,
    NotCachedError,
)
from asgi_llmgate.middleware._cache_accounts import FREE, adopt, note_free, note_joined, note_saved
from asgi_llmgate.middleware._cache_reading import Found, Hit, Reading
from asgi_llmgate.middleware._cache_record import recorded
from asgi_llmgate.middleware._flight import Flight
from asgi_llmgate.middleware._lease import Lease, lease_name
from asgi_llmgate.middleware.semantic import Seen
from asgi_llmgate.types import CacheStatus

__all__ = ["Call", "Running"]

logger = logging.getLogger("asgi_llmgate")

# Where a stored answer may stand in for what the provider said. Source: RFC 5861, §4.
STALE_STATUSES = frozenset({500, 502, 503, 504})

# How often one looks whether another worker is done.
FIRST_POLL_S = 0.02
LAST_POLL_S = 0.2


class Outcome:
    """What becomes of a flight, for those who take part in it.

    `entry` is its answer, if others may have it; `tags` is what the inner application said that
    it depends on; `is_orphaned` says that who began it is gone and will not account for it.
    """

    __slots__ = ("context", "entry", "is_orphaned", "tags")

    def __init__(self, context: GatewayContext) -> None:
        self.context = context
        self.entry: Entry | None = None
        self.tags: set[str] = set()
        self.is_orphaned = False


class Running(NamedTuple):
    """A flight that others may join, if they ask for the same form and nothing has moved."""

    flight: Flight
    generations: dict[str, int]
    wanted: Wanted
    outcome: Outcome


class _StandIn(Exception):  # noqa: N818 -- no error: a turn that a call takes
    """The provider failed, and a stored answer is given in place of that."""


class Call(Reading):
    """Look up, and then give, join or fetch."""

    _has_begun = False
    _running: Running | None = None
    seen: Seen | None = None

    @cached_property
    def flight_id(self) -> tuple[object, ...]:
        """Not shared although the answer would be: refusals of another's key, and impatience."""
        context = self.context
        caller = context.caller_key
        return (self.key, caller.key if caller else None, context.directives.timeout_ms)

    async def run(self, receive: Receive, send: Send) -> None:
        cache, context = self.cache, self.context
        left: Running | None = None
        while True:
            found = await self._found()
            if found.hit is not None:
                hit = found.hit
                is_stale = hit.verdict is Verdict.SOFT
                await self._give(hit, CacheStatus.STALE if is_stale else CacheStatus.HIT, send)
                if is_stale and self.plan.saves and self.flight_id not in cache.flights:
                    await self._refresh(found)
                return
            running = self._joinable(found)
            is_first = running is None and left is None and bool(found.generations)
            if is_first and await self._give_alike(found, send):
                return
            if self.plan.only_if_cached:
                raise NotCachedError("There is no stored answer, and only one was asked for.")
            if running is None or running is left:
                break
            if await self._follow(running, found, receive, send):
                return
            # Others may have an answer by now, or have asked anew.
            context.cache_reason, left = None, running
        is_readable = bool(found.generations)
        if not is_readable:
            context.cache_reason = "store"
        takes_over = left is not None and not left.flight.is_over
        saves = self.plan.saves and is_readable
        await self._lead(found, receive, send, saves=saves, waits_for_others=not takes_over)

    async def _found(self) -> Found:
        """Look up; a store that fails has nothing, and no generations either."""
        try:
            running = self._running = self.cache.flights.get(self.flight_id)
            more = () if running is None else running.generations
            return await self.look_up(self.key, more=more)
        except BackendError as error:
            self.cache.complain("The cache cannot be read, the provider is asked", error)
            return Found({}, None, None, ())

    async def _give_alike(self, found: Found, send: Send) -> bool:
        """Give the answer to a question that means the same; False if there is none."""
        tier, context = self.cache.semantic, self.context
        if tier is None or not self.plan.reads:
            return False
        seen = await tier.look(self)
        if not isinstance(seen, Seen):
            context.cache_reason = context.cache_reason or seen
            return False
        self.seen = seen
        context.cache_reason = seen.detail
        if seen.decision.neighbour is not None:
            context.cache_similarity = seen.decision.similarity
        hit = seen.hit
        if hit is None:
            return False
        is_stale = hit.verdict is Verdict.SOFT
        status = CacheStatus.STALE if is_stale else CacheStatus.HIT
        await self._give(hit, status, send)
        tier.remember(self, seen)
        if self.plan.saves and tier.wants_check(seen):
            tier.checks_running += 1
            try:
                await self._refresh(found)
                tier.checked(context.cost_nanousd)
            finally:
                tier.checks_running -= 1
        return True

    def _joinable(self, found: Found) -> Running | None:
        # One that has ended while the store was asked is as good: it may not have been there yet.
        running = self.cache.flights.get(self.flight_id) or self._running
        if running is None or not self.plan.reads or not running.flight.can_be_joined:
            return None
        if lacks_tag(self.names, running.generations):
            return None
        now = found.generations
        if any(now.get(name) != then for name, then in running.generations.items()):
            # Something moved. It may concern what the call has read already.
            moved = {name for name, then in running.generations.items() if now.get(name) != then}
            if moved != {BUMPS} or running.outcome.tags:
                return None
        return running

    async def _follow(self, running: Running, found: Found, receive: Receive, send: Send) -> bool:
        """Take part in a call that somebody else began; False if one has to ask oneself."""
        flight, outcome, context = running.flight, running.outcome, self.context
        context.cache = CacheStatus.MISS
        context.cache_reason = "collapsed"
        is_live = running.wanted == self.asked.wanted
        try:
            passed = await self._take_part(
                flight, found, receive, send, is_live=is_live, is_follower=True
            )
        except (ClientDisconnectedError, asyncio.CancelledError):
            if context.client_left or self._has_begun or flight.error is None:
                raise
            return False  # It ended with the one who began it.
        if outcome.is_orphaned:
            outcome.is_orphaned = False
            adopt(context, outcome.context)
        elif self._has_begun:
            note_joined(context, outcome.context)
        if passed:
            return True
        entry = outcome.entry
        return entry is not None and await self._give_entry(entry, send)

    async def _give_entry(self, entry: Entry, send: Send) -> bool:
        """Give the answer of a call that others made; False if it cannot be told in this form."""
        wanted = self.asked.wanted
        told = replay(entry.wire_format, entry.form, entry.body, wanted, entry.usage)
        if told is None:
            return False
        hit = Hit(entry, Verdict.FRESH, *told, 0, self.key)
        await self._give(hit, CacheStatus.MISS, send, is_collapsed=True)
        return True

    async def _lead(
        self,
        found: Found,
        receive: Receive,
        send: Send,
        *,
        saves: bool,
        waits_for_others: bool = True,
    ) -> None:
        """Begin a call that others may join."""
        context = self.context
        context.cache = CacheStatus.MISS
        running = self._start(
            found, saves=saves, in_background=False, waits_for_others=waits_for_others
        )
        outcome = running.outcome
        try:
            passed = await self._take_part(
                running.flight, found, receive, send, is_live=True, is_follower=False
            )
        except asyncio.CancelledError:
            outcome.is_orphaned = True
            raise
        except _StandIn:
            assert found.stale is not None
            context.cache_reason = "stale-if-error"
            await self._give(found.stale, CacheStatus.STALE, send)
            return
        if not passed and outcome.entry is not None:  # Another worker has made the call.
            context.cache_reason = "collapsed"
            await self._give_entry(outcome.entry, send)

    def _start(
        self, found: Found, *, saves: bool, in_background: bool, waits_for_others: bool = True
    ) -> Running:
        cache, context = self.cache, self.context
        body = context.body.data
        assert body is not None
        flight = Flight(body, max_bytes=cache.max_bytes, in_background=in_background)
        generations = {
            name: found.generations[name]
            for name in (*self.names, BUMPS)
            if name in found.generations
        }
        running = Running(flight, generations, self.asked.wanted, Outcome(context))
        is_shared = saves and self.plan.slots == 1 and self.plan.reads
        if is_shared:
            cache.flights[self.flight_id] = running

        async def run(inner_receive: Receive, inner_send: Send) -> None:
            try:
                await self._fly(
                    running,
                    found.free,
                    inner_receive,
                    inner_send,
                    saves=saves,
                    takes_lease=is_shared and waits_for_others,
                )
            finally:
                if cache.flights.get(self.flight_id) is running:
                    del cache.flights[self.flight_id]

        flight.start(run)
        return running

    async def _fly(
        self,
        running: Running,
        free: Sequence[int],
        receive: Receive,
        send: Send,
        *,
        saves: bool,
        takes_lease: bool,
    ) -> None:
        cache, context = self.cache, self.context
        outcome = running.outcome
        lease: Lease | None = None
        if takes_lease and cache.lease_s > 0 and cache.store.is_shared:
            name = lease_name(self.key, running.generations)
            lease = Lease(cache.store, name, ttl_s=cache.lease_s, complain=cache.complain)
            outcome.entry = await self._await_other(lease)
            if outcome.entry is not None:
                return
        try:
            began_us = cache.clock_us()
            with collected_tags() as outcome.tags:
                await cache.app(self.scope, receive, send)
            # Those who wait for the last bytes get them before they are looked at.
            await asyncio.sleep(0)
            cache.prove(context, self.namespace, running.flight.status)
            context.set_cost(cache.price)
            if saves:
                await self._keep(running, began_us, free)
                if self.seen is not None and outcome.entry is not None:
                    assert cache.semantic is not None
                    cache.semantic.learn(self, self.seen, outcome.entry)
        finally:
            if lease is not None:
                await lease.release()

    async def _await_other(self, lease: Lease) -> Entry | None:
        """Get the lease, or the answer of the worker who has it; or neither, after a while."""
        deadline = time.monotonic() + self.cache.wait_s
        pause_s = FIRST_POLL_S
        try:
            while not await lease.acquire():
                if time.monotonic() >= deadline:
                    return None
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, LAST_POLL_S)
                found = await self.look_up(self.key)
                if found.hit is not None:
                    return found.hit.entry
        except BackendError as error:
            self.cache.complain("The cache has no leases, the provider is asked", error)
        return None

    async def _take_part(
        self,
        flight: Flight,
        found: Found,
        receive: Receive,
        send: Send,
        *,
        is_live: bool,
        is_follower: bool,
    ) -> bool:
        """Pass a flight's answer on, until it is over; False if there was none to pass on.

        A follower waits for its first byte no longer than for another worker.

        Raises:
            ClientDisconnectedError: one's own caller left.
            _StandIn: the provider failed, and there is something better.
        """
        context = self.context
        party = flight.join()
        watch = DisconnectWatch(receive)
        marked = self._marked(send, found, watch, is_follower=is_follower)
        stands_in = has_left = False
        try:
            if is_follower:
                try:
                    async with asyncio.timeout(self.cache.wait_s):
                        await flight.begun()
                except TimeoutError:
                    return False  # On a call that hangs nobody else shall hang.
            if is_live:
                await flight.pass_on(party, marked)
            else:
                flight.only_wait(party)
                await flight.end()
                if flight.error is not None and not isinstance(flight.error, Exception):
                    raise flight.error
        except asyncio.CancelledError:
            if not watch.caused():
                raise
            context.client_left = has_left = True
        except _StandIn:
            stands_in = True
            flight.only_wait(party)
            await flight.end()
        except GatewayError as error:
            if found.stale is None or self._has_begun or error.status not in STALE_STATUSES:
                raise
            stands_in = True
        finally:
            watch.stop()
            flight.leave(party)
        # Who began the call accounts for all of it, also what others still wait for.
        if not is_follower or not has_left:
            await flight.end()
        if has_left:
            raise ClientDisconnectedError
        if stands_in:
            raise _StandIn
        return self._has_begun

    def _marked(
        self, send: Send, found: Found, watch: DisconnectWatch, *, is_follower: bool
    ) -> Send:
        """Return a `send` that says what the cache had to do with it."""
        context = self.context
        headers = cache_headers(
            CacheStatus.MISS if found.generations else CacheStatus.BYPASS,
            reason=None if is_follower else self._reason(),
            key=self.key,
            similarity=None if is_follower or self._is_discreet else context.cache_similarity,
            is_collapsed=is_follower,
            for_helicone=context.directives.uses_helicone,
        )
        if not found.generations:
            context.cache = CacheStatus.BYPASS

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                if found.stale is not None and message["status"] in STALE_STATUSES:
                    raise _StandIn
                self._has_begun = True
                given = message.get("headers", ())
                if is_follower:
                    given = followers_headers(given)
                    note_free(context, self.asked)
                message = {**message, "headers": [*given, *headers]}
            elif not message.get("more_body", False):
                # To a server everybody has left who has got everything.
                watch.stop()
            await send(message)

        return marked

    def _reason(self) -> str | None:
        """Return why the provider is asked, as far as the caller may know."""
        reason = None if self._is_discreet else self.context.cache_reason
        return reason or (None if self.plan.reads else "no-cache")

    @property
    def _is_discreet(self) -> bool:
        """What was near is somebody else's, and nobody is to learn what others ask."""
        seen = self.seen
        if seen is None or seen.decision.neighbour is None:
            return False
        return seen.decision.neighbour.alias.principal != seen.principal

    async def _keep(self, running: Running, began_us: int, free: Sequence[int]) -> None:
        cache, context, plan = self.cache, self.context, self.plan
        kept = recorded(running.flight, context, self.asked.wire_format)
        if kept is None:
            return
        is_fallback = bool(context.fallback_index)
        if is_fallback and not cache.policy.serves_fallbacks:
            return
        try:
            generations = await self._generations_of(running)
            if generations is None:
                return
            now_us = cache.clock_us()
            ttl_s = jittered(plan.ttl_s, random.random())  # noqa: S311 -- no secret
            entry = Entry(
                created_us=began_us,
                expires_us=now_us + int(ttl_s * 1e6),
                generations=generations,
                form=kept[0],
                body=kept[1],
                wire_format=self.asked.wire_format,
                usage=context.usage,
                original_id=context.id,
                cost_nanousd=context.cost_nanousd,
                duration_ms=(now_us - began_us) / 1e3,
                provider=context.target_provider,
                model=context.target_model,
                is_fallback=is_fallback,
            )
            running.outcome.entry = entry
            await cache.store.write(
                self.key,
                random.choice(free),  # noqa: S311 -- two at once should not take the same one
                encode_entry(cache.secret, self.key, entry),
                partition=self.partition,
                ttl_s=ttl_s + cache.policy.keep_stale_s,
            )
        except BackendError as error:
            cache.complain("An answer was not stored", error)

    async def _generations_of(self, running: Running) -> dict[str, int] | None:
        """Return what the answer depends on; None if that cannot be told any more.

        Tags that were said during the call have no generation from before it. If none at all has
        moved since, it is the one of now.
        """
        generations = dict(running.generations)
        before = generations.pop(BUMPS)
        late = [generation_name("tag", tag) for tag in running.outcome.tags]
        late = [name for name in late if name not in generations]
        if late:
            now = await self.cache.store.generations((*late, BUMPS))
            if now.pop(BUMPS) != before:
                return None
            generations |= now
        return generations

    async def _refresh(self, found: Found) -> None:
        """Ask the provider anew, after the caller got the old answer; on the same record."""
        context = self.context
        context.cost_nanousd = None
        running = self._start(found, saves=True, in_background=True)
        await running.flight.end()
        if running.flight.error is not None:
            logger.info("A stale answer could not be refreshed: %r", type(running.flight.error))
            context.usage, context.cost_nanousd = FREE, 0
        context.complete = True

    @property
    def _wants_slot(self) -> bool:
        """Helicone always names it; others are told if they asked for a size."""
        directives = self.context.directives
        return directives.uses_helicone or directives.cache_bucket_max_size is not None

    async def _give(
        self, hit: Hit, status: CacheStatus, send: Send, *, is_collapsed: bool = False
    ) -> None:
        """Send a stored answer, and note what it saved."""
        context, entry = self.context, hit.entry
        now_us = self.cache.clock_us()
        context.cache = status
        note_free(context, self.asked)
        note_saved(context, entry.original_id, entry.cost_nanousd, entry.duration_ms)
        context.target_provider, context.target_model = entry.provider, entry.model
        is_miss = status is CacheStatus.MISS
        headers = [
            (b"content-type", hit.content_type),
            (b"content-length", b"%d" % len(hit.body)),
            *cache_headers(
                status,
                reason=None if is_miss else context.cache_reason,
                key=hit.key,
                ttl_s=None if is_miss else (entry.expires_us - now_us) // 1_000_000,
                age_s=None if is_miss else max(0, now_us - entry.created_us) // 1_000_000,
                slot=hit.slot if self._wants_slot and not is_miss else None,
                similarity=context.cache_similarity,
                is_collapsed=is_collapsed,
                for_helicone=context.directives.uses_helicone,
            ),
        ]
        self._has_begun = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": hit.body})
