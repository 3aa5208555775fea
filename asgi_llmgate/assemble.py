"""Make the parts of a gateway from settings. Nothing is opened or connected here."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from asgi_llmgate.backends.limits_shared import SharedLimitStore, SharedMeters
from asgi_llmgate.backends.upstreams_shared import Board
from asgi_llmgate.backends.webhook import Webhooks
from asgi_llmgate.cache import Cache
from asgi_llmgate.clouds import CLOUDS, completed
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.control import Control
from asgi_llmgate.core.budgets import Budget
from asgi_llmgate.core.cache_plan import CachePolicy
from asgi_llmgate.core.chain import chain_of
from asgi_llmgate.core.derive import Label, derive
from asgi_llmgate.core.limits import Policy
from asgi_llmgate.core.registry import Provider, ProviderKey, Registry
from asgi_llmgate.core.targets import resolve_targets
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.keyfile import secret_keys
from asgi_llmgate.pricing import Prices
from asgi_llmgate.protocols import CacheStore, Timeouts
from asgi_llmgate.providers.registry import ProviderOverride, load_registry
from asgi_llmgate.resilience import aliases_of
from asgi_llmgate.settings import Settings
from asgi_llmgate.types import Secret
from asgi_llmgate.upstream.demo import DEMO_BASE_URL

if TYPE_CHECKING:
    from asgi_llmgate.backends.journal import JournalLogSink
    from asgi_llmgate.backends.request_ids import SqliteRequestIds

__all__ = [
    "board_of",
    "cache_of",
    "cache_policy_of",
    "cache_secret_of",
    "cache_store_of",
    "control_of",
    "journal_of",
    "limit_store_of",
    "limits_of",
    "prices_of",
    "registry_of",
    "request_ids_of",
    "secrets_of",
    "targets_of",
    "timeouts_of",
    "webhooks_of",
]


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


def board_of(settings: Settings) -> Board:
    """Return where workers tell each other of upstreams: Redis if there is one, else a file.

    Raises:
        ConfigurationError: the driver is not installed.
    """
    url = settings.redis_url
    try:
        if url is not None:
            from asgi_llmgate.backends.upstreams_redis import RedisBoard

            return RedisBoard(url.get_secret_value())
        from asgi_llmgate.backends.upstreams_sqlite import SqliteBoard
    except ModuleNotFoundError as error:
        if error.name not in ("apsw", "redis"):
            raise
        extra = "standalone" if error.name == "apsw" else "redis"
        raise ConfigurationError(
            f"Breakers need {error.name}, which is not installed.\n"
            f'HINT: run `pip install "asgi-llmgate[{extra}]"`.'
        ) from None
    return SqliteBoard(settings.data_dir)


def request_ids_of(settings: Settings) -> SqliteRequestIds | None:
    """Return where ids of callers' own are kept; None in a base install, which has no SQLite."""
    try:
        from asgi_llmgate.backends.request_ids import SqliteRequestIds
    except ModuleNotFoundError as error:
        if error.name != "apsw":
            raise
        return None
    return SqliteRequestIds(settings.data_dir)


def cache_store_of(settings: Settings) -> CacheStore:
    """Return where answers are stored: Redis if there is one, else the data folder.

    Raises:
        ConfigurationError: the driver is not installed.
    """
    url = settings.redis_url
    try:
        if url is not None:
            from asgi_llmgate.backends.cache_redis import RedisCacheStore

            return RedisCacheStore.from_url(url.get_secret_value())
        from asgi_llmgate.backends.cache_sqlite import SqliteCacheStore
    except ModuleNotFoundError as error:
        if error.name not in ("apsw", "redis"):
            raise
        extra = "standalone" if error.name == "apsw" else "redis"
        raise ConfigurationError(
            f"The cache needs {error.name}, which is not installed.\n"
            f'HINT: run `pip install "asgi-llmgate[{extra}]"`, or pass `cache_store=`.'
        ) from None
    return SqliteCacheStore(settings.data_dir, max_bytes=settings.cache.max_bytes)


def cache_policy_of(settings: Settings) -> CachePolicy:
    given = settings.cache
    return CachePolicy(
        is_on=given.enabled,
        ttl_s=given.ttl,
        soft_ttl_s=given.soft_ttl,
        keep_stale_s=given.keep_stale,
        serves_fallbacks=given.serve_fallbacks,
        tags=tuple(given.tags),
    )


def cache_secret_of(settings: Settings) -> bytes:
    return derive(secrets_of(settings)[0], Label.CACHE)


def cache_of(settings: Settings) -> tuple[Cache, CacheStore]:
    """Return what the command line speaks to, and the store to close."""
    store = cache_store_of(settings)
    return Cache(lambda: store, lambda: cache_secret_of(settings)), store


def limit_store_of(
    settings: Settings,
    count: Callable[..., None] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> SharedLimitStore:
    """Return where limits are counted: Redis if there is one, else the data folder.

    Raises:
        ConfigurationError: the driver is not installed.
    """
    url = settings.redis_url
    meters: SharedMeters
    try:
        if url is not None:
            from asgi_llmgate.backends.limits_redis import RedisMeters

            meters = RedisMeters.from_url(url.get_secret_value())
        else:
            from asgi_llmgate.backends.limits_sqlite import SqliteMeters

            meters = SqliteMeters(settings.data_dir)
    except ModuleNotFoundError as error:
        if error.name not in ("apsw", "redis"):
            raise
        extra = "standalone" if error.name == "apsw" else "redis"
        raise ConfigurationError(
            f"Limits need {error.name}, which is not installed.\n"
            f'HINT: run `pip install "asgi-llmgate[{extra}]"`, or pass `limit_store=`.'
        ) from None
    workers = settings.limits.workers
    if workers is None:
        workers = _server_workers(environment, sys.argv)
    return SharedLimitStore(meters, workers=workers, count=count)


def _server_workers(environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Return how many workers the server was told to start, as far as they can know.

    uvicorn and gunicorn read `WEB_CONCURRENCY`, and hand their command line to their workers.
    """
    named = environment.get("WEB_CONCURRENCY", "")
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--workers", "-w"):
            named = value or next(iter(arguments[place + 1 : place + 2]), "")
    return int(named) if named.isdecimal() and 0 < int(named) <= 1024 else 1


def webhooks_of(settings: Settings) -> Webhooks:
    given = settings.limits.webhook_secret
    if given is None:
        secret = derive(secrets_of(settings)[0], Label.WEBHOOKS)
    else:
        text = given.get_secret_value().removeprefix("whsec_")
        try:
            secret = base64.b64decode(text, validate=True)
        except ValueError:
            raise ConfigurationError(
                "limits.webhook_secret is not base64.\n"
                "HINT: write `whsec_` and 24 to 64 bytes in base64."
            ) from None
    return Webhooks(secret, allowed_hosts=frozenset(settings.limits.webhook_hosts))


def limits_of(settings: Settings) -> tuple[list[Policy], list[Budget], tzinfo]:
    """Return the policies and budgets of the settings, and the time zone of budgets.

    Raises:
        ConfigurationError: there is no such zone, or two budgets have one name.
    """
    limits = settings.limits
    try:
        zone = ZoneInfo(limits.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f"There is no time zone {limits.time_zone!r} on this machine.\n"
            "HINT: write limits.time_zone like Europe/Berlin; `pip install tzdata` brings all."
        ) from None
    budgets = [given.budget() for given in limits.budgets]
    if len({budget.name for budget in budgets}) < len(budgets):
        raise ConfigurationError(
            "Two budgets of the settings have the same name.\nHINT: rename one in limits.budgets."
        )
    return [policy for rate in limits.rates for policy in rate.policies()], budgets, zone


def prices_of(settings: Settings) -> Prices:
    overrides = {model: price.model_dump() for model, price in settings.prices.items()}
    if settings.demo:  # invented, so that the demo's calls have a cost to look at
        overrides.setdefault("demo/echo", {"input": "1", "output": "2"})
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
    for cloud in CLOUDS:
        named = (name for name in overrides if (row := plain.get(name)) and row.id == cloud)
        name = next(named, cloud)
        before = overrides.get(name, ProviderOverride())
        after = completed(plain.providers[cloud], before, settings, environment)
        if after != before:
            overrides[name] = after
    if settings.demo:
        overrides["demo"] = ProviderOverride(
            formats=dict.fromkeys(("openai-chat", "anthropic-messages", "gemini"), DEMO_BASE_URL),
            auth="none",
            stream_usage=True,
        )
    return load_registry(
        overrides,
        allowed_hosts=settings.upstream.target_hosts,
        model_aliases=aliases_of(settings),
    )


def secrets_of(settings: Settings) -> tuple[bytes, ...]:
    """Return the secret key in force, then the others; makes one if there is none."""
    shared = settings.redis_url is not None or settings.database_url is not None
    given = settings.secret_key.get_secret_value() if settings.secret_key else None
    return secret_keys(given, settings.data_dir, shared=shared)


def control_of(settings: Settings, registry: Callable[[], Registry]) -> Control:
    """Return the control plane; nothing is opened, and no secret made, before it is needed.

    Args:
        registry: Of the providers for which keys may be stored.
    """
    url = settings.database_url.get_secret_value() if settings.database_url else None

    def provider_id(name: str) -> str | None:
        found = registry().get(name)
        return None if found is None else found.id

    return Control(
        url=url,
        folder=settings.data_dir,
        secrets=lambda: secrets_of(settings),
        tenants=settings.keys,
        providers=provider_id,
    )


def targets_of(
    registry: Registry,
) -> Callable[[GatewayContext, str | None], list[tuple[str, str | None]]]:
    """Return what tells, before a call is made, to which providers and models it may go."""

    def targets(context: GatewayContext, model: str | None) -> list[tuple[str, str | None]]:
        route, directives = context.route, context.directives
        is_chain = bool(directives.fallbacks) or (model is not None and "," in model)
        if is_chain and route.is_json and route.provider is None:
            links = chain_of(route, model, directives, registry)
            pairs = [link.name for link in links]
            for link in links:  # OpenRouter's list may come with an entry, too.
                others = (link.override or {}).get("models")
                named = others if isinstance(others, list) else [] if others is None else [None]
                pairs += [(link.name[0], each if isinstance(each, str) else None) for each in named]
            return pairs
        found = resolve_targets(route, model, directives, registry)
        return [(target.provider.id, target.model) for target in found]

    return targets


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
