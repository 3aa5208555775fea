"""The admin API of keys. What each route needs is in the table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from asgi_llmgate.api import models
from asgi_llmgate.api.openapi import openapi_document
from asgi_llmgate.api.router import AdminCall, AdminRoute
from asgi_llmgate.control import Control
from asgi_llmgate.core.permissions import Permission
from asgi_llmgate.errors import InvalidRequestError

__all__ = ["key_routes"]

MAX_PAGE = 1000


def key_routes(
    control: Control,
    all_routes: Callable[[], Sequence[AdminRoute]],
    now: Callable[[], float] = time.time,
) -> list[AdminRoute]:
    """Return the routes of keys, provider keys, and of the API itself.

    Args:
        all_routes: The whole table, for the OpenAPI document.
        now: Seconds since the epoch.
    """
    keys, pool = control.keys, control.provider_keys

    async def list_keys(call: AdminCall) -> models.KeyList:
        limit = _limit(call.query.get("limit", "100"))
        found = await keys.page(
            tenant=call.query.get("tenant"), after=call.query.get("after", ""), limit=limit + 1
        )
        page = found[:limit]
        following = page[-1].kid if len(found) > limit else None
        return models.KeyList(keys=[models.key_view(key, now()) for key in page], next=following)

    async def create_key(call: AdminCall) -> models.IssuedKey:
        key, token = await keys.create(call.body)
        return models.IssuedKey(key=models.key_view(key, now()), token=token)

    async def import_key(call: AdminCall) -> models.KeyView:
        return models.key_view(await keys.import_(call.body), now())

    async def show_key(call: AdminCall) -> models.KeyView:
        return models.key_view(await keys.get(call.path["kid"]), now())

    async def revoke_key(call: AdminCall) -> models.KeyView:
        return models.key_view(await keys.revoke(call.path["kid"]), now())

    async def rotate_key(call: AdminCall) -> models.IssuedKey:
        key, token = await keys.rotate(call.path["kid"], call.body.overlap_s)
        return models.IssuedKey(key=models.key_view(key, now()), token=token)

    async def list_provider_keys(_: AdminCall) -> models.ProviderKeyList:
        rows = await pool.all()
        views = [models.provider_key_view(row, usable=usable) for row, usable in rows]
        return models.ProviderKeyList(provider_keys=views)

    async def add_provider_key(call: AdminCall) -> models.ProviderKeyView:
        return models.provider_key_view(await pool.add(call.body), usable=True)

    async def replace_provider_key(call: AdminCall) -> models.ProviderKeyView:
        body = call.body
        row = await pool.replace(call.path["id"], body.key.get_secret_value(), body.weight)
        return models.provider_key_view(row, usable=True)

    async def remove_provider_key(call: AdminCall) -> models.Removed:
        await pool.remove(call.path["id"])
        return models.Removed(removed=call.path["id"])

    async def reseal(_: AdminCall) -> models.Resealed:
        return models.Resealed(resealed=await pool.reseal())

    async def whoami(call: AdminCall) -> models.Whoami:
        permissions = sorted(call.permissions)
        principal = call.principal
        if principal is None or principal.grants is None:
            return models.Whoami(kind="admin", permissions=permissions)
        return models.Whoami(
            kind="key",
            permissions=permissions,
            kid=principal.id,
            tenant=principal.tenant,
            user_id=principal.user_id,
            scopes=sorted(principal.grants.scopes),
        )

    async def openapi(_: AdminCall) -> dict[str, Any]:
        return openapi_document(all_routes())

    may = Permission
    pages = {"tenant": "Of this tenant only.", "after": "`next` of the page before.", "limit": ""}
    pages["limit"] = f"1 to {MAX_PAGE}; 100 if left out."
    return [
        AdminRoute(
            "GET",
            "/keys",
            may.KEYS_READ,
            list_keys,
            "List virtual keys.",
            response=models.KeyList,
            query=pages,
        ),
        AdminRoute(
            "POST",
            "/keys",
            may.KEYS_WRITE,
            create_key,
            "Make a virtual key. Its token is shown this once.",
            request=models.NewKey,
            response=models.IssuedKey,
            status=201,
        ),
        AdminRoute(
            "POST",
            "/keys/import",
            may.KEYS_WRITE,
            import_key,
            "Take over a key that was made elsewhere.",
            request=models.ImportedKey,
            response=models.KeyView,
            status=201,
        ),
        AdminRoute(
            "GET",
            "/keys/{kid}",
            may.KEYS_READ,
            show_key,
            "Show a virtual key.",
            response=models.KeyView,
        ),
        AdminRoute(
            "POST",
            "/keys/{kid}/revoke",
            may.KEYS_WRITE,
            revoke_key,
            "Revoke a virtual key and all below it.",
            response=models.KeyView,
        ),
        AdminRoute(
            "POST",
            "/keys/{kid}/rotate",
            may.KEYS_WRITE,
            rotate_key,
            "Give a virtual key a new secret.",
            request=models.Rotation,
            response=models.IssuedKey,
        ),
        AdminRoute(
            "GET",
            "/provider-keys",
            may.PROVIDER_KEYS_READ,
            list_provider_keys,
            "List the stored provider keys.",
            response=models.ProviderKeyList,
        ),
        AdminRoute(
            "POST",
            "/provider-keys",
            may.PROVIDER_KEYS_WRITE,
            add_provider_key,
            "Store a provider key.",
            request=models.NewProviderKey,
            response=models.ProviderKeyView,
            status=201,
        ),
        AdminRoute(
            "POST",
            "/provider-keys/reseal",
            may.PROVIDER_KEYS_WRITE,
            reseal,
            "Seal all with the secret key in force.",
            response=models.Resealed,
        ),
        AdminRoute(
            "PUT",
            "/provider-keys/{id}",
            may.PROVIDER_KEYS_WRITE,
            replace_provider_key,
            "Replace a stored provider key.",
            request=models.ReplacedProviderKey,
            response=models.ProviderKeyView,
        ),
        AdminRoute(
            "DELETE",
            "/provider-keys/{id}",
            may.PROVIDER_KEYS_WRITE,
            remove_provider_key,
            "Remove a stored provider key.",
            response=models.Removed,
        ),
        AdminRoute(
            "GET",
            "/whoami",
            may.SELF_READ,
            whoami,
            "Tell what the credential is good for.",
            response=models.Whoami,
        ),
        AdminRoute(
            "GET", "/openapi.json", may.DOCS_READ, openapi, "This description, as OpenAPI 3.1."
        ),
    ]


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PAGE):
        raise InvalidRequestError(f"`limit` must be a number from 1 to {MAX_PAGE}.", param="limit")
    return int(text)
