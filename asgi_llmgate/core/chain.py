"""Read what a call says about the targets to try: `Fallbacks`, comma lists, aliases.

`Fallbacks` has two syntaxes. Entries with `provider` and `model`, or strings naming models, follow
the request's own target, which comes first unless it is among them. Entries with `target-url` are
the whole chain, as at Helicone; each may have headers, statuses to move on at, and body fields of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from asgi_llmgate.core.directives import Directives
from asgi_llmgate.core.fallback import DEFAULT_MOVES, MoveOn, Reason
from asgi_llmgate.core.registry import Registry
from asgi_llmgate.core.targets import MAX_TARGETS, Target, each_target
from asgi_llmgate.errors import GatewayError, InvalidRequestError, TranslationError
from asgi_llmgate.types import CallerKey, Route, Secret

__all__ = ["Link", "chain_of"]

_HEADER = "LLMGate-Fallbacks"

_OURS = frozenset({"provider", "model"})
_HELICONES = frozenset({"target-url", "headers", "onCodes", "bodyKeyOverride"})

# The form of the answer is the caller's, whoever gives it.
_NOT_OVERRIDABLE = frozenset({"stream", "stream_options"})

_CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")

MAX_ENTRY_HEADERS = 32


@dataclass(frozen=True, slots=True)
class Link:
    """One place in a chain.

    Args:
        target: None if the provider cannot be asked this; `unfit` says why.
        name: What the caller called it, for the record.
        headers: Sent along to this target only. Names in lower case.
        caller_key: A provider key of the caller's own, for this target only.
        override: Top-level body fields that are others for this target.
    """

    target: Target | None
    name: tuple[str, str | None]
    moves: MoveOn = DEFAULT_MOVES
    unfit: str | None = None
    error: GatewayError | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    caller_key: CallerKey | None = None
    override: Mapping[str, Any] | None = None


def chain_of(
    route: Route,
    model: str | None,
    directives: Directives,
    registry: Registry,
    moves: MoveOn = DEFAULT_MOVES,
) -> tuple[Link, ...]:
    """Return where a call may go, what to try first in front.

    Raises:
        InvalidRequestError: there is only one target and it cannot be used, or an entry of the
            chain is malformed, unknown or not allowed; the message names the entry.
    """
    entries = directives.fallbacks
    if not entries:
        return tuple(_own(route, model, directives, registry, moves))
    if not route.is_json or route.provider is not None:
        raise InvalidRequestError(
            f"{_HEADER} is for calls whose JSON body names a model, on the gateway's own routes.",
            code="invalid_header",
            param=_HEADER,
        )
    kinds = [_is_helicones(entry, number) for number, entry in enumerate(entries, 1)]
    if all(kinds):
        links = [
            _helicone_link(entry, number, route, model, directives, registry, moves)
            for number, entry in enumerate(entries, 1)
        ]
        return tuple(links)
    if any(kinds):
        raise _malformed(kinds.index(True) + 1, "has `target-url`, others have `provider`")
    plain = replace(directives, fallbacks=())
    listed = [
        link
        for number, entry in enumerate(entries, 1)
        for link in _our_link(entry, number, route, plain, registry, moves)
    ]
    names = {link.name for link in listed}
    own = _own(route, model, plain, registry, moves, may_be_unfit=True)
    return _checked([*(link for link in own if link.name not in names), *listed])


def _own(
    route: Route,
    model: str | None,
    directives: Directives,
    registry: Registry,
    moves: MoveOn,
    *,
    may_be_unfit: bool = False,
) -> list[Link]:
    if route.model is not None:
        model = route.model
    links = []
    for row, name, made in each_target(route, model, directives, registry):
        if isinstance(made, Target):
            links.append(Link(made, (row.id, name), moves))
        elif isinstance(made, TranslationError):
            links.append(_unfit(row.id, name, moves, made))
        else:
            raise made
    error = links[0].error
    if error is not None and not may_be_unfit and all(link.error is not None for link in links):
        raise error
    return _unique(links)


def _unfit(provider: str, model: str | None, moves: MoveOn, error: GatewayError) -> Link:
    return Link(None, (provider, model), moves, unfit=Reason.UNTRANSLATABLE, error=error)


def _is_helicones(entry: Any, number: int) -> bool:
    if isinstance(entry, str):
        return False
    known = _HELICONES if "target-url" in entry else _OURS
    unknown = sorted(str(key)[:40] for key in entry.keys() - known)
    if unknown:
        raise _malformed(number, f"has unknown fields: {', '.join(unknown)!a}")
    return "target-url" in entry


def _our_link(
    entry: Any,
    number: int,
    route: Route,
    directives: Directives,
    registry: Registry,
    moves: MoveOn,
) -> list[Link]:
    provider, name = (None, entry) if isinstance(entry, str) else _pair(entry, number)
    if "," in name:
        raise _malformed(number, "names several models; give each an entry of its own")
    there = replace(directives, provider=provider, target_url=None)
    links = []
    try:
        for row, model, made in each_target(route, name, there, registry):
            if isinstance(made, Target):
                links.append(Link(made, (row.id, model), moves))
            elif isinstance(made, TranslationError):
                links.append(_unfit(row.id, model, moves, made))
            else:
                raise made
    except InvalidRequestError as error:
        raise _named(error, number) from None
    return links


def _pair(entry: Mapping[str, Any], number: int) -> tuple[str | None, str]:
    provider, model = entry.get("provider"), entry.get("model")
    if not isinstance(model, str) or not model:
        raise _malformed(number, "needs a `model`")
    if provider is not None and (not isinstance(provider, str) or not provider or "," in provider):
        raise _malformed(number, "needs the name of one provider in `provider`")
    return provider, model


def _helicone_link(
    entry: Mapping[str, Any],
    number: int,
    route: Route,
    model: str | None,
    directives: Directives,
    registry: Registry,
    moves: MoveOn,
) -> Link:
    url = entry["target-url"]
    if not isinstance(url, str):
        raise _malformed(number, "needs a URL in `target-url`")
    override = entry.get("bodyKeyOverride")
    if override is not None:
        if not isinstance(override, dict):
            raise _malformed(number, "needs an object in `bodyKeyOverride`")
        if fixed := sorted(override.keys() & _NOT_OVERRIDABLE):
            raise _malformed(number, f"must not override {', '.join(fixed)}")
        if "model" in override:
            model = override["model"]
            if not isinstance(model, str) or not model:
                raise _malformed(number, "needs a name in `bodyKeyOverride.model`")
    headers, key = _entry_headers(entry.get("headers"), number)
    if "onCodes" in entry:
        codes = _codes(entry["onCodes"], number)
        moves = replace(
            moves, statuses=codes, context_window=400 in codes, content_filter=400 in codes
        )
    there = replace(directives, fallbacks=(), provider=None, target_url=url)
    if route.model is not None and model is None:
        model = route.model
    if model is not None and "," in model:
        raise _malformed(number, "has several models to choose from; override `model` with one")
    try:
        [(row, name, made)] = each_target(route, model, there, registry)
        if isinstance(made, TranslationError):
            return replace(_unfit(row.id, name, moves, made), caller_key=key)
        if not isinstance(made, Target):
            raise made
    except InvalidRequestError as error:
        raise _named(error, number) from None
    return Link(
        made, (row.id, name), moves, headers=headers, caller_key=key, override=override or None
    )


def _entry_headers(
    given: Any, number: int
) -> tuple[tuple[tuple[bytes, bytes], ...], CallerKey | None]:
    """Return what an entry sends along, and the key among it."""
    if given is None:
        return (), None
    if not isinstance(given, dict) or len(given) > MAX_ENTRY_HEADERS:
        raise _malformed(number, f"needs an object of at most {MAX_ENTRY_HEADERS} `headers`")
    headers: list[tuple[bytes, bytes]] = []
    key: CallerKey | None = None
    for name, value in given.items():
        if not isinstance(value, str) or not (value + name).isascii() or not value.isprintable():
            raise _malformed(number, "needs printable ASCII text in `headers`")
        lower = name.lower()
        if not lower or not all(char.isalnum() or char in "-_." for char in lower):
            raise _malformed(number, "has a name in `headers` that is none")
        if lower in _CREDENTIALS:
            scheme, _, token = value.strip().partition(" ")
            if lower == "authorization" and scheme.lower() == "bearer":
                value = token.strip()
            if value and not value.startswith("lg_"):  # Ours are never sent anywhere.
                key = CallerKey(lower.encode(), Secret(value))
        else:
            headers.append((lower.encode(), value.encode()))
    return tuple(headers), key


def _codes(given: Any, number: int) -> frozenset[int]:
    codes: set[int] = set()
    for code in given if isinstance(given, list) else [given]:
        match code:
            case bool():
                raise _malformed(number, "needs statuses in `onCodes`")
            case int() if 100 <= code <= 599:
                codes.add(code)
            case {"from": int(low), "to": int(high), **rest} if not rest:
                if not 100 <= low <= high <= 599:
                    raise _malformed(number, "needs a range from 100 to 599 in `onCodes`")
                codes.update(range(low, high + 1))
            case _:
                raise _malformed(number, "needs statuses or ranges in `onCodes`")
    return frozenset(codes)


def _checked(links: list[Link]) -> tuple[Link, ...]:
    unique = _unique(links)
    if len(unique) > MAX_TARGETS:
        raise InvalidRequestError(
            f"The request names {len(unique)} targets; at most {MAX_TARGETS} are tried.",
            code="policy_violation",
            param=_HEADER,
        )
    return tuple(unique)


def _unique(links: list[Link]) -> list[Link]:
    first: dict[tuple[str, str | None], Link] = {}
    for link in links:
        first.setdefault(link.name, link)
    return list(first.values())


def _malformed(number: int, what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{_HEADER}: entry {number} {what}.", code="invalid_header", param=_HEADER
    )


def _named(error: InvalidRequestError, number: int) -> InvalidRequestError:
    named = type(error)(f"{_HEADER}: entry {number}: {error}", code=error.code, param=_HEADER)
    named.status = 400
    return named
