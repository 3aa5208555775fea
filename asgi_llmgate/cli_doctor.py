"""`llmgate doctor`: is everything there that the settings ask for?"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

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
    detail = f"{version} (apsw); Python's own is {sqlite3.sqlite_version} and not used"
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
    if pooled and not settings.keys and settings.auth.mode != "required":
        yield Check(
            "warn",
            "provider keys",
            f"{', '.join(sorted(pooled))} have keys, but LLMGATE_KEYS is empty, so nobody may "
            "use them unless an application mounts the gateway with its own login",
        )
    elif pooled:
        yield Check("ok", "provider keys", ", ".join(sorted(pooled)))
    else:
        yield Check("ok", "provider keys", "none: callers send their own")


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
    for name in ("redis_url", "database_url", "clickhouse_url"):
        if getattr(settings, name) is not None:
            yield Check("warn", name, "is set, but nothing uses it yet: all state is in SQLite")
