"""Call one provider for one request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from asgi_llmgate._asgi.disconnect import DisconnectWatch
from asgi_llmgate.context import SCOPE_KEY, GatewayContext
from asgi_llmgate.core.directives import DEFAULT, Directives
from asgi_llmgate.core.grants import check_target
from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.core.registry import ProviderKey, Registry
from asgi_llmgate.core.targets import Target, resolve_targets
from asgi_llmgate.dispatch.count import answer_count
from asgi_llmgate.dispatch.models import ModelLists
from asgi_llmgate.dispatch.relay import Relay
from asgi_llmgate.dispatch.request import (
    body_for,
    credentials_for,
    credentials_of,
    is_signed,
    timeouts_for,
    unsupported,
)
from asgi_llmgate.dispatch.translate import (
    TranslatedCall,
    TranslatedRelay,
    neutral_headers,
    translated_call,
)
from asgi_llmgate.errors import (
    BodyTooLargeError,
    ClientDisconnectedError,
    ForbiddenError,
    GatewayError,
    InvalidRequestError,
    UpstreamBrokenError,
)
from asgi_llmgate.protocols import Sign, Timeouts, Upstream, UpstreamRequest
from asgi_llmgate.providers.reach import COUNTED
from asgi_llmgate.types import AttemptRecord, Route

__all__ = ["Dispatch"]

STATEFUL = frozenset(
    {
        "anthropic-batches",
        "anthropic-files",
        "openai-batches",
        "openai-conversations",
        "openai-files",
        "openai-stored-responses",
    }
)

# Model names are a stranger's to choose, so what is remembered of them is bounded.
MAX_KNOWN_TARGETS = 1000

logger = logging.getLogger("asgi_llmgate")

BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class Dispatch:
    """The innermost ASGI application: sends the request on and relays the answer.

    Args:
        upstream: Sends the bytes. Yours to close.
        registry: Every provider there is, with the operator's keys.
        timeouts: For calls whose answer comes at once.
        stream_timeouts: For streams.
        target_hosts: What `LLMGate-Target-URL` may name beside the registry's hosts.
        max_upload_bytes: Of bodies that are streamed through unparsed.
        shared_state: Whether files, batches and stored responses may be reached with a pooled
            key, where whoever uses it sees and deletes what all others made. Asked per call if it
            can change.
        stored_keys: Further pooled keys of a provider, by its id.
        signers: Add what is more than a key in a header, by the rows' way of authentication.
        is_strict: What cannot be translated for a provider of another format is refused, instead
            of being left out and named in `LLMGate-Dropped-Params`.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        registry: Registry,
        timeouts: Timeouts,
        stream_timeouts: Timeouts,
        max_upload_bytes: int = 512 * 1024 * 1024,
        shared_state: bool | Callable[[], bool] = True,
        stored_keys: Callable[[str], Sequence[ProviderKey]] | None = None,
        signers: Mapping[str, Sign] | None = None,
        is_strict: bool = False,
    ) -> None:
        self.upstream = upstream
        self.registry = registry
        self.timeouts = timeouts
        self.stream_timeouts = stream_timeouts
        self.max_upload_bytes = max_upload_bytes
        self._shared_state = shared_state
        self._stored_keys = stored_keys
        self._signers = signers or {}
        self._models = ModelLists(upstream=upstream, registry=registry, stored_keys=stored_keys)
        self.is_strict = is_strict
        self._known: dict[tuple[str, str | None], Target] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: GatewayContext = scope[SCOPE_KEY]
        route = context.route
        directives = context.directives
        request: dict[str, Any] | None = None
        model = route.model
        is_stream = route.is_stream is True
        if route.is_json:
            request = await context.body.json()
            named = request.get("model")
            if model is None and named is not None:
                model = _model_name(named)
            if route.is_stream is None:
                is_stream = request.get("stream") is True
        elif route.provider is not None and _is_json(context):
            # Passed through byte for byte, but logged like the rest.
            request = _peek(await context.body.read())
            if request is not None:
                named = request.get("model")
                model = named if isinstance(named, str) else model
                is_stream = is_stream or request.get("stream") is True
        elif await self._models.answer(context, scope, send):
            return
        context.is_stream = is_stream
        context.model_requested = model
        context.metered = True

        chosen = context.attempt
        target = self._target(route, model, directives) if chosen is None else chosen.target
        if chosen is not None and chosen.override is not None and request is not None:
            request = {**request, **chosen.override}
        context.target_provider = target.provider.id
        context.target_model = target.model
        if directives.model_override is not None:
            context.target_model, context.billed_model = directives.model_override, target.model
        await self._attempt(context, target, request, scope, receive, send)

    def _may_share_state(self) -> bool:
        allowed = self._shared_state
        return allowed if isinstance(allowed, bool) else allowed()

    def _target(self, route: Route, model: str | None, directives: Directives) -> Target:
        # Nearly every call goes where one before it went. Not where a path holds an id: a target
        # has the whole path, but the name of its route stands for all of them.
        is_plain = (
            directives is DEFAULT
            and route.is_json
            and route.model is None
            and route.provider is None
        )
        key = (route.name, model)
        if is_plain and (known := self._known.get(key)) is not None:
            return known
        targets = resolve_targets(route, model, directives, self.registry)
        if len(targets) > 1:
            raise InvalidRequestError(
                "A list of models is for the FallbackMiddleware, which is not here: name one.",
                param="model",
            )
        if is_plain:
            if len(self._known) >= MAX_KNOWN_TARGETS:
                self._known.clear()
            self._known[key] = targets[0]
        return targets[0]

    async def _attempt(
        self,
        context: GatewayContext,
        target: Target,
        request: dict[str, Any] | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        principal = context.principal
        if principal is not None and principal.grants is not None:
            # What auth saw coming may have been changed since, by a prompt or a fallback.
            check_target(principal.grants, target.provider.id, target.model, context.route.format)
        policy = context.policy
        if policy is not None and policy.restricts_targets and not policy.policy.observe:
            refusal = policy.not_allowed(target.provider.id, target.model, context.route.format)
            if refusal is not None:
                raise refusal.error
        if request is not None and is_counted_here(context.route, target):
            await answer_count(context, target, request, send)
            return
        chosen = context.attempt
        timeout_ms = context.directives.timeout_ms
        raw_headers, query = scope["headers"], scope["query_string"]
        call: TranslatedCall | None = None
        if request is not None and target.format != context.route.format:
            is_strict = self.is_strict or context.directives.translation == "strict"
            call = translated_call(target, context, request, query, is_strict=is_strict)
            target, query, raw_headers = call.target, call.query, neutral_headers(raw_headers)
        if chosen is not None:
            headers, key, pooled = credentials_of(chosen, context, raw_headers)
            timeout_ms = chosen.timeout_ms
        else:
            stored = self._stored_keys(target.provider.id) if self._stored_keys is not None else ()
            headers, key, pooled = credentials_for(target, context, raw_headers, stored)
        key_id = None if key is None else key.id
        is_shared = key is not None and key.tenant is None
        if is_shared and keeps_state(context.route) and not self._may_share_state():
            raise ForbiddenError(
                "Files, batches and stored responses of a pooled key belong to everybody who uses "
                "it. Send a provider key of your own, or have the operator set "
                "LLMGATE_AUTH__SHARED_FILES=true."
            )
        body = context.body.data
        withhold = False
        is_upload = False
        if call is not None:
            body = call.body
            headers += call.headers
        elif body is not None:
            if request is not None and context.route.provider is None:
                if chosen is not None and chosen.override is not None:
                    body = dumps(request)
                body, withhold = body_for(
                    target, context, request, body, is_stream=context.is_stream, query=query
                )
        elif scope["method"] not in BODILESS or b"content-length" in context.headers:
            is_upload = True
            length = context.headers.get(b"content-length")
            if length is not None:
                headers.append((b"content-length", length))
        base = self.stream_timeouts if context.is_stream else self.timeouts
        upstream_request = UpstreamRequest(
            scope["method"],
            target.url(query),
            headers,
            body,
            timeouts_for(base, timeout_ms),
        )
        if is_signed(key, target.provider):
            sign = self._signers.get(target.provider.auth)
            if sign is None or is_upload:
                raise unsupported(target.provider)
            await sign(upstream_request)
        watch = DisconnectWatch(receive, armed=not is_upload, at_once=context.is_stream)
        if is_upload:
            upstream_request.body = upload(context, receive, watch, self.max_upload_bytes)
        started = context.upstream_started_ns = time.perf_counter_ns()
        context.is_attempting = True
        status: int | None = None
        reason: str | None = None
        try:
            response = await self.upstream.open(upstream_request)
            status = response.status
            if chosen is not None:
                chosen.answer_headers = response.headers
            relay: Relay
            if call is not None:
                relay = TranslatedRelay(
                    context, response, send, call, pooled=pooled, before_last=watch.stop
                )
            else:
                relay = Relay(
                    context,
                    response,
                    send,
                    pooled=pooled,
                    withhold_usage=withhold,
                    request=request,
                    before_last=watch.stop,
                )
            await relay.run()
            reason = context.error_code  # of a stream that ended in an error event
        except asyncio.CancelledError:
            if not watch.caused():
                reason = "cancelled"
                raise
            # SDKs hang up at `[DONE]`, without waiting for the end of the body: all was there.
            if not context.complete:
                reason = "client_left"
                context.client_left = True
                raise ClientDisconnectedError from None
        except ClientDisconnectedError:  # in the middle of an upload
            reason = "client_left"
            context.client_left = True
            raise
        except GatewayError as error:
            reason = error.code
            if error.code == "upstream_auth":
                logger.error(
                    "%s refused the key %r of the settings: renew it",
                    target.provider.id,
                    key_id,
                    extra={"request_id": context.id},
                )
            raise
        except UpstreamBrokenError:
            # Part of a body that is no event stream went out; only closing the connection can
            # tell its reader that the rest will not come.
            reason = context.error_code = context.error_code or "upstream_connect"
        finally:
            watch.stop()
            context.is_attempting = False
            duration_ms = (time.perf_counter_ns() - started) / 1e6
            context.attempts.append(
                AttemptRecord(target.provider.id, key_id, target.model, status, reason, duration_ms)
            )


async def upload(
    context: GatewayContext, receive: Receive, watch: DisconnectWatch, max_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the request body as it arrives; then let `watch` have the caller."""
    body = context.body
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            # An orderly end would make the provider take a part for the whole.
            raise ClientDisconnectedError
        chunk: bytes = message.get("body", b"")
        body.received_bytes += len(chunk)
        if body.received_bytes > max_bytes:
            raise BodyTooLargeError(f"The upload is larger than {max_bytes} bytes.")
        more = message.get("more_body", False)
        if chunk:
            yield chunk
    watch.arm()


def keeps_state(route: Route) -> bool:
    """Tell whether a route reaches what earlier calls left at the provider.

    On `/providers/{id}/*` everything may that is no known one-off call.
    """
    if route.provider is not None:
        return route.format is None or route.format in STATEFUL
    return route.format in STATEFUL


def is_counted_here(route: Route, target: Target) -> bool:
    """Tell whether tokens are to be counted of which the provider cannot be asked."""
    return route.format in COUNTED and target.format != route.format


def _model_name(named: Any) -> str:
    if isinstance(named, str):
        return named
    raise InvalidRequestError("`model` must be a string.", code="missing_model", param="model")


def _is_json(context: GatewayContext) -> bool:
    return context.headers.get(b"content-type", b"").lower().startswith(b"application/json")


def _peek(body: bytes) -> dict[str, Any] | None:
    try:
        value = loads(body)
    except JSONError:
        return None
    return value if isinstance(value, dict) else None
