"""The admin API of the cache: how much there is, and purging."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from asgi_llmgate.api.models import Body
from asgi_llmgate.api.router import AdminCall, AdminRoute
from asgi_llmgate.cache import Cache
from asgi_llmgate.core.permissions import Permission
from asgi_llmgate.errors import InvalidRequestError

__all__ = ["cache_routes"]


class Purge(Body):
    """What to purge: one of these, or `namespace` and `older_than_s` together."""

    tags: list[str] = Field([], max_length=100)
    namespace: str | None = Field(None, min_length=1)
    model: str | None = Field(None, min_length=1)
    prompt: str | None = Field(None, min_length=1)
    user: str | None = Field(None, min_length=1)
    entry: str | None = None
    older_than_s: float | None = Field(None, ge=0)
    everything: bool = False


def cache_routes(cache: Callable[[], Cache]) -> list[AdminRoute]:
    async def stats(_: AdminCall) -> dict[str, object]:
        return await cache().stats()

    async def purge(call: AdminCall) -> dict[str, object]:
        body: Purge = call.body
        try:
            removed = await cache().purge(**body.model_dump())
        except ValueError as error:
            raise InvalidRequestError(f"{error}.") from None
        return {"purged": True, "removed": removed}

    return [
        AdminRoute(
            "GET", "/cache/stats", Permission.CACHE_READ, stats, "Count the entries of the cache."
        ),
        AdminRoute(
            "POST",
            "/cache/purge",
            Permission.CACHE_WRITE,
            purge,
            "Purge by tag, namespace, model, prompt, user, entry or age.",
            request=Purge,
        ),
    ]
