"""Say whom and what a call is for."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.tags import derive_tags
from asgi_llmgate.middleware._base import GatewayMiddleware

__all__ = ["TaggingMiddleware"]

# A caller's own request id stays unique per tenant; this many are remembered, per process.
REMEMBERED_IDS = 10_000


class TaggingMiddleware(GatewayMiddleware):
    """Set `context.tags` from the principal, the headers and the body, and honour `Request-Id`.

    Alone: tags by header and body only, since nobody has set a principal.
    Stacked: gives limits, cache and log the user, session and properties of a call.
    """

    must_be_inside = ("AuthMiddleware",)

    def __init__(self, app: ASGIApp, *, paths: Mapping[str, str] | None = None) -> None:
        super().__init__(app, paths=paths)
        self._seen_ids: dict[tuple[str, str], None] = {}

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        directives = context.directives
        if directives.request_id is not None:
            self._name(context, directives.request_id)
        request = None
        if context.route.is_json:
            request = await context.body.json()
            receive = context.body.replay(receive)
        context.tags = derive_tags(context.principal, directives, request)
        await self.app(scope, receive, send)

    def _name(self, context: GatewayContext, wanted: str) -> None:
        key = (context.principal.tenant if context.principal else "", wanted)
        if key in self._seen_ids:
            context.warn("Request-Id was used before; this call has an id of its own")
            return
        self._seen_ids[key] = None
        if len(self._seen_ids) > REMEMBERED_IDS:
            del self._seen_ids[next(iter(self._seen_ids))]
        context.id = wanted
