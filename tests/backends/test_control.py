"""What a control store promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from asgi_llmgate.backends import control_schema
from asgi_llmgate.backends.control import CONTROL_FILE, ControlStore, ExistsError, SealedKey
from asgi_llmgate.backends.control_engine import parse_url
from asgi_llmgate.backends.control_tables import metadata, version_table
from asgi_llmgate.errors import BackendError, ConfigurationError
from asgi_llmgate.types import Grants, KeyScope, KeySecret, StoredKey

SECRET = "ab" * 8


def stored(kid: str, **changes: Any) -> StoredKey:
    secret = KeySecret(kid, kid.encode().ljust(32, b"."), SECRET)
    plain = StoredKey(kid, "acme", "laptop", (secret,), Grants(), created_at_s=1.5, hint="wxyz")
    return dataclasses.replace(plain, **changes)


def sealed(row: str, **changes: Any) -> SealedKey:
    return dataclasses.replace(SealedKey(row, "openai", "*", "default", b"\x01sealed"), **changes)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / CONTROL_FILE}"
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[ControlStore]:
    store = ControlStore(url)
    yield store
    await store.aclose()


async def test_a_key_is_found_by_its_handle_exactly_as_it_was_kept(store: ControlStore) -> None:
    grants = Grants(
        scopes=frozenset({KeyScope.CALL, KeyScope.READ}),
        models=("gpt-4o*", "openai/o3"),
        providers=("openai",),
        routes=("/v1/chat/*",),
        tags=(("team", "söme 'quoted' \\ text"), ("zone", "b")),
    )
    key = stored(
        "k1", grants=grants, user_id="u'1", expires_at_s=99.25, is_imported=True, rates="1;w=1"
    )
    await store.add_key(key)

    assert list(await store.find("k1")) == [key]
    assert list(await store.find("K1")) == []
    assert list(await store.find("' OR 1=1 --")) == []


async def test_a_key_is_found_with_its_ancestors_nearest_first(store: ControlStore) -> None:
    for kid, parent in (("a", None), ("b", "a"), ("c", "b")):
        await store.add_key(stored(kid, parent=parent))

    assert [key.kid for key in await store.find("c")] == ["c", "b", "a"]


async def test_an_id_is_given_once(store: ControlStore) -> None:
    await store.add_key(stored("k1"))

    with pytest.raises(ExistsError):
        await store.add_key(stored("k1"))


async def test_a_parent_must_be_there(store: ControlStore) -> None:
    with pytest.raises(ExistsError):
        await store.add_key(stored("k1", parent="nobody"))


async def test_changes_name_the_keys_that_changed_and_nothing_else(store: ControlStore) -> None:
    first = await store.changes(None)
    assert first is not None
    assert (first.kids, first.has_keys) == (None, False)
    assert await store.changes(first.version) is None
    await store.add_key(stored("k1"))
    await store.add_key(stored("k2"))
    second = await store.changes(first.version)
    assert second is not None
    assert (second.kids, second.has_keys) == (frozenset({"k1", "k2"}), True)
    assert await store.revoke_key("k2", 7.0)
    third = await store.changes(second.version)

    assert third is not None
    assert third.kids == frozenset({"k2"})
    assert await store.changes(third.version) is None


async def test_a_store_that_went_back_in_time_may_have_changed_everywhere(
    store: ControlStore,
) -> None:
    changes = await store.changes(1_000_000)

    assert changes is not None
    assert changes.kids is None


async def test_changes_of_other_processes_are_seen(url: str, store: ControlStore) -> None:
    other = ControlStore(url)
    seen = await store.changes(None)
    for number in range(20):
        await other.add_key(stored(f"k{number}"))
        before, seen = seen, await store.changes(seen.version if seen else None)

        assert seen is not None
        assert before is not None
        assert seen.version > before.version
    await other.aclose()


async def test_a_first_revocation_is_the_one_that_counts(store: ControlStore) -> None:
    await store.add_key(stored("k1"))
    assert await store.revoke_key("k1", 7.0)
    assert await store.revoke_key("k1", 8.0)

    key = await store.key("k1")
    assert key is not None
    assert key.revoked_at_s == 7.0
    assert not await store.revoke_key("k2", 7.0)


async def test_both_secrets_of_a_rotated_key_find_it(store: ControlStore) -> None:
    imported = KeySecret("ff" * 32, b"i" * 32, SECRET)
    await store.add_key(stored("k1", secrets=(imported,), is_imported=True))
    changes = await store.changes(None)
    assert changes is not None
    assert changes.imported == {"ff" * 32}
    new = KeySecret("k1", b"n" * 32, SECRET)
    assert await store.rotate_key("k1", new, "hint", 50.0)
    changes = await store.changes(None)

    (by_new,), (by_old,) = await store.find("k1"), await store.find("ff" * 32)
    assert by_new == by_old
    assert by_new.secrets == (new, dataclasses.replace(imported, expires_at_s=50.0))
    assert changes is not None
    assert changes.imported == {"ff" * 32}


async def test_a_digest_is_replaced_only_where_it_is_the_one_that_was_verified(
    store: ControlStore,
) -> None:
    key = stored("k1")
    await store.add_key(key)
    await store.add_key(stored("k2"))
    new = KeySecret("k1", b"n" * 32, "cd" * 8)
    await store.replace_digest("k1", key.secrets[0], new)
    await store.replace_digest("k2", key.secrets[0], dataclasses.replace(new, handle="k2"))

    (first,), (second,) = await store.find("k1"), await store.find("k2")
    assert first.secrets == (new,)
    assert second == stored("k2")


async def test_keys_are_listed_page_by_page(store: ControlStore) -> None:
    for number in range(5):
        tenant = "acme" if number % 2 else "other"
        await store.add_key(stored(f"k{number}", tenant=tenant))

    assert [key.kid for key in await store.keys(limit=2)] == ["k0", "k1"]
    assert [key.kid for key in await store.keys(after="k1", limit=9)] == ["k2", "k3", "k4"]
    assert [key.kid for key in await store.keys(tenant="acme", limit=9)] == ["k1", "k3"]


async def test_a_provider_key_comes_back_as_it_was_kept(store: ControlStore) -> None:
    row = sealed("pk_1", envelope=bytes(range(256)), weight=2.5, created_at_s=3.25)
    await store.add_provider_key(row)
    await store.add_provider_key(sealed("pk_2", tenant="acme"))

    assert await store.provider_keys() == [row, sealed("pk_2", tenant="acme")]
    with pytest.raises(ExistsError):
        await store.add_provider_key(sealed("pk_3"))


async def test_an_envelope_is_replaced_only_if_it_is_the_version_that_was_read(
    store: ControlStore,
) -> None:
    await store.add_provider_key(sealed("pk_1"))
    new = {"envelope": b"new", "hint": "1234", "weight": 1.0}

    assert await store.replace_envelope("pk_1", was=1, **new)  # type: ignore[arg-type]
    assert not await store.replace_envelope("pk_1", was=1, **new)  # type: ignore[arg-type]
    assert [row.version for row in await store.provider_keys()] == [2]
    assert await store.remove_provider_key("pk_1")
    assert not await store.remove_provider_key("pk_1")


async def test_provider_keys_count_as_changes(store: ControlStore) -> None:
    before = await store.changes(None)
    assert before is not None
    await store.add_provider_key(sealed("pk_1"))
    after = await store.changes(before.version)

    assert after is not None
    assert after.kids == frozenset()


async def test_many_writers_at_once_lose_no_change(url: str, store: ControlStore) -> None:
    others = [ControlStore(url) for _ in range(3)]
    stores = [store, *others]
    await asyncio.gather(
        *(stores[number % 4].add_key(stored(f"k{number:02}")) for number in range(40))
    )
    changes = await store.changes(0)

    assert changes is not None
    assert changes.version == 40
    assert len(await store.keys(limit=99)) == 40
    for other in others:
        await other.aclose()


# --- tables


async def test_several_processes_make_the_tables_once(url: str) -> None:
    stores = [ControlStore(url) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.aclose() for store in stores))
    engine = create_async_engine(parse_url(url))
    async with engine.connect() as connection:
        steps = await connection.scalars(sa.text(f"SELECT version_num FROM {version_table}"))
        counters = await connection.scalars(sa.text("SELECT version FROM llmgate_control"))

        assert (list(steps), list(counters)) == ([control_schema.HEAD], [0])
    await engine.dispose()


async def test_the_steps_end_in_the_tables_that_the_code_knows(url: str) -> None:
    store = ControlStore(url)
    await store.open()
    await store.aclose()
    engine = create_async_engine(parse_url(url))
    async with engine.connect() as connection:

        def differences(sync: sa.Connection) -> list[Any]:
            options = {"version_table": version_table, "compare_type": True}
            return list(compare_metadata(MigrationContext.configure(sync, opts=options), metadata))

        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_store_of_an_older_version_is_brought_up_to_date_with_its_keys(
    url: str, store: ControlStore
) -> None:
    await store.add_key(stored("k1"))
    engine = create_async_engine(parse_url(url))
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE llmgate_keys DROP COLUMN rates"))
        await connection.execute(sa.text(f"UPDATE {version_table} SET version_num = '0001'"))
    await engine.dispose()
    newer = ControlStore(url)
    found = await newer.find("k1")
    await newer.add_key(stored("k2", rates="1;w=1"))
    [added] = await newer.find("k2")
    await newer.aclose()

    assert list(found) == [stored("k1")]
    assert added.rates == "1;w=1"


def test_the_newest_step_is_the_one_that_is_named() -> None:
    config = Config()
    config.set_main_option("script_location", str(control_schema.SCRIPTS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)

    assert scripts.get_heads() == [control_schema.HEAD]
    assert {script.revision for script in scripts.walk_revisions()} == control_schema.KNOWN


async def test_a_store_of_a_newer_version_is_left_alone(url: str, store: ControlStore) -> None:
    await store.open()
    engine = create_async_engine(parse_url(url))
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"UPDATE {version_table} SET version_num = '9999'"))
    await engine.dispose()
    later = ControlStore(url)

    with pytest.raises(ConfigurationError, match="newer version"):
        await later.open()
    await later.aclose()


async def test_a_step_that_fails_leaves_nothing_behind(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = control_schema._upgrade

    def dies(connection: sa.Connection) -> None:
        whole(connection)
        raise OSError("killed")

    monkeypatch.setattr(control_schema, "_upgrade", dies)
    store = ControlStore(url)
    with pytest.raises(BackendError):
        await store.open()
    monkeypatch.undo()
    engine = create_async_engine(parse_url(url))
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    await engine.dispose()

    assert names == []
    await store.add_key(stored("k1"))
    await store.aclose()


# --- failures, and what they tell


async def test_a_database_that_is_gone_is_a_backend_error_without_detail(tmp_path: Path) -> None:
    store = ControlStore(f"postgresql://me:canary-password@/x?host={tmp_path}")

    with pytest.raises(BackendError) as caught:
        await store.find("k1")
    assert "canary" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.__cause__ is None
    await store.aclose()


async def test_values_are_in_no_error(store: ControlStore) -> None:
    """A value that the database refuses: too long for PostgreSQL, of a wrong type for SQLite."""
    bad = stored("canary-" + "x" * 100, tenant=object())

    with pytest.raises(BackendError) as caught:
        await store.add_key(bad)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["mysql://me:canary@host/x", "canary", "sqlite://", "sqlite:///:memory:", "://canary@"],
)
def test_a_url_of_something_else_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ControlStore(text)
    assert "canary" not in str(caught.value)
    assert "HINT" in str(caught.value)


@contextmanager
def traced_sql(store: ControlStore) -> Iterator[set[str]]:
    """Collect the text of every statement the store sends."""
    texts: set[str] = set()
    assert store._engine._engine is not None
    engine = store._engine._engine.sync_engine

    def collect(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        texts.add(statement)

    sa.event.listen(engine, "before_cursor_execute", collect)
    yield texts
    sa.event.remove(engine, "before_cursor_execute", collect)


HOSTILE = [
    "'; DROP TABLE llmgate_keys; --",
    '" OR ""="',
    "%s %(a)s :h ? $1 {0}",
    "\\'; --",
    "k1'/**/UNION/**/SELECT",
    "\u2028\u202e\U0001f600",
    "a" * 60,
]


async def test_sql_is_the_same_text_whatever_is_asked_for(store: ControlStore) -> None:
    await store.add_key(stored("k1"))

    async def ask(text: str) -> None:
        await store.find(text)
        await store.key(text)
        await store.keys(tenant=text, after=text, limit=3)
        await store.revoke_key(text, 1.0)
        await store.rotate_key(text, KeySecret(text, b"x", text[:16]), text[:8], 1.0)
        await store.remove_provider_key(text)
        with pytest.raises((ExistsError, BackendError)):  # the error path, too
            await store.add_key(stored("k1", tenant=text, name=text, user_id=text))

    with traced_sql(store) as usual:
        await ask("harmless")
    with traced_sql(store) as novel:
        for text in HOSTILE:
            await ask(text)

    assert usual
    assert novel - usual == set()
    assert len(await store.keys(limit=9)) == 1


# --- the file


async def test_the_file_is_its_owners_and_has_no_log_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    store = ControlStore.in_folder(folder)
    await store.add_key(stored("k1"))
    await store.aclose()

    names = {path.name for path in folder.iterdir()}
    assert names == {CONTROL_FILE, "control.lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    store = ControlStore.in_folder(tmp_path)
    await store.add_key(stored("k1"))
    (tmp_path / CONTROL_FILE).unlink()

    assert list(await store.find("k1")) == []
    await store.add_key(stored("k1"))
    await store.aclose()


async def test_an_unchanged_file_is_not_opened_to_ask_for_changes(tmp_path: Path) -> None:
    store = ControlStore.in_folder(tmp_path)
    await store.add_key(stored("k1"))
    path = tmp_path / CONTROL_FILE
    os.utime(path, (1, 1))
    changes = await store.changes(None)
    assert changes is not None
    assert await store.changes(changes.version) is None  # remembers the stamp
    with traced_sql(store) as asked:
        assert await store.changes(changes.version) is None
    await store.revoke_key("k1", 5.0)

    assert asked == set()
    assert await store.changes(changes.version) is not None
    await store.aclose()
