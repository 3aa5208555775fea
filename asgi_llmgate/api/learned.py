"""The admin API of the semantic cache: what it keeps, what it has learned, and feedback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from asgi_llmgate.api.models import Body, Name
from asgi_llmgate.api.router import AdminCall, AdminRoute
from asgi_llmgate.core.permissions import Permission
from asgi_llmgate.errors import InvalidRequestError, UnknownRouteError
from asgi_llmgate.feedback import AmbiguousCallError
from asgi_llmgate.learned import MAX_LISTED, Learned

__all__ = ["learned_routes"]

NAMESPACE = "A tenant, or what `namespace=` of a middleware returned, or a partition of a list."


class Feedback(Body):
    """Somebody's word on an answer that he was given."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    """`LLMGate-Id` of the call."""
    wrong: bool
    tenant: Name | None = None
    """Whose call it was. For the admin token, where several tenants chose the same id."""


class FeedbackTaken(BaseModel):
    id: str
    wrong: bool
    counted: bool
    """False if the call was judged before."""
    quarantined: bool
    """The phrasing is forgotten that led to the answer."""


def learned_routes(learned: Callable[[], Learned | None]) -> list[AdminRoute]:
    def here() -> Learned:
        found = learned()
        if found is None:
            raise UnknownRouteError(
                "There is no semantic cache here: it is not installed, or cache.mode is exact."
            )
        return found

    async def aliases(call: AdminCall) -> dict[str, Any]:
        limit = _limit(call)
        return {"aliases": await here().aliases(namespace=_namespace(call), limit=limit)}

    async def entries(call: AdminCall) -> dict[str, Any]:
        limit = _limit(call)
        return {"entries": await here().entries(namespace=_namespace(call), limit=limit)}

    async def report(call: AdminCall) -> dict[str, Any]:
        return await here().report(_namespace(call), max_errors=_max_errors(call))

    async def export(call: AdminCall) -> dict[str, Any]:
        return await here().export(_namespace(call))

    async def reset(call: AdminCall) -> dict[str, Any]:
        everything = call.query.get("all", "false")
        if everything not in ("true", "false"):
            raise InvalidRequestError("`all` is true or false.", param="all")
        try:
            forgotten = await here().reset(_namespace(call), everything=everything == "true")
        except ValueError:
            raise InvalidRequestError("Name a `namespace`, or `all=true`; not both.") from None
        return {"reset": True, "partitions": forgotten}

    async def feedback(call: AdminCall) -> FeedbackTaken:
        given: Feedback = call.body
        caller = call.principal
        if caller is not None and given.tenant not in (None, caller.tenant):
            raise _unknown(given.id)  # Whether others have such a call is not told.
        try:
            told = await here().feedback(
                given.id,
                wrong=given.wrong,
                tenant=given.tenant if caller is None else caller.tenant,
                is_admin=caller is None,
            )
        except AmbiguousCallError as error:
            raise InvalidRequestError(f"{error}.", param="tenant") from None
        if told is None:
            raise _unknown(given.id)
        return FeedbackTaken(**told)

    read, write = Permission.CACHE_READ, Permission.CACHE_WRITE
    named = {"namespace": NAMESPACE}
    listed = named | {"limit": f"How many, newest first: 1 to {MAX_LISTED}, else 100."}
    return [
        AdminRoute(
            "GET", "/cache/aliases", read, aliases, "List phrasings, newest first.", query=listed
        ),
        AdminRoute(
            "GET",
            "/cache/entries",
            read,
            entries,
            "List answers that several phrasings may share, with those phrasings.",
            query=listed,
        ),
        AdminRoute(
            "GET",
            "/cache/semantic",
            read,
            report,
            "Show labels by similarity, and how precise hits are under each bound.",
            query=named | {"max_error": "Further bounds, as 0.01,0.02."},
        ),
        AdminRoute(
            "GET",
            "/cache/learned",
            read,
            export,
            "Export what was learned: the models, and each verdict on what a namespace names.",
            query=named,
        ),
        AdminRoute(
            "DELETE",
            "/cache/learned",
            write,
            reset,
            "Forget what was learned of a namespace, or all.",
            query=named | {"all": "`true` for all namespaces."},
        ),
        AdminRoute(
            "POST",
            "/cache/feedback",
            Permission.CACHE_FEEDBACK,
            feedback,
            "Say whether a semantic hit of the last day was wrong.",
            request=Feedback,
            response=FeedbackTaken,
        ),
    ]


def _unknown(call_id: str) -> UnknownRouteError:
    return UnknownRouteError(f"There is no semantic hit {call_id!r} of yours within the last day.")


def _namespace(call: AdminCall) -> str | None:
    return call.query.get("namespace") or None


def _limit(call: AdminCall) -> int:
    text = call.query.get("limit", "100")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_LISTED:
        raise InvalidRequestError(f"`limit` is 1 to {MAX_LISTED}.", param="limit")
    return int(text)


def _max_errors(call: AdminCall) -> list[float]:
    try:
        shares = [float(part) for part in call.query.get("max_error", "").split(",") if part]
    except ValueError:
        shares = [0.0]
    if len(shares) > 20 or not all(0 < share <= 0.5 for share in shares):
        raise InvalidRequestError(
            "`max_error` is a list of shares above 0, up to 0.5.", param="max_error"
        )
    return shares
