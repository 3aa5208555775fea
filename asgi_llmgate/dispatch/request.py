"""Write the request that a provider gets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.adapt import changes_for
from asgi_llmgate.core.forward import SIGNED, forward_all, forward_allowed, key_header
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.key_pool import Chosen, missing_key, usable_keys
from asgi_llmgate.core.registry import Provider, ProviderKey
from asgi_llmgate.core.targets import Target
from asgi_llmgate.errors import InvalidRequestError
from asgi_llmgate.protocols import RawHeaders, Timeouts
from asgi_llmgate.providers.foreign import may_hold_foreign, without_foreign
from asgi_llmgate.types import CallerKey, Dialect, Route

__all__ = [
    "body_for",
    "credentials_for",
    "credentials_of",
    "is_signed",
    "timeouts_for",
    "unsupported",
]

# Formats whose streams carry usage only if `stream_options` asks for it.
USAGE_ON_REQUEST = frozenset({"openai-chat", "openai-completions"})

# The first version of Azure's API that knows it; earlier ones refuse what they do not know.
AZURE_SINCE = "2024-09-01"


def credentials_for(
    target: Target,
    context: GatewayContext,
    raw_headers: Sequence[tuple[bytes, bytes]],
    stored: Sequence[ProviderKey] = (),
) -> tuple[RawHeaders, ProviderKey | None, bool]:
    """Return the headers to send, the pooled key among them, and whether there is one.

    The caller's own key goes first. A pooled key is for verified principals only, and goes to
    the host of its own provider row, which is the only host `target` can name. One that is kept
    for the principal's tenant goes before those for everybody.

    Args:
        stored: Keys of the provider beside those of its row.

    Raises:
        AuthenticationError: no key may be used for this call.
        InvalidRequestError: the provider wants more than a key in a header.
    """
    provider = target.provider
    caller = context.caller_key
    if caller is not None:
        headers = forward_all(raw_headers)
        headers.append(_caller_header(caller, provider))
        return headers, None, False
    usable = usable_keys(provider, stored, context.principal)
    if usable:
        chosen = _choose(usable)
        return _with_pooled_key(chosen, provider, raw_headers), chosen, True
    if provider.key_optional:
        return forward_allowed(raw_headers), None, False
    raise missing_key(provider, stored, context.principal)


def credentials_of(
    chosen: Chosen, context: GatewayContext, raw_headers: Sequence[tuple[bytes, bytes]]
) -> tuple[RawHeaders, ProviderKey | None, bool]:
    """Return the same for an attempt whose credential was chosen already.

    Headers that came with the caller's own key go where that goes, and nowhere else.

    Raises:
        InvalidRequestError: as `credentials_for`.
    """
    provider = chosen.target.provider
    own = forward_all(chosen.headers)[1:]  # without the Accept-Encoding that is there already
    caller = chosen.caller_key
    if caller is None:
        if chosen.key is None:
            return forward_allowed(raw_headers) + own, None, False
        return _with_pooled_key(chosen.key, provider, raw_headers) + own, chosen.key, True
    if caller is context.caller_key:
        names = {name for name, _ in own}
        headers = [header for header in forward_all(raw_headers) if header[0] not in names]
    else:
        headers = forward_allowed(raw_headers)
    headers += own
    headers.append(_caller_header(caller, provider))
    return headers, None, False


def _with_pooled_key(
    key: ProviderKey, provider: Provider, raw_headers: Sequence[tuple[bytes, bytes]]
) -> RawHeaders:
    headers = forward_allowed(raw_headers)
    if is_signed(key, provider):
        return headers  # Signed when all of the request is there.
    auth = "bearer" if provider.auth in SIGNED else provider.auth
    header = key_header(auth, key.key)
    if header is None:
        raise unsupported(provider)
    headers.append(header)
    return headers


def is_signed(key: ProviderKey | None, provider: Provider) -> bool:
    """Tell whether a call with `key` is signed; else the key itself is sent.

    The credentials of signatures are the settings' and not in the key, which is empty then.
    """
    return key is not None and provider.auth in SIGNED and not key.key.reveal()


def unsupported(provider: Provider) -> InvalidRequestError:
    """Return what to tell a caller whose provider wants a credential that is not to be had here."""
    return InvalidRequestError(
        f"The provider {provider.id!r} wants a credential of the kind {provider.auth!r}, which "
        "this gateway is not set up for.",
        code="translation_unavailable",
    )


def _caller_header(caller: CallerKey, provider: Provider) -> tuple[bytes, bytes]:
    """Return the caller's key as this provider reads it, as it came wherever that is possible."""
    if caller.header == b"authorization" and "bearer" in (provider.auth, *provider.other_auth):
        return b"authorization", b"Bearer " + caller.key.reveal().encode()
    header = key_header(provider.auth, caller.key)
    if header is not None:
        return header
    # A style of its own (a token exchanged elsewhere, for example): what the caller sent is what
    # the provider is meant to get.
    name = caller.header if caller.header != b"key" else b"x-goog-api-key"
    prefix = b"Bearer " if name == b"authorization" else b""
    return name, prefix + caller.key.reveal().encode()


def _choose(keys: Sequence[ProviderKey]) -> ProviderKey:
    if len(keys) == 1:
        return keys[0]
    weights = [key.weight for key in keys]
    return random.choices(keys, weights)[0]  # noqa: S311 -- spreads load, hides nothing


def body_for(
    target: Target,
    context: GatewayContext,
    request: dict[str, Any],
    original: bytes,
    *,
    is_stream: bool,
    query: bytes = b"",
) -> tuple[bytes, bool]:
    """Return the body to send and whether its usage chunk must be withheld from the caller.

    The caller's own bytes go out unless something in them has to change.

    Args:
        query: Says which version of its API Azure is asked for.
    """
    changes, dropped = changes_for(target.provider, context.route.format, request)
    # Where the path names the model, what a body may say beside it is the provider's business.
    names_model = context.route.model is None and "model" in request
    if names_model and target.model is not None and request["model"] != target.model:
        changes["model"] = target.model
    wire_format = context.route.format or ""
    if may_hold_foreign(wire_format, original):
        changes |= without_foreign(wire_format, request, target.model or "")
    withhold = False
    if is_stream and _has_usage_on_request(context.route, query):
        options = request.get("stream_options")
        options = options if isinstance(options, dict) else {}
        wanted = context.directives.stream_usage
        asked = options.get("include_usage") is True
        may_ask = target.provider.stream_usage or wanted is True
        if not asked and may_ask and wanted is not False:
            changes["stream_options"] = {**options, "include_usage": True}
            withhold = wanted is not True
    if not changes:
        return original, False
    changed = {**request, **changes}
    for name in dropped:
        del changed[name]
    return dumps(changed), withhold


def _has_usage_on_request(route: Route, query: bytes) -> bool:
    if route.format in USAGE_ON_REQUEST:
        return True
    if route.dialect is not Dialect.AZURE or not route.name.endswith("completions"):
        return False
    version = dict(parse_qsl(query.decode("latin-1"))).get("api-version", "")
    return version[: len(AZURE_SINCE)] >= AZURE_SINCE


def timeouts_for(base: Timeouts, timeout_ms: int | None) -> Timeouts:
    """Return `base`, tightened by what the caller asked for."""
    if timeout_ms is None:
        return base
    limit = timeout_ms / 1000

    def least(value: float | None) -> float:
        return limit if value is None else min(value, limit)

    return replace(base, first_byte_s=least(base.first_byte_s), total_s=least(base.total_s))
