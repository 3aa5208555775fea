"""Answer what models there are: the operator's aliases, and what his providers list.

A caller with a provider key of his own sees that provider's list and the aliases. Lists are kept
for five minutes; a provider that does not answer is left out, and asked again after half a minute.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from starlette.types import Scope, Send

from asgi_llmgate._asgi.respond import send_json
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.forward import IDENTITY, key_header
from asgi_llmgate.core.grants import check_target
from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.key_pool import usable_keys
from asgi_llmgate.core.model_list import (
    Model,
    list_path,
    listed_as,
    read_models,
    shown_model,
    shown_models,
)
from asgi_llmgate.core.registry import HOMES, Provider, ProviderKey, Registry
from asgi_llmgate.core.url import join
from asgi_llmgate.errors import ForbiddenError, GatewayError, UpstreamBrokenError
from asgi_llmgate.protocols import RawHeaders, Timeouts, Upstream, UpstreamRequest
from asgi_llmgate.types import CallerKey

__all__ = ["ModelLists"]

FORMATS = frozenset({"openai-models", "anthropic-models", "gemini-models"})

KEPT_S = 300.0
KEPT_FAILURE_S = 30.0
TIMEOUTS = Timeouts(first_byte_s=5, idle_s=5, total_s=10)
MAX_BYTES = 8 * 1024 * 1024
# Callers with keys of their own could fill this; each entry is a list.
MAX_KEPT = 100

# What any call of the asker's dialect may go to, for rights that depend on the route.
GENERATES = "openai-chat"

logger = logging.getLogger("asgi_llmgate")


class ModelLists:
    """Lists of models, for one gateway.

    Args:
        stored_keys: Further pooled keys of a provider, by its id.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        registry: Registry,
        stored_keys: Callable[[str], Sequence[ProviderKey]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstream = upstream
        self.registry = registry
        self._stored_keys = stored_keys
        self._clock = clock
        self._kept: dict[tuple[str, str | None], tuple[float, list[Model]]] = {}

    async def answer(self, context: GatewayContext, scope: Scope, send: Send) -> bool:
        """Answer a request for models; False if that is the provider's business."""
        route, directives = context.route, context.directives
        if route.format not in FORMATS or route.provider is not None:
            return False
        if directives.provider is not None or directives.target_url is not None:
            return False
        principal, caller = context.principal, context.caller_key
        aliases = self.registry.model_aliases
        _, slash, name = route.path.partition("/models/")
        if slash:
            name = unquote(name)
            if name not in aliases or not self._may_use(context, None, name):
                return False
            await self._send(context, send, shown_model(route.dialect, Model(name, "llmgate")))
            return True
        if principal is None or (caller is not None and not aliases):
            return False
        models = [Model(alias, "llmgate") for alias in aliases]
        home = HOMES[route.dialect]
        if caller is not None:
            found = await self._listed(self.registry.providers[home], None, caller)
            if found is None:
                return False  # The provider's own refusal says it best.
            models += found
        else:
            asked = list(self._to_ask(context))
            lists = await asyncio.gather(*(self._listed(row, key) for row, key in asked))
            for (row, _), found in zip(asked, lists, strict=True):
                for model in found or ():
                    named = model.id if row.id == home else f"{row.id}/{model.id}"
                    models.append(model._replace(id=named))
        allowed = [m for m in models if self._may_use(context, m, m.id)]
        await self._send(context, send, shown_models(route.dialect, allowed))
        return True

    def _to_ask(self, context: GatewayContext) -> Iterator[tuple[Provider, ProviderKey | None]]:
        """Yield the providers that were set up, and a key that this caller may use."""
        for row in self.registry.providers.values():
            if listed_as(row) is None:
                continue
            stored = self._stored_keys(row.id) if self._stored_keys is not None else ()
            keys = usable_keys(row, stored, context.principal)
            if keys:
                yield row, keys[0]
            elif row.key_optional and row.id != "demo":
                yield row, None

    def _may_use(self, context: GatewayContext, model: Model | None, name: str) -> bool:
        """Tell whether the caller may call it: an alias if he may call one of its targets."""
        grants = context.principal.grants if context.principal is not None else None
        policy = context.policy
        if grants is None and (policy is None or not policy.restricts_targets):
            return True
        if model is not None and name not in self.registry.model_aliases:
            targets = [(model.provider, name.removeprefix(f"{model.provider}/"))]
        else:
            targets = [
                (first, rest)
                for target in self.registry.model_aliases[name].split(",")
                for first, _, rest in [target.strip().partition("/")]
            ]
        return any(self._allows(context, provider, plain) for provider, plain in targets)

    def _allows(self, context: GatewayContext, provider: str, model: str) -> bool:
        principal, policy = context.principal, context.policy
        if principal is not None and principal.grants is not None:
            try:
                check_target(principal.grants, provider, model, GENERATES)
            except ForbiddenError:
                return False
        if policy is None or policy.policy.observe:
            return True
        return policy.not_allowed(provider, model, GENERATES) is None

    async def _listed(
        self, row: Provider, key: ProviderKey | None, caller: CallerKey | None = None
    ) -> list[Model] | None:
        """Return the models of one provider; None if it did not list them."""
        place = (row.id, None if key is None else key.id)
        now = self._clock()
        if caller is None and (kept := self._kept.get(place)) is not None and kept[0] > now:
            return kept[1]
        try:
            models = await self._ask(row, key, caller)
        except (GatewayError, UpstreamBrokenError, JSONError) as error:
            logger.warning("%s did not list its models: %s", row.id, type(error).__name__)
            models = None
        if caller is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            until = now + (KEPT_S if models is not None else KEPT_FAILURE_S)
            self._kept[place] = (until, models or [])
        return models

    async def _ask(
        self, row: Provider, key: ProviderKey | None, caller: CallerKey | None
    ) -> list[Model] | None:
        wire_format = listed_as(row) or ""
        path, query = list_path(wire_format)
        headers: RawHeaders = [IDENTITY]
        secret = caller.key if caller is not None else None if key is None else key.key
        if secret is not None:
            header = key_header(row.auth, secret)
            if header is None:
                return None  # signed requests; their lists are elsewhere
            headers.append(header)
        if wire_format == "anthropic-messages":
            headers.append((b"anthropic-version", b"2023-06-01"))
        url = join(row.endpoints[wire_format], path, query)
        response = await self.upstream.open(UpstreamRequest("GET", url, headers, None, TIMEOUTS))
        try:
            body = bytearray()
            while chunk := await response.read():
                body += chunk
                if len(body) > MAX_BYTES:
                    return None
        finally:
            await response.aclose()
        if response.status != 200:
            logger.warning("%s did not list its models: status %d", row.id, response.status)
            return None
        return read_models(loads(bytes(body)), row.id)

    async def _send(self, context: GatewayContext, send: Send, body: dict[str, Any]) -> None:
        context.metered = context.complete = True
        await send_json(send, 200, body)
