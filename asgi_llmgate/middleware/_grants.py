"""Hold a virtual key to what it may do, before anything answers: a cache would not ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.grants import check_route, check_target
from asgi_llmgate.core.json import JSONError, loads, repeats_key
from asgi_llmgate.errors import ForbiddenError
from asgi_llmgate.types import Grants, Route

__all__ = ["TargetsOf", "check_grants", "named_models"]

TargetsOf = Callable[[GatewayContext, str | None], Iterable[tuple[str, str | None]]]
"""Where a call goes that names a model (or none): pairs of provider id and the model there."""


async def check_grants(
    grants: Grants, context: GatewayContext, targets_of: TargetsOf | None
) -> None:
    """Raise unless `grants` allow the call.

    Reads the body only if they restrict models or providers. `Model-Override` does not count: it
    names the model that is paid for, not the one that is called.

    Raises:
        ForbiddenError: they do not.
    """
    route = context.route
    check_route(grants, route)
    if grants.models is None and grants.providers is None:
        return
    for model in await named_models(context, by_model=grants.models is not None):
        if targets_of is None:
            check_target(grants, route.provider, model, route.format)
            continue
        for provider, target_model in targets_of(context, model):
            check_target(grants, provider, target_model, route.format)


async def named_models(context: GatewayContext, *, by_model: bool) -> list[str | None]:
    """Return every model that the provider may take the request to name; None if it names none.

    Raises:
        ForbiddenError: that cannot be told, and models are what is restricted (`by_model`).
    """
    request = await _request(context)
    return _models(context.route, request, context.body.data, by_model=by_model)


async def _request(context: GatewayContext) -> dict[str, Any] | None:
    """Return the JSON object of the request; None if it has none that names a model."""
    route = context.route
    if route.is_json:
        return await context.body.json()
    is_json = context.headers.get(b"content-type", b"").lower().startswith(b"application/json")
    # Of a provider only routes that are known, and paths of an app of one's own; what uploads,
    # files and batches say of a model is not what they are for.
    if (route.provider is None) is not (route.format is None) or not is_json:
        return None
    try:
        value = loads(await context.body.read())
    except JSONError:
        return None
    return value if isinstance(value, dict) else None


def _models(
    route: Route, request: dict[str, Any] | None, body: bytes | None, *, by_model: bool
) -> list[str | None]:
    if route.model is not None or request is None:
        return [route.model]
    if by_model and body is not None and repeats_key(body, "model"):
        # Which of them counts is the provider's choice, and its parser may choose another.
        raise ForbiddenError("The body has several `model`. Send one.", param="model")
    named = request.get("model")
    models: list[str | None] = [named if isinstance(named, str) else None]
    others = request.get("models")  # OpenRouter's, to fall back to.
    if isinstance(others, list):
        models += [other if isinstance(other, str) else None for other in others]
    return models
