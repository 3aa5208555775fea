"""The admin API of the cache: how much there is, what it did, and purging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from asgi_llmgate.api.models import Body
from asgi_llmgate.api.router import AdminCall, AdminRoute
from asgi_llmgate.cache import Cache
from asgi_llmgate.cache_figures import cache_stats
from asgi_llmgate.core.permissions import Permission
from asgi_llmgate.errors import InvalidRequestError
from asgi_llmgate.learned import Learned

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


def cache_routes(
    cache: Callable[[], Cache],
    learned: Callable[[], Learned | None],
    folder: Path,
) -> list[AdminRoute]:
    """Return the routes of the cache.

    Args:
        folder: The data folder, where workers leave what they counted.
    """

    async def stats(call: AdminCall) -> dict[str, object]:
        return await cache_stats(cache(), learned(), folder, call.query.get("namespace") or None)

    async def purge(call: AdminCall) -> dict[str, object]:
        body: Purge = call.body
        try:
            removed = await cache().purge(**body.model_dump())
        except ValueError as error:
            raise InvalidRequestError(f"{error}.") from None
        return {"purged": True, "removed": removed}

    return [
        AdminRoute(
            "GET",
            "/cache/stats",
            Permission.CACHE_READ,
            stats,
            "Count entries, hits by tier, misses, and what they saved.",
            query={"namespace": "Only the calls of this tenant that the journal holds."},
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
