"""`llmgate doctor`: is everything there that the settings ask for?"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from asgi_llmgate.cli_doctor_semantic import semantic_checks
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.settings import Settings

__all__ = ["Check", "run_checks"]


class Check(NamedTuple):
    """`state` is `ok`, `warn` or `fail`."""

    state: str
    name: str
    detail: str


def run_checks(settings: Settings) -> list[Check]:
    return [
        *data_folder(settings),
        *sqlite(),
        *upstream_client(settings),
        *keys(settings),
        *control_store(settings),
        *limits(settings),
        *(Check(*told) for told in semantic_checks(settings)),
        *unpriced_models(settings),
        *not_built(settings),
    ]


def data_folder(settings: Settings) -> Iterator[Check]:
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        yield Check("fail", "data folder", f"{existing} is in the way of {folder}: it is a file")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Check("fail", "data folder", f"{existing} cannot be written to")
    elif existing != folder:
        yield Check("ok", "data folder", f"{folder} does not exist yet and will be made")
    elif folder.stat().st_mode & 0o077:
        yield Check("warn", "data folder", f"{folder} can be read by others: chmod 700 {folder}")
    else:
        yield Check("ok", "data folder", str(folder))


def sqlite() -> Iterator[Check]:
    if importlib.util.find_spec("apsw") is None:
        yield Check("fail", "SQLite", "apsw is missing: pip install 'asgi-llmgate[standalone]'")
        return
    import apsw

    version = apsw.sqlite_lib_version()
    # 3.51.3 mends a bug that loses commits of several processes.
    fine = tuple(map(int, version.split("."))) >= (3, 51, 3)
    own = f"Python's own, {sqlite3.sqlite_version}, holds virtual keys only, without WAL"
    detail = f"{version} (apsw); {own}"
    yield Check("ok" if fine else "fail", "SQLite", detail)


def upstream_client(settings: Settings) -> Iterator[Check]:
    client = settings.upstream.client
    library = {"h1": "httptools"}.get(client, client)
    if importlib.util.find_spec(library) is None:
        yield Check("fail", "upstream client", f"{client} needs {library}, which is not installed")
    else:
        yield Check("ok", "upstream client", client)


def keys(settings: Settings) -> Iterator[Check]:
    from asgi_llmgate.assemble import registry_of

    registry = registry_of(settings)
    pooled = [provider.id for provider in registry.providers.values() if provider.keys]
    has_virtual = settings.database_url is not None or control_file(settings).exists()
    has_keys = bool(settings.keys) or has_virtual
    if pooled and not has_keys and settings.auth.mode != "required":
        yield Check(
            "warn",
            "provider keys",
            f"{', '.join(sorted(pooled))} have keys, but there is no gateway key, so nobody may "
            "use them unless `llmgate keys create` makes one, or an application mounts the "
            "gateway with its own login",
        )
    elif pooled:
        yield Check("ok", "provider keys", ", ".join(sorted(pooled)))
    else:
        yield Check("ok", "provider keys", "none: callers send their own")


def control_file(settings: Settings) -> Path:
    return settings.data_dir / "control.sqlite"


def control_store(settings: Settings) -> Iterator[Check]:
    """Is the store of virtual keys there, and does all in it open?"""
    from asgi_llmgate.assemble import control_of, registry_of

    control = control_of(settings, lambda: registry_of(settings))
    if not control.exists:
        yield Check("ok", "virtual keys", "none yet: `llmgate keys create` makes one")
        return

    async def ask() -> tuple[int, int, int, int, int]:
        try:
            await control.start()
            keys = await control.keys.page(limit=1_000_000)
            rows = await control.provider_keys.all()
            unusable = sum(not usable for _, usable in rows)
            old = await control.keys.on_other_secrets()
            return (
                len(keys),
                len(rows),
                unusable,
                old,
                await control.provider_keys.on_other_secrets(),
            )
        finally:
            await control.aclose()

    try:
        keys, rows, unusable, old_keys, old_rows = asyncio.run(ask())
    except (BackendError, ConfigurationError) as error:
        yield Check("fail", "virtual keys", str(error).replace("\n", " "))
        return
    yield Check("ok", "virtual keys", f"{keys} keys, {rows} stored provider keys")
    if unusable:
        yield Check(
            "fail",
            "stored provider keys",
            f"{unusable} cannot be opened: LLMGATE_SECRET_KEY is another one, or they were altered",
        )
    if old_keys or old_rows - unusable:
        yield Check(
            "warn",
            "secret key",
            f"{old_keys} virtual and {old_rows - unusable} provider keys depend on one that is not "
            "in force: keep it until they were used, and run `llmgate provider-keys reseal`",
        )


def limits(settings: Settings) -> Iterator[Check]:
    """Is the store of the limits there, and is anything limited?"""
    from asgi_llmgate.assemble import limit_store_of, limits_of

    rates, own, _ = limits_of(settings)

    async def stored() -> int:
        store = limit_store_of(settings)
        try:
            return len(await store.meters.load_budgets())
        finally:
            await store.aclose()

    where = "Redis" if settings.redis_url is not None else "SQLite in the data folder"
    try:
        number = len(own) + asyncio.run(stored())
    except (BackendError, ConfigurationError) as error:
        yield Check(
            "fail", "limits", f"{where}: {error}; every worker keeps its share of each limit"
        )
    else:
        yield Check("ok", "limits", f"{where}; {len(rates)} rates, {number} budgets")


def unpriced_models(settings: Settings) -> Iterator[Check]:
    from asgi_llmgate.backends.journal_reader import JournalReader

    if importlib.util.find_spec("genai_prices") is None:
        yield Check("warn", "prices", "genai-prices is not installed: costs are unknown")
        return
    reader = JournalReader(settings.data_dir)
    rows = reader.stats("model") if reader.exists else []
    unpriced = [f"{row.key} ({row.unpriced} calls)" for row in rows if row.unpriced]
    if unpriced:
        listed = ", ".join(unpriced)
        yield Check("warn", "prices", f"no price for {listed}; set prices in llmgate.toml")
    else:
        yield Check("ok", "prices", "every model called so far has one")


def not_built(settings: Settings) -> Iterator[Check]:
    """Settings that are read but whose part does not exist yet do nothing, which must be said."""
    for name in ("clickhouse_url",):
        if getattr(settings, name) is not None:
            yield Check("warn", name, "is set, but nothing uses it yet: all state is in SQLite")
