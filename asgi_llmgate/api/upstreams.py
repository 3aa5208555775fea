"""The admin API of upstreams: which keys there are, and what is not called at the moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from asgi_llmgate.api.router import AdminCall, AdminRoute
from asgi_llmgate.backends.upstreams_shared import Board
from asgi_llmgate.core.call_sums import Labels
from asgi_llmgate.core.exposition import Family
from asgi_llmgate.core.health import WHOLE_KEY
from asgi_llmgate.core.permissions import Permission
from asgi_llmgate.core.registry import Registry
from asgi_llmgate.errors import BackendError

__all__ = ["upstream_families", "upstream_routes", "upstream_rows"]

HELP = "Keys that are not called, by model (* is all) and state: open, half_open, or out."
MAX_SAMPLES = 300
MAX_LABEL_CHARS = 128


def upstream_rows(registry: Registry, board: Board) -> list[dict[str, Any]]:
    """Return one row for each key of the settings, and one for each place that is not called.

    `model` is null where the row is about the key itself. `retry_in_s` is null while all is well.
    Blocks.

    Raises:
        BackendError: what the workers share cannot be read.
    """
    troubles = board.troubles()
    out = {
        (trouble.place.provider, trouble.place.key): (trouble, retry_in_s)
        for trouble, retry_in_s in troubles
        if trouble.place.model == WHOLE_KEY and retry_in_s > 0
    }
    rows = []
    for provider in registry.providers.values():
        for key in provider.keys:
            found = out.pop((provider.id, key.id), None)
            rows.append(
                _row(provider.id, key.id, None, "closed", "", None)
                if found is None
                else _row(provider.id, key.id, None, "out", found[0].reason, found[1])
            )
    rows += [
        _row(provider, key, None, "out", trouble.reason, retry_in_s)
        for (provider, key), (trouble, retry_in_s) in out.items()
    ]
    rows += [
        _row(*trouble.place, trouble.state.value, trouble.reason, retry_in_s)
        for trouble, retry_in_s in troubles
        if trouble.place.model != WHOLE_KEY
    ]
    return rows


def _row(
    provider: str,
    key: str,
    model: str | None,
    state: str,
    reason: str,
    retry_in_s: float | None,
) -> dict[str, Any]:
    return {
        "provider": provider,
        "key": key,
        "model": model,
        "state": state,
        "reason": reason or None,
        "retry_in_s": None if retry_in_s is None else round(retry_in_s, 1),
    }


def upstream_families(board: Board) -> list[Family]:
    """Return what `/metrics` says of breakers and keys: as anywhere there, no key is a label.

    Blocks. A board that fails has nothing to say: a scrape has more in it than this.
    """
    try:
        troubles = board.troubles()
    except BackendError:
        return []
    counts: Counter[tuple[str, str, str]] = Counter()
    for trouble, retry_in_s in troubles:
        provider, _, model = trouble.place
        if model != WHOLE_KEY:
            counts[provider, model[:MAX_LABEL_CHARS], trouble.state.value] += 1
        elif retry_in_s > 0:
            counts[provider, model, "out"] += 1
    samples: list[tuple[str, Labels, float]] = [
        ("", (("provider", provider), ("model", model), ("state", state)), float(number))
        for (provider, model, state), number in sorted(counts.items())[:MAX_SAMPLES]
    ]
    return [Family("llmgate_upstreams", "gauge", HELP, samples)]


def upstream_routes(
    registry: Callable[[], Registry], board: Callable[[], Board]
) -> list[AdminRoute]:
    async def upstreams(_: AdminCall) -> dict[str, Any]:
        return {"upstreams": await asyncio.to_thread(upstream_rows, registry(), board())}

    return [
        AdminRoute(
            "GET",
            "/upstreams",
            Permission.UPSTREAMS_READ,
            upstreams,
            "Show provider keys and what is not called at the moment.",
        )
    ]
