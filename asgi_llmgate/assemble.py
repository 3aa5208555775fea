"""Make the parts of a gateway from settings. Nothing is opened or connected here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from asgi_llmgate.core.registry import Provider, ProviderKey, Registry
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.pricing import Prices
from asgi_llmgate.protocols import Timeouts
from asgi_llmgate.providers.registry import ProviderOverride, load_registry
from asgi_llmgate.settings import Settings
from asgi_llmgate.types import Secret
from asgi_llmgate.upstream.demo import DEMO_BASE_URL

if TYPE_CHECKING:
    from asgi_llmgate.backends.journal import JournalLogSink

__all__ = ["journal_of", "prices_of", "registry_of", "timeouts_of"]


def journal_of(settings: Settings) -> JournalLogSink:
    """Return the journal of the data folder; nothing is opened yet.

    Raises:
        ConfigurationError: SQLite's driver is not installed, as in a base install.
    """
    try:
        from asgi_llmgate.backends.journal import JournalLogSink
    except ModuleNotFoundError as error:
        if error.name != "apsw":
            raise
        raise ConfigurationError(
            "The journal needs apsw, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[standalone]"`, or pass `log=`.'
        ) from None
    log = settings.log
    return JournalLogSink(
        settings.data_dir,
        max_age_s=log.max_age_days * 86_400,
        max_bytes=log.max_bytes,
    )


def prices_of(settings: Settings) -> Prices:
    overrides = {model: price.model_dump() for model, price in settings.prices.items()}
    try:
        return Prices(overrides)
    except ValueError as error:
        raise ConfigurationError(
            f"The prices have a mistake: {error}\nHINT: write US dollars per million tokens."
        ) from None


def registry_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> Registry:
    """Return every provider, with what the settings say of it and the operator's keys.

    Keys are those of the settings, else those under the names that the SDKs read.
    """
    plain = load_registry()
    overrides: dict[str, ProviderOverride] = {}
    for name, given in settings.providers.items():
        known = plain.get(name)
        keys = tuple(
            ProviderKey(key.id, Secret(key.key.get_secret_value()), key.weight)
            for key in given.all_keys()
        )
        overrides[name] = ProviderOverride(
            base_url=given.base_url,
            formats=given.formats,
            name=given.name,
            auth=given.auth,
            stream_usage=given.stream_usage,
            keys=keys or (_key_of(known, environment) if known is not None else ()),
        )
    mentioned = {known.id for name in overrides if (known := plain.get(name)) is not None}
    for provider in plain.providers.values():
        if provider.id not in mentioned and (keys := _key_of(provider, environment)):
            overrides[provider.id] = ProviderOverride(keys=keys)
    if settings.demo:
        overrides["demo"] = ProviderOverride(
            formats=dict.fromkeys(("openai-chat", "anthropic-messages", "gemini"), DEMO_BASE_URL),
            auth="none",
            stream_usage=True,
        )
    return load_registry(overrides, allowed_hosts=settings.upstream.target_hosts)


def _key_of(provider: Provider, environment: Mapping[str, str]) -> tuple[ProviderKey, ...]:
    for variable in provider.key_variables:
        if environment.get(variable):
            return (ProviderKey(variable, Secret(environment[variable])),)
    return ()


def timeouts_of(settings: Settings, *, stream: bool) -> Timeouts:
    given = settings.upstream.timeouts
    return Timeouts(
        connect_s=given.connect,
        pool_s=given.pool,
        write_s=given.write,
        first_byte_s=given.first_byte_stream if stream else given.first_byte,
        idle_s=given.idle,
        total_s=None if stream else given.total,
    )
