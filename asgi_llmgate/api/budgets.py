"""The admin API of budgets."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydantic import Field

from asgi_llmgate.api.models import Body
from asgi_llmgate.api.router import AdminCall, AdminRoute
from asgi_llmgate.backends.webhook import BadWebhookError, check_webhook
from asgi_llmgate.budgets import Budgets
from asgi_llmgate.core.budgets import Budget, budget_from
from asgi_llmgate.core.limits import BadPolicyError
from asgi_llmgate.core.permissions import Permission
from asgi_llmgate.errors import InvalidRequestError, UnknownRouteError

__all__ = ["budget_routes", "read_budget"]


class NewBudget(Body):
    """US dollars per calendar period; `soft` is the share of the limit that is reported."""

    per: str = "all"
    limit_usd: Decimal = Field(gt=0, le=10**9)
    period: str = "month"
    subject: str | None = None
    tenant: str | None = None
    soft: float | None = Field(None, gt=0, le=1)
    hard: bool = True
    webhook: str | None = None


class Reset(Body):
    """Whose spending is forgotten; everybody's if no subject is named."""

    subject: str | None = None


def read_budget(name: str, given: NewBudget, allowed_hosts: frozenset[str]) -> Budget:
    """Return the budget that `given` means.

    Raises:
        InvalidRequestError: names the part that is wrong.
    """
    limit = int(given.limit_usd * 10**9)
    soft = None if given.soft is None else max(1, int(limit * given.soft))
    values = given.model_dump() | {"name": name, "limit_nanousd": limit, "soft_nanousd": soft}
    try:
        budget = budget_from(values)
        if budget.webhook is not None:
            check_webhook(budget.webhook, allowed_hosts)
    except BadPolicyError as error:
        raise InvalidRequestError(f"Expected {error}.", code="policy_violation") from None
    except BadWebhookError as error:
        why = str(error)
        raise InvalidRequestError(f"{why[:1].upper()}{why[1:]}.", code="policy_violation") from None
    return budget


def budget_routes(
    budgets: Callable[[], Budgets], allowed_hosts: frozenset[str] = frozenset()
) -> list[AdminRoute]:
    async def show(_: AdminCall) -> dict[str, Any]:
        return {"budgets": await budgets().all()}

    async def put(call: AdminCall) -> dict[str, Any]:
        budget = read_budget(call.path["name"], call.body, allowed_hosts)
        try:
            return await budgets().set(budget)
        except ValueError as error:
            raise InvalidRequestError(f"{error}.", code="policy_violation") from None

    async def remove(call: AdminCall) -> dict[str, Any]:
        try:
            removed = await budgets().remove(call.path["name"])
        except ValueError as error:
            raise InvalidRequestError(f"{error}.", code="policy_violation") from None
        if not removed:
            raise UnknownRouteError("There is no such budget.")
        return {"removed": call.path["name"]}

    async def reset(call: AdminCall) -> dict[str, Any]:
        if not await budgets().reset(call.path["name"], call.body.subject):
            raise UnknownRouteError("There is no such budget.")
        return {"reset": call.path["name"], "subject": call.body.subject}

    read, write = Permission.BUDGETS_READ, Permission.BUDGETS_WRITE
    return [
        AdminRoute("GET", "/budgets", read, show, "List budgets with what was spent of them."),
        AdminRoute(
            "PUT", "/budgets/{name}", write, put, "Set or replace a budget.", request=NewBudget
        ),
        AdminRoute("DELETE", "/budgets/{name}", write, remove, "Remove a budget."),
        AdminRoute(
            "POST", "/budgets/{name}/reset", write, reset, "Forget spending.", request=Reset
        ),
    ]
