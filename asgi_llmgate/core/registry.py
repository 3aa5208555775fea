"""What is known about providers: where they are, what they speak, how they take a key.

Values and look-ups only. The rows come from `providers/registry.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from asgi_llmgate.types import Dialect, Secret

__all__ = ["HOMES", "Provider", "ProviderKey", "Registry", "normalised", "serves"]

HOMES: Mapping[Dialect, str] = MappingProxyType(
    {
        Dialect.OPENAI: "openai",
        Dialect.ANTHROPIC: "anthropic",
        Dialect.GEMINI: "google",
        Dialect.AZURE: "azure-openai",
        Dialect.BEDROCK: "amazon-bedrock",
    }
)
"""Where a call goes that names no provider."""


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


# A surface without an endpoint of its own is served below the base URL of one of these formats.
_OPENAI = ("openai-chat", "openai-responses", "openai-embeddings")
_RIDES_ON: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "openai-input-tokens": ("openai-responses",),
        "openai-stored-responses": ("openai-responses",),
        "openai-conversations": ("openai-responses",),
        "openai-embeddings": ("openai-embeddings", "openai-chat", "openai-responses"),
        "openai-completions": _OPENAI[:2],
        "openai-images": _OPENAI[:2],
        "openai-audio": _OPENAI[:2],
        "openai-moderations": _OPENAI[:2],
        "openai-rerank": ("openai-rerank", *_OPENAI),
        "openai-files": _OPENAI[:2],
        "openai-batches": _OPENAI[:2],
        "openai-models": _OPENAI,
        "anthropic-count-tokens": ("anthropic-messages",),
        "anthropic-batches": ("anthropic-messages",),
        "anthropic-files": ("anthropic-messages",),
        "anthropic-models": ("anthropic-messages",),
        "gemini-count-tokens": ("gemini",),
        "gemini-embeddings": ("gemini",),
        "gemini-models": ("gemini",),
        "bedrock-invoke": ("bedrock-invoke", "bedrock-converse"),
    }
)


def _serving(endpoints: Mapping[str, str], wire_format: str) -> str | None:
    for endpoint in _RIDES_ON.get(wire_format, (wire_format,)):
        url = endpoints.get(endpoint)
        if url is not None:
            return url
    return None


def serves(formats: Container[str], wire_format: str) -> bool:
    """Tell whether a provider with endpoints of `formats` serves `wire_format`."""
    return any(endpoint in formats for endpoint in _RIDES_ON.get(wire_format, (wire_format,)))


def normalised(name: str) -> str:
    """Return the spelling under which a provider is found: `Azure_OpenAI` is `azure-openai`."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """One of the operator's keys. `id` is safe to log; a key is drawn in proportion to `weight`.

    `tenant` is the only one that may use it; None is everybody the gateway knows.
    """

    id: str
    key: Secret
    weight: float = 1.0
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """A row of the registry.

    Args:
        id: Lower case, words joined by hyphens.
        kind: `cloud`, `aggregator` or `local`.
        endpoints: Wire format to base URL, without a slash at the end. Usable ones only.
        dormant: Those that are off until settings name the base URL (templates, loopback).
        moved: Where they are for everybody else, if settings name another base URL.
        auth: How a key is sent: `bearer`, `x-api-key`, `x-goog-api-key`, `api-key`,
            `header:<name>` (the key alone) or `none`; anything else needs more than a header.
        other_auth: Further ways the provider takes.
        key_variables: Environment variables in which its own tools look for a key of style `auth`.
        other_variables: Further ones they read: regions, accounts, credentials of another kind.
        keys: The operator's. Only ever sent to `hosts`.
        renames: Request fields it knows under another name.
        stream_usage: `stream_options.include_usage` may be added to a chat request.
        embeddings: None if nobody knows.
        variant: `subscription-plan`, or None.
        confidence: `high`, `single` or `disputed`: how far sources agree on the host; `operator`
            for a row that settings wrote.
    """

    id: str
    name: str
    kind: str = "cloud"
    endpoints: Mapping[str, str] = field(default_factory=_nothing)
    dormant: Mapping[str, str] = field(default_factory=_nothing)
    moved: Mapping[str, str] = field(default_factory=_nothing)
    auth: str = "bearer"
    other_auth: tuple[str, ...] = ()
    key_variables: tuple[str, ...] = ()
    other_variables: tuple[str, ...] = ()
    keys: tuple[ProviderKey, ...] = ()
    aliases: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=_nothing)
    stream_usage: bool = False
    content_must_be_string: bool = False
    embeddings: bool | None = None
    variant: str | None = None
    confidence: str = "high"

    @property
    def key_optional(self) -> bool:
        """Whether a call without any key makes sense."""
        return self.auth == "none" or self.kind == "local"

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts of its endpoints that are https at the default port, in lower case."""
        return _https_hosts(self.endpoints.values())

    @property
    def names(self) -> frozenset[str]:
        """Those, and the hosts by which everybody else knows it."""
        return self.hosts | _https_hosts(self.moved.values())

    @property
    def base_url_variable(self) -> str:
        """The environment variable by which an operator sets its base URL."""
        return f"LLMGATE_PROVIDERS__{self.id.upper().replace('-', '_')}__BASE_URL"

    @property
    def api_key_variable(self) -> str:
        """The one by which an operator sets a key."""
        return f"LLMGATE_PROVIDERS__{self.id.upper().replace('-', '_')}__API_KEY"

    def base_url(self, wire_format: str) -> str | None:
        """Return where `wire_format` is served, or None if it is not."""
        return _serving(self.endpoints, wire_format)

    def is_dormant(self, wire_format: str) -> bool:
        """Tell whether it would serve `wire_format` if its base URL were set."""
        return _serving(self.dormant, wire_format) is not None


def _https_hosts(urls: Iterable[str]) -> frozenset[str]:
    return frozenset(
        part.hostname
        for part in map(urlsplit, urls)
        if part.hostname and part.scheme == "https" and part.port in (None, 443)
    )


@dataclass(frozen=True, slots=True)
class Registry:
    """All providers, found by id, alias or host. Immutable.

    Args:
        providers: By id.
        allowed_hosts: Further hosts that `LLMGate-Target-URL` may name: lower case, no port.
        model_aliases: Names of the operator's own, to what they stand for
            (`fast` to `groq/llama-3.3-70b`, or a comma list).
        reach: A caller's format to those it can be translated into, the best first. From
            `providers/`; empty means that nothing is translated.
    """

    providers: Mapping[str, Provider]
    allowed_hosts: frozenset[str] = frozenset()
    model_aliases: Mapping[str, str] = field(default_factory=_nothing)
    reach: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    _by_name: Mapping[str, Provider] = field(init=False, repr=False, compare=False)
    _by_host: Mapping[str, tuple[Provider, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names: dict[str, Provider] = {}
        hosts: dict[str, list[Provider]] = {}
        for provider in self.providers.values():
            for alias in provider.aliases:
                names.setdefault(alias, provider)
            for host in provider.names:
                hosts.setdefault(host, []).append(provider)
        names.update(self.providers)  # An id is never shadowed by somebody's alias.
        object.__setattr__(self, "_by_name", names)
        object.__setattr__(self, "_by_host", {host: tuple(rows) for host, rows in hosts.items()})

    @property
    def hosts(self) -> frozenset[str]:
        """Every https host of a usable row: what `LLMGate-Target-URL` may name."""
        return frozenset(self._by_host)

    def get(self, name: str) -> Provider | None:
        """Return the provider with that id or alias, in any case and with `_` or `-`."""
        return self._by_name.get(name) or self._by_name.get(normalised(name))

    def at_host(self, host: str) -> tuple[Provider, ...]:
        """Return the rows that have an endpoint at `host`; plans last."""
        rows = self._by_host.get(host, ())
        return tuple(sorted(rows, key=lambda row: row.variant is not None))

    def near(self, name: str) -> list[str]:
        """Return up to three names that `name` may be a misspelling of."""
        return difflib.get_close_matches(normalised(name), self._by_name, n=3)
