"""Build the registry: the rows of `registry.toml`, completed and overridden by settings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from asgi_llmgate.core.registry import Provider, ProviderKey, Registry, normalised
from asgi_llmgate.core.routes import FORMATS
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.providers.base_urls import needs_operator, rebased
from asgi_llmgate.providers.reach import REACH

__all__ = ["ProviderOverride", "load_registry"]

_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_AUTH = ("bearer", "x-api-key", "x-goog-api-key", "api-key", "none", "sigv4", "gcp-oauth")
_AUTH_HEADER = re.compile(r"header:[a-z0-9-]+")


@dataclass(frozen=True, slots=True)
class ProviderOverride:
    """What settings say about a provider; what they leave out stays as in its row.

    Args:
        base_url: Replaces the base URL of all formats (`providers/base_urls.py` says how), or is
            the one of a provider that has no row. May be loopback and http: it is the
            operator's word.
        formats: Wire format to base URL, taken literally; beats `base_url`. A provider without a
            row speaks these, and `openai-chat` if there is only a `base_url`.
    """

    base_url: str | None = None
    formats: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    auth: str | None = None
    stream_usage: bool | None = None
    keys: tuple[ProviderKey, ...] = ()


def load_registry(
    overrides: Mapping[str, ProviderOverride] | None = None,
    *,
    allowed_hosts: Iterable[str] = (),
    model_aliases: Mapping[str, str] | None = None,
) -> Registry:
    """Return the registry. Without arguments it is built once per process.

    Args:
        overrides: By id or alias, in any spelling (`azure_openai`, `AZURE`). An unknown one adds
            a provider.
        allowed_hosts: Hosts that `LLMGate-Target-URL` may name beside the registry's.
        model_aliases: Model names of the operator's own, to what they stand for.

    Raises:
        ConfigurationError: an override is wrong; the message names it.
    """
    plain = _plain()
    if not overrides and not allowed_hosts and not model_aliases:
        return plain
    providers = dict(plain.providers)
    written: set[str] = set()
    for name, override in (overrides or {}).items():
        known = plain.get(name)
        row = _overridden(known, override) if known is not None else _added(name, override)
        if row.id in written:
            raise ConfigurationError(
                f"The provider {row.id} is set twice, once as {name!r}.\n"
                "HINT: write all of it in one place."
            )
        written.add(row.id)
        providers[row.id] = row
    return Registry(
        MappingProxyType(providers),
        frozenset(host.lower() for host in allowed_hosts),
        MappingProxyType(dict(model_aliases or {})),
        plain.reach,
    )


@lru_cache(maxsize=1)
def _plain() -> Registry:
    # About 20 ms, nearly all of it reading TOML: hence on first use, and once.
    text = resources.files(__package__).joinpath("registry.toml").read_text("utf-8")
    rows = {provider_id: _row(provider_id, row) for provider_id, row in tomllib.loads(text).items()}
    return Registry(MappingProxyType(rows), reach=REACH)


def _row(provider_id: str, row: dict[str, Any]) -> Provider:
    endpoints: dict[str, str] = row.pop("endpoints")
    for name in ("other_auth", "key_variables", "other_variables", "aliases"):
        if name in row:
            row[name] = tuple(row[name])
    usable = {name: url for name, url in endpoints.items() if not needs_operator(url)}
    return Provider(
        id=provider_id,
        endpoints=MappingProxyType(usable),
        dormant=MappingProxyType(
            {name: url for name, url in endpoints.items() if name not in usable}
        ),
        **row,
    )


def _overridden(row: Provider, override: ProviderOverride) -> Provider:
    endpoints = dict(row.endpoints)
    moved = dict(row.moved)
    if override.base_url is not None:
        moved = endpoints
        base_url = _checked_url(row.id, override.base_url)
        endpoints = rebased({**row.endpoints, **row.dormant}, base_url)
        if not endpoints:
            shapes = " or ".join(row.dormant.values())
            raise ConfigurationError(
                f"The base URL of the provider {row.id} leaves too much open.\n"
                f"HINT: write it like {shapes}."
            )
    endpoints |= _literal(row.id, override.formats)
    auth = override.auth or row.auth
    if override.keys and auth == "none":
        auth = "bearer"  # A key was given, so it is wanted.
    return replace(
        row,
        name=override.name or row.name,
        endpoints=MappingProxyType(endpoints),
        dormant=MappingProxyType(
            {name: url for name, url in row.dormant.items() if name not in endpoints}
        ),
        moved=MappingProxyType(moved),
        auth=auth if auth == row.auth else _checked_auth(row.id, auth),
        keys=override.keys,
        stream_usage=row.stream_usage if override.stream_usage is None else override.stream_usage,
    )


def _added(name: str, override: ProviderOverride) -> Provider:
    provider_id = normalised(name)
    if not _ID.fullmatch(provider_id):
        raise ConfigurationError(
            f"{name!r} cannot be the id of a provider.\n"
            "HINT: use letters, digits and hyphens, as it will stand in paths and model names."
        )
    endpoints = _literal(provider_id, override.formats)
    if override.base_url is not None:
        endpoints.setdefault("openai-chat", _checked_url(provider_id, override.base_url))
    if not endpoints:
        raise ConfigurationError(
            f"The provider {provider_id} is not in the registry and has no base URL.\n"
            f"HINT: set providers.{provider_id}.base_url, or mend the name."
        )
    return Provider(
        id=provider_id,
        name=override.name or provider_id,
        endpoints=MappingProxyType(endpoints),
        auth=_checked_auth(provider_id, override.auth or "bearer"),
        keys=override.keys,
        # Nearly every server that speaks like OpenAI knows it by now; one that does not says so,
        # where streams without it would be estimates that nobody notices.
        stream_usage=override.stream_usage is not False,
        confidence="operator",
    )


def _literal(provider_id: str, formats: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(formats) - FORMATS)
    if unknown:
        raise ConfigurationError(
            f"The provider {provider_id} has formats nobody speaks: {', '.join(unknown)}.\n"
            f"HINT: known are {', '.join(sorted(FORMATS))}."
        )
    return {name: _checked_url(provider_id, url) for name, url in formats.items()}


def _checked_url(provider_id: str, url: str) -> str:
    """Return `url` without a slash at the end; the message hides it, for it may hold a key."""
    try:
        parts = urlsplit(url)
        is_fine = (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
            and not parts.query
            and not parts.fragment
            and "{" not in url
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        is_fine = False
    if not is_fine:
        raise ConfigurationError(
            f"The base URL of the provider {provider_id} is not usable.\n"
            "HINT: write it like https://llm.example.com/v1, without user, query or {words}."
        )
    return url.rstrip("/")


def _checked_auth(provider_id: str, auth: str) -> str:
    if auth not in _AUTH and not _AUTH_HEADER.fullmatch(auth):
        raise ConfigurationError(
            f"The provider {provider_id} has an unknown way of sending its key.\n"
            f"HINT: auth is one of {', '.join(_AUTH)}, or header:<name>."
        )
    return auth
