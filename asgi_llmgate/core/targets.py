"""Decide where a call goes.

The first of these that speaks decides:

    1. the path (`/providers/{id}/*`)
    2. `LLMGate-Target-URL`, which only selects among hosts that are known
    3. `LLMGate-Provider`
    4. a model alias of the operator's
    5. the first segment of the model, if it is a provider (`anthropic/claude-sonnet-4-6`)
    6. the last one (`gpt-4o/openai`, Helicone's form)
    7. the home of the dialect

A provider that does not speak the caller's format gets another one that he does and the registry
reaches from it. The same in and out is always preferred.

A comma list is an order of attempts. No byte of a request reaches scheme, host or port of the
result (rule R8): they come from the registry, or from a host that was compared as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from asgi_llmgate.core.directives import Directives
from asgi_llmgate.core.registry import HOMES, Provider, Registry, serves
from asgi_llmgate.core.target_url import base_at, row_at, shown
from asgi_llmgate.core.url import join
from asgi_llmgate.errors import InvalidRequestError, TranslationError, UnknownProviderError
from asgi_llmgate.types import Dialect, Route

__all__ = ["MAX_TARGETS", "Target", "each_target", "resolve_targets"]

# The first, and the eight fallbacks of the public contract.
MAX_TARGETS = 9

# Of a format that can be translated, but asking for what only its own provider does.
_OF_ONE_PROVIDER = frozenset({"/responses/compact"})

# Where the provider has a default model, or the body names it some other way (a stored prompt).
_MODEL_OPTIONAL = frozenset({"openai-responses", "openai-moderations", "openai-images"})


@dataclass(frozen=True, slots=True)
class Target:
    """One place a call may go.

    Args:
        model: As the provider knows it; None where the call names none. If it differs from what
            the caller sent, the body (or `path`, which has it already) must say this one.
        format: The wire format spoken there; None for unknown tails of `/providers/{id}/*`. If it
            is not the route's, the call has to be translated.
        base_url: Without a slash at the end.
        path: What follows it, percent-encoded. Of a call that is translated, the caller's.
    """

    provider: Provider
    model: str | None
    format: str | None
    base_url: str
    path: str

    def url(self, query: bytes = b"") -> str:
        """Return the URL to call. A `key` in `query` is left out."""
        return join(self.base_url, self.path, query)


def resolve_targets(
    route: Route, model: str | None, directives: Directives, registry: Registry
) -> tuple[Target, ...]:
    """Return where a call goes: what to try first, then what its comma list says.

    Args:
        model: What the body names, or None. Ignored where the path names one.

    Raises:
        UnknownProviderError: nobody has that name, or it is off until it has a base URL.
        TranslationError: the provider speaks neither the route's format nor one within reach.
        InvalidRequestError: the model is missing, or `Target-URL` names a host that is not known.
    """
    if route.model is not None:
        model = route.model
    targets = []
    for _, _, made in each_target(route, model, directives, registry):
        if not isinstance(made, Target):
            raise made
        targets.append(made)
    return tuple(targets)


def each_target(
    route: Route, model: str | None, directives: Directives, registry: Registry
) -> Iterator[tuple[Provider, str | None, Target | InvalidRequestError]]:
    """Yield provider, model and target of each place a call names, or why that one is none.

    Args:
        model: As in `resolve_targets`, but one that differs from the path's is written into it.

    Raises:
        InvalidRequestError: what is said does not tell where the call goes.
    """
    if route.provider is not None:
        target = _passed_through(route, model, directives, registry)
        yield target.provider, target.model, target
        return
    if not model and route.is_json and route.format not in _MODEL_OPTIONAL:
        raise InvalidRequestError(
            "The request names no model. Set `model`.", code="missing_model", param="model"
        )
    if not model or not route.is_json:
        chosen = [(row, model or None) for row in _without_model(route, directives, registry)]
    else:
        chosen = _with_model(route, model, directives, registry)
    if len(chosen) > MAX_TARGETS:
        raise InvalidRequestError(
            f"The request names {len(chosen)} targets; at most {MAX_TARGETS} are tried.",
            code="policy_violation",
            param="model",
        )
    for row, name in chosen:
        try:
            yield row, name, _target(route, row, name, directives.target_url, registry)
        except (TranslationError, UnknownProviderError) as error:
            yield row, name, error


def _without_model(route: Route, directives: Directives, registry: Registry) -> list[Provider]:
    if directives.provider is not None:
        return [_named(name, registry, _HEADER) for name in _listed(directives.provider, _HEADER)]
    if directives.target_url is not None:
        return [row_at(directives.target_url, route.dialect, registry)]
    return [_home(route, registry)]


def _with_model(
    route: Route, model: str, directives: Directives, registry: Registry
) -> list[tuple[Provider, str | None]]:
    if directives.provider is not None or directives.target_url is not None:
        rows = _without_model(route, directives, registry)
        models = _listed(model, "model") if route.model is None and "," in model else [model]
        return [(row, name) for name in models for row in rows]
    alias = registry.model_aliases.get(model)
    if alias is None and (route.model is not None or "," not in model):
        return [_split(route, model, registry)]
    return [_split(route, name, registry) for name in _listed(alias or model, "model")]


def _split(route: Route, model: str, registry: Registry) -> tuple[Provider, str]:
    """Tell provider and model apart; a model without a provider goes home, unchanged."""
    if model.startswith("!"):
        raise TranslationError(
            "Excluding a provider (`!name`) is not available. List the models to try instead.",
            param="model",
        )
    # The slash of a Bedrock ARN parts its own words.
    if "/" in model and not model.startswith("arn:"):
        first, _, rest = model.partition("/")
        provider = registry.get(first)
        if provider is not None and rest:
            return provider, rest
        rest, _, last = model.rpartition("/")
        provider = registry.get(last)
        if provider is not None and rest:
            return provider, rest
    return _home(route, registry), model


def _home(route: Route, registry: Registry) -> Provider:
    return _named(HOMES[route.dialect], registry, "model")


_HEADER = "LLMGate-Provider"


def _listed(text: str, param: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        code = "missing_model" if param == "model" else "invalid_header"
        raise InvalidRequestError(
            f"The list in `{param}` has an empty place.", code=code, param=param
        )
    return words


def _named(name: str, registry: Registry, param: str) -> Provider:
    provider = registry.get(name)
    if provider is None:
        near = " or ".join(registry.near(name))
        hint = f" Did you mean {near}?" if near else ""
        raise UnknownProviderError(f"There is no provider {shown(name)}.{hint}", param=param)
    return provider


def _passed_through(
    route: Route, model: str | None, directives: Directives, registry: Registry
) -> Target:
    """Go to the provider of the path, whatever it is that is asked there."""
    row = _named(route.provider or "", registry, "path")
    base_url = row.base_url(route.format) if route.format is not None else None
    if directives.target_url is not None:
        base_url = base_at(directives.target_url, row, route.format) or base_url
    if base_url is None:
        base_url = next(iter(row.endpoints.values()), None)
    if base_url is None:
        raise _off(row)
    return Target(row, model or route.model, route.format, base_url, route.path)


def _target(
    route: Route, row: Provider, model: str | None, target_url: str | None, registry: Registry
) -> Target:
    wire_format = route.format or ""  # None is for `/providers/{id}/*` only.
    base_url = _base_url(row, wire_format, target_url)
    if base_url is not None:
        path = route.path
        if route.model is not None and model is not None and model != route.model:
            path = _path_for(route, model)
        return Target(row, model, wire_format, base_url, path)
    if row.is_dormant(wire_format):
        raise _off(row)
    reached = _reached(route, row, registry)
    if reached is not None and model is not None:
        base_url = _base_url(row, reached, target_url)
        if base_url is not None:
            return Target(row, model, reached, base_url, route.path)
        raise _off(row)
    raise _untranslatable(row, wire_format)


def _base_url(row: Provider, wire_format: str, target_url: str | None) -> str | None:
    if target_url is not None:
        return base_at(target_url, row, wire_format)
    return row.base_url(wire_format)


def _reached(route: Route, row: Provider, registry: Registry) -> str | None:
    """Return the best format of `row` into which calls of `route` can be translated.

    Formats that are off until they have a base URL come last.
    """
    reach = registry.reach.get(route.format or "")
    if reach is None or route.path in _OF_ONE_PROVIDER:
        return None
    for formats in (row.endpoints, row.dormant):
        for wire_format in formats:
            if wire_format in reach:
                return wire_format
        for wire_format in reach:
            if serves(formats, wire_format):
                return wire_format
    return None


def _path_for(route: Route, model: str) -> str:
    """Write another model into a path that names one; the route's name is its template."""
    path = route.name.replace("{model}", quote(model, safe=""))
    return path.removeprefix("/openai") if route.dialect is Dialect.AZURE else path


def _off(row: Provider) -> UnknownProviderError:
    return UnknownProviderError(
        f"The provider {row.id} has no base URL. An operator must set {row.base_url_variable}."
    )


def _untranslatable(row: Provider, wire_format: str) -> TranslationError:
    spoken = ", ".join([*row.endpoints, *row.dormant]) or "no format"
    return TranslationError(
        f"The provider {row.id} does not speak {wire_format} (it speaks {spoken}), and such "
        "requests are not translated. Use a provider that does, or another endpoint.",
        param="model",
    )
