"""Remember what was served, so that somebody may say that it was wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asgi_llmgate.core.semantic.served import (
    SERVED_S,
    Served,
    encode_served,
    place_of,
    served_key,
)
from asgi_llmgate.errors import BackendError

if TYPE_CHECKING:  # They import this module.
    from asgi_llmgate.middleware._cache_call import Call
    from asgi_llmgate.middleware.semantic import Seen

__all__ = ["remember"]


async def remember(call: Call, seen: Seen) -> None:
    """Write down a semantic hit, where any worker finds it by the call's id. Never raises."""
    cache, context, decision = call.cache, call.context, seen.decision
    assert decision.neighbour is not None
    alias, principal = decision.neighbour.alias, context.principal
    tenant = None if principal is None else principal.tenant
    served = Served(
        tenant=tenant,
        partition=seen.partition,
        scope=seen.scope,
        alias=alias.id,
        answer=alias.answer,
        features=decision.features,
        similarity=decision.similarity,
        look=decision.look,
    )
    key = served_key(cache.secret, context.id)
    try:
        await cache.store.write(
            key,
            place_of(tenant),
            encode_served(cache.secret, key, served, now_us=cache.clock_us()),
            partition=seen.partition,
            ttl_s=SERVED_S,
        )
    except BackendError as error:
        cache.complain("A hit was not noted, so that nobody can judge it", error)
