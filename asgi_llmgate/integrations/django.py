"""Mount a gateway into a Django ASGI application, and tell its cache of changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.acting import host_request
from asgi_llmgate.cache import Cache
from asgi_llmgate.errors import BackendError

__all__ = ["invalidate_on_save", "mount"]

logger = logging.getLogger("asgi_llmgate")


def mount(application: ASGIApp, prefix: str, gate: ASGIApp) -> ASGIApp:
    """Return an application that serves `gate` below `prefix` and Django everywhere else.

    Goes into `asgi.py`:

        application = mount(get_asgi_application(), "/llm", LLMGate(...))

    Django raises on lifespan events, so they end here: the gateway needs none, and starting and
    stopping it is offered to servers that send them. Views that call models through
    `gate.http_client()` do so for whoever made their request.
    """
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ValueError("the prefix starts with a slash and does not end with one")

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await gate(scope, receive, send)
            return
        path: str = scope.get("path", "")
        if path == prefix or path.startswith(prefix + "/"):
            inner = {**scope, "root_path": scope.get("root_path", "") + prefix}
            await gate(inner, receive, send)
            return
        with host_request(scope):
            await application(scope, receive, send)

    return mounted


def invalidate_on_save(cache: Cache, tags: Mapping[Any, Sequence[str]]) -> None:
    """Invalidate tags whenever an object of a model is saved or deleted.

        invalidate_on_save(gate.cache, {Product: ["kb:products"]})      # in `AppConfig.ready`

    Inside a transaction that happens once it is committed: a question in between still sees the
    old data, and its answer must not outlive it. Bulk updates send no signals in Django; call
    `cache.invalidate_blocking(...)` after those.
    """
    from django.db import transaction
    from django.db.models.signals import m2m_changed, post_delete, post_save

    for model, given in tags.items():
        names = tuple(given)

        def changed(using: str | None = None, names: tuple[str, ...] = names, **_: Any) -> None:
            transaction.on_commit(lambda: _invalidate(cache, names), using=using)

        uid = f"asgi_llmgate:{id(cache)}:{model._meta.label}"
        for signal in (post_save, post_delete):
            signal.connect(changed, sender=model, weak=False, dispatch_uid=uid)
        for field in model._meta.many_to_many:
            through = getattr(model, field.name).through
            m2m_changed.connect(changed, sender=through, weak=False, dispatch_uid=uid)


def _invalidate(cache: Cache, tags: tuple[str, ...]) -> None:
    try:
        cache.invalidate_blocking(*tags)
    except BackendError as error:
        # The change is committed; failing its request would not undo that.
        logger.error("Tags %s could not be invalidated: %s", ", ".join(tags), error)
