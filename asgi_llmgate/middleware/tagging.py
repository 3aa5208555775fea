"""Say whom and what a call is for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.tags import User, derive_tags, find_user
from asgi_llmgate.core.trace import DEFAULT_BAGGAGE, read_trace
from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware._names import Names
from asgi_llmgate.middleware._signed import SigningKey, signed_users
from asgi_llmgate.protocols import Count

__all__ = ["TaggingMiddleware"]

logger = logging.getLogger("asgi_llmgate")

Claim: TypeAlias = Callable[[str, str], Awaitable[bool]]
"""Tenant and id to whether the id is new. Raises `BackendError`."""

# A caller's own request id stays unique per tenant; this many are remembered, per process.
REMEMBERED_IDS = 10_000

CONFLICTS = "llmgate_identity_conflicts_total"
DROPPED = "llmgate_properties_dropped_total"

SOURCES = {"header": "LLMGate-User-Id", "body": "The user in the body", "signed": "LLMGate-User"}


class TaggingMiddleware(GatewayMiddleware):
    """Set `context.tags` from the principal, the headers and the body, and honour `Request-Id`.

    Alone: tags by header and body only, since nobody has set a principal.
    Stacked: gives limits, cache and log the user, session and properties of a call.

    Args:
        app: The application inside.
        signing_key: With which `LLMGate-User` is signed.
        baggage: Names in W3C `baggage` that become properties.
        max_property_names: How many names of properties a tenant may have; what comes later is
            not kept, so that a name made up per call does not fill every table. Per process.
        count: Where conflicts and dropped properties are counted.
        claim: Takes an id for a call of a tenant, and says whether it was still to be had. By
            default each process knows only those that it has seen itself.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    must_be_inside = ("AuthMiddleware", "PolicyMiddleware")

    def __init__(
        self,
        app: ASGIApp,
        *,
        signing_key: SigningKey = None,
        baggage: Collection[str] = DEFAULT_BAGGAGE,
        max_property_names: int = 200,
        count: Count | None = None,
        claim: Claim | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self._claim = claim
        self._seen_ids: dict[tuple[str, str], None] = {}
        self._signed = signed_users(signing_key)
        self._baggage = frozenset(name.lower() for name in baggage)
        self._names = Names(max_property_names)
        self._count = count

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        directives = context.directives
        if directives.request_id is not None:
            await self._name(context, directives.request_id)
        request = None
        if context.route.is_json:
            request = await context.body.json()
            receive = context.body.replay(receive)
        principal, policy = context.principal, context.policy
        user = find_user(
            principal,
            directives,
            request,
            signed=self._signed.find(context),
            takes_word=policy is None or policy.takes_word,
        )
        if user.conflict is not None:
            self._note_conflict(user, context)
        trace = read_trace(context.headers, self._baggage)
        tags = derive_tags(principal, directives, request, user=user, trace=trace)
        if tags.properties is not None:
            self._bound(tags.properties, context)
        context.tags = tags
        await self.app(scope, receive, send)

    async def _name(self, context: GatewayContext, wanted: str) -> None:
        key = (context.principal.tenant if context.principal else "", wanted)
        if key in self._seen_ids or not await self._is_new(key):
            context.warn("Request-Id was used before; this call has an id of its own")
            return
        context.id = wanted

    async def _is_new(self, key: tuple[str, str]) -> bool:
        self._seen_ids[key] = None  # Before the question, for its repeat may come meanwhile.
        if len(self._seen_ids) > REMEMBERED_IDS:
            del self._seen_ids[next(iter(self._seen_ids))]
        if self._claim is None:
            return True
        try:
            return await self._claim(*key)
        except BackendError as error:
            logger.warning("ids of calls are known to this process only: %s", error)
            return True

    def _note_conflict(self, user: User, context: GatewayContext) -> None:
        """Say that somebody else was named than who it is."""
        named = user.conflict or ""
        if self._count is not None:
            self._count(CONFLICTS, named=named, kept=user.source or "none")
        context.warn(f"{SOURCES[named]} was not used: it names another user than is proven")

    def _bound(self, properties: dict[str, str], context: GatewayContext) -> None:
        tenant = context.principal.tenant if context.principal else ""
        fresh = self._names.beyond(tenant, properties)
        for name in fresh:
            del properties[name]
        if fresh:
            if self._count is not None:
                self._count(DROPPED, len(fresh))
            context.warn(
                f"{len(fresh)} properties were not kept: there are {self._names.limit} names "
                "already. Put what differs from call to call into the value"
            )
