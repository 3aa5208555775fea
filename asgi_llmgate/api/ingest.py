"""Take records of calls that went past the gateway: `POST /llmgate/api/v1/log`.

The tenant is that of the key, never what a record says. Costs are computed here. Each id of a
tenant is taken once, so a sender that is not sure sends again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from asgi_llmgate.api.models import Body
from asgi_llmgate.api.router import AdminCall, AdminRoute
from asgi_llmgate.backends.ingested import IngestedIds
from asgi_llmgate.core.permissions import Permission
from asgi_llmgate.errors import ForbiddenError, OverloadedError
from asgi_llmgate.protocols import LogSink, Price
from asgi_llmgate.types import AttemptRecord, CallRecord, Principal, Usage

__all__ = ["IngestedRecord", "ingest_routes"]

Name = Field(None, max_length=256)
Tokens = Field(None, ge=0, le=10**12)


class IngestedRecord(Body):
    """One call. What is left out is unknown."""

    id: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    path: Literal["direct"] = "direct"
    started_at_us: int = Field(ge=0, le=10**17)
    duration_ms: float = Field(ge=0, le=1e9)
    first_byte_ms: float | None = Field(None, ge=0, le=1e9)
    dialect: str | None = Name
    format: str | None = Name
    route: str | None = Name
    provider: str | None = Name
    model_requested: str | None = Name
    model: str | None = Name
    status: int | None = Field(None, ge=100, le=599)
    is_stream: bool = False
    complete: bool = False
    input_tokens: int | None = Tokens
    output_tokens: int | None = Tokens
    cache_read_tokens: int | None = Tokens
    cache_write_tokens: int | None = Tokens
    reasoning_tokens: int | None = Tokens
    usage_estimated: bool = False
    user_id: str | None = Name
    session_id: str | None = Name
    session_path: str | None = Name
    properties: dict[str, str] = Field({}, max_length=31)
    request_bytes: int = Field(0, ge=0)
    response_bytes: int = Field(0, ge=0)
    request_body: str | None = None
    response_body: str | None = None


class Ingested(Body):
    records: list[IngestedRecord] = Field(min_length=1, max_length=50)


def ingest_routes(
    log: Callable[[], LogSink], price: Callable[[], Price], folder: Path
) -> list[AdminRoute]:
    ids = IngestedIds(folder)

    async def ingest(call: AdminCall) -> dict[str, Any]:
        principal = call.principal
        if principal is None:
            raise ForbiddenError("Records belong to a tenant: send a gateway key of that tenant.")
        body: Ingested = call.body
        tenant = principal.tenant
        new = await asyncio.to_thread(ids.claim, tenant, [record.id for record in body.records])
        sink, dropped = log(), log().dropped
        wanted = set(new)
        for record in body.records:
            if record.id in wanted:
                wanted.remove(record.id)
                sink.write(_call_record(record, principal, price()))
        try:
            await sink.flush()
            if sink.dropped > dropped:
                raise OverloadedError("The log cannot take more at the moment.", retry_after_s=5)
        except BaseException:
            await asyncio.to_thread(ids.give_back, tenant, new)
            raise
        await asyncio.to_thread(ids.written, tenant, new)
        return {"taken": len(new), "known": len(body.records) - len(new)}

    return [
        AdminRoute(
            "POST",
            "/log",
            Permission.LOG_INGEST,
            ingest,
            "Take records of calls that went past the gateway.",
            request=Ingested,
        )
    ]


def _call_record(given: IngestedRecord, principal: Principal, price: Price) -> CallRecord:
    cost = None
    if given.provider and given.model and given.input_tokens is not None:
        usage = Usage(
            input_tokens=given.input_tokens,
            output_tokens=given.output_tokens or 0,
            cache_read_tokens=given.cache_read_tokens or 0,
            cache_write_tokens=given.cache_write_tokens or 0,
            reasoning_tokens=given.reasoning_tokens or 0,
        )
        cost = price(given.provider, given.model, usage)
    attempt = AttemptRecord(
        given.provider or "direct", None, given.model, given.status, None, given.duration_ms
    )
    has_user = given.user_id is not None
    return CallRecord(
        id=given.id,
        tenant=principal.tenant,
        principal_kind=principal.kind.value,
        principal_id=principal.id,
        started_at_us=given.started_at_us,
        duration_ms=given.duration_ms,
        first_byte_ms=given.first_byte_ms,
        dialect=given.dialect,
        format=given.format,
        route=given.route,
        provider=given.provider,
        model_requested=given.model_requested,
        model=given.model,
        status=given.status,
        error_code=None,
        is_stream=given.is_stream,
        complete=given.complete,
        client_left=False,
        input_tokens=given.input_tokens,
        output_tokens=given.output_tokens,
        cache_read_tokens=given.cache_read_tokens,
        cache_write_tokens=given.cache_write_tokens,
        cache_write_1h_tokens=None,
        reasoning_tokens=given.reasoning_tokens,
        input_audio_tokens=None,
        output_audio_tokens=None,
        usage_estimated=given.usage_estimated,
        cost_nanousd=cost,
        cache=None,
        attempts=(attempt,),
        user_id=given.user_id,
        user_source="ingest" if has_user else None,
        user_trust="asserted" if has_user else None,
        session_id=given.session_id,
        session_path=given.session_path,
        session_name=None,
        # The contract of a record has no field for it, and everything can be filtered by this.
        properties={**given.properties, "path": given.path},
        request_bytes=given.request_bytes,
        response_bytes=given.response_bytes,
        request_body=_bytes(given.request_body),
        response_body=_bytes(given.response_body),
        request_truncated=False,
        response_truncated=False,
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
