"""Hold the calls to a route to what its operator wants of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate.context import GatewayContext, relative_path
from asgi_llmgate.core.policy import Refusal, RoutePolicy, Rule
from asgi_llmgate.core.policy_table import PolicyTable, loosened
from asgi_llmgate.core.routes import find_route
from asgi_llmgate.core.tags import user_in_body
from asgi_llmgate.errors import ConfigurationError, ForbiddenError
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware._grants import TargetsOf, named_models
from asgi_llmgate.middleware._signed import SigningKey, signed_users
from asgi_llmgate.protocols import Count
from asgi_llmgate.types import Dialect, Principal, Route

__all__ = ["PolicyMiddleware"]

logger = logging.getLogger("asgi_llmgate.policy")

MAX_REMEMBERED = 1024

REFUSALS = "llmgate_policy_refusals_total"


class PolicyMiddleware(GatewayMiddleware):
    """Settle the headers of a call before anybody reads them, or answer 400 or 403.

    Alone: guards the LLM calls of an app, and every path that a policy names, by the path as the
    app sees it. Stacked: paths are those below the mount point; the settled headers are what
    tagging, limits, cache and dispatch go by.

    Args:
        app: The application inside.
        policies: The most specific one that matches applies; see `core/policy_table.py`.
        targets: Where a call goes, told before it goes there. None takes the model of the request
            by its name, and cannot hold to `providers=`.
        signing_key: With which `LLMGate-User` is signed, for `identity="require"`.
        count: Where refusals are counted.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.

    Raises:
        ConfigurationError: a policy has a mistake, or two are for the same calls.
    """

    must_be_inside = ("LoggingMiddleware", "AuthMiddleware")

    def __init__(
        self,
        app: ASGIApp,
        *,
        policies: Sequence[RoutePolicy],
        targets: TargetsOf | None = None,
        signing_key: SigningKey = None,
        count: Count | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self.table = PolicyTable(policies)
        self._targets = targets
        self._signed = signed_users(signing_key)
        self._count = count
        self._allowed: set[tuple[int, str, str | None]] = set()
        if targets is None and any(policy.providers is not None for policy in policies):
            raise ConfigurationError(
                "PolicyMiddleware alone cannot tell to which provider a call goes.\n"
                "HINT: use `models=`, or give `targets=`, or put the policies into an LLMGate."
            )

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        rule = self.table.find(scope["method"], relative_path(scope), context.route.name)
        if rule is None:
            await self.app(scope, receive, send)
            return
        context.policy = rule
        sent = context.directives
        if (refusal := rule.forbidden(sent)) is not None:
            self._refuse(rule, refusal, context)
        context.directives = settled = rule.settle(sent)
        if rule.requires_user or rule.needs_proof:
            is_proven = self._is_proven(context)
            has_user = is_proven or (rule.requires_user and await self._is_named(rule, context))
        else:
            is_proven = has_user = False
        if (refusal := rule.missing(settled, has_user=has_user)) is not None:
            self._refuse(rule, refusal, context)
        if rule.needs_proof and not is_proven:
            self._refuse(rule, rule.unproven(), context)
        if rule.restricts_targets:
            await self._check_targets(rule, context)
        await self.app(scope, context.body.replay(receive), send)

    def _is_proven(self, context: GatewayContext) -> bool:
        principal: Principal | None = context.principal
        if principal is not None and principal.user_id is not None:
            return True
        return self._signed.find(context) is not None

    async def _is_named(self, rule: Rule, context: GatewayContext) -> bool:
        """Tell whether the body names the user, where that counts."""
        if not (rule.takes_word and context.route.is_json):
            return False
        return user_in_body(await context.body.json()) is not None

    async def _check_targets(self, rule: Rule, context: GatewayContext) -> None:
        try:
            models = await named_models(context, by_model=rule.policy.models is not None)
        except ForbiddenError as error:
            self._refuse(rule, Refusal("models", error), context)
            return
        # Nearly every call is for a model that one before it was for, and says nothing of its own.
        route = context.route
        is_plain = rule.is_bare(context.directives) and route.is_json and route.model is None
        key = (id(rule), route.name, models[0])
        if is_plain and len(models) == 1 and key in self._allowed:
            return
        for provider, model in self._called(context, models):
            refusal = rule.not_allowed(provider, model, context.route.format)
            if refusal is not None:
                self._refuse(rule, refusal, context)
                return
        if is_plain and len(models) == 1:
            if len(self._allowed) >= MAX_REMEMBERED:
                self._allowed.clear()
            self._allowed.add(key)

    def _called(
        self, context: GatewayContext, models: list[str | None]
    ) -> Iterator[tuple[str | None, str | None]]:
        for model in models:
            if self._targets is None:
                yield context.route.provider, model
            else:
                yield from self._targets(context, model)

    def _refuse(self, rule: Rule, refusal: Refusal, context: GatewayContext) -> None:
        """Raise, or only count what would be refused."""
        observed = rule.policy.observe
        if self._count is not None:
            shown = "true" if observed else "false"
            self._count(REFUSALS, policy=rule.name, reason=refusal.reason, observed=shown)
        if not observed:
            raise refusal.error
        logger.info("policy %s would refuse call %s: %s", rule.name, context.id, refusal.error)

    def _route(self, scope: Scope) -> Route | None:
        """Match more paths than others do: a guard that overlooks one guards nothing."""
        route = super()._route(scope)
        if route is not None:
            return route
        path = relative_path(scope)
        loose = loosened(path)
        route = self._own_paths.get(loose) or find_route("POST", loose)
        if route is None and self.table.names_path(scope["method"], path) is not None:
            route = Route(Dialect.OPENAI, None, path, path, is_json=False)
        return route
