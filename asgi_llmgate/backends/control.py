"""The control store: virtual keys and provider keys, in SQLite or PostgreSQL.

Every change begins by raising the counter. That takes the write lock at once (SQLite), or that
row's lock until the commit (PostgreSQL): so changes happen one after another, versions are
committed in their order, and whoever polls the counter misses none.

SQL is constant text with bound values (rule R12).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from asgi_llmgate.backends.control_engine import ControlEngine, parse_url
from asgi_llmgate.backends.control_rows import SealedKey, key_of, key_row, sealed_of, sealed_row
from asgi_llmgate.backends.control_tables import counter, keys, provider_keys
from asgi_llmgate.protocols import KeyChanges
from asgi_llmgate.types import KeySecret, StoredKey

__all__ = ["CONTROL_FILE", "MAX_DEPTH", "ControlStore", "ExistsError", "SealedKey"]

CONTROL_FILE = "control.sqlite"
# Of parents above a key. People have three: company, team, person.
MAX_DEPTH = 8


class ExistsError(Exception):
    """There is one with that name, id or secret already."""


_version = sa.select(counter.c.version)
_raise_version = sa.update(counter).values(version=counter.c.version + 1)
_by_handle = sa.select(keys).where(
    sa.or_(keys.c.handle == sa.bindparam("h"), keys.c.old_handle == sa.bindparam("h"))
)
_by_kid = sa.select(keys).where(keys.c.kid == sa.bindparam("k"))
_imported = sa.select(keys.c.handle).where(keys.c.is_imported, keys.c.handle != keys.c.kid)
_imported_before = sa.select(keys.c.old_handle).where(
    keys.c.is_imported, keys.c.old_handle.is_not(None), keys.c.old_handle != keys.c.kid
)


class ControlStore:
    """Implements `KeyStore`, and what the admin plane does beside.

    Every method raises `BackendError` if the database fails, `ConfigurationError` if it cannot be
    used at all. Nothing is opened before the first of them.

    Args:
        url: `postgresql://…` or `sqlite:///…`.
    """

    def __init__(self, url: str) -> None:
        self._engine = ControlEngine(parse_url(url))
        self._seen: tuple[int, tuple[int, ...]] | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> ControlStore:
        """Return the store of a data folder."""
        return cls(f"sqlite:///{folder.absolute() / CONTROL_FILE}")

    async def open(self) -> None:
        """Make the database if there is none, and bring its tables up to date."""
        await self._engine.open()

    async def aclose(self) -> None:
        await self._engine.aclose()

    # --- KeyStore

    async def find(self, handle: str) -> Sequence[StoredKey]:
        async with self._engine.connection() as connection:
            rows = (await connection.execute(_by_handle, {"h": handle})).mappings().all()
            # A handle is one key's; two can only be the work of other hands, so nobody's.
            chain = [key_of(rows[0])] if len(rows) == 1 else []
            while chain and chain[-1].parent is not None and len(chain) <= MAX_DEPTH:
                found = await connection.execute(_by_kid, {"k": chain[-1].parent})
                row = found.mappings().first()
                if row is None:
                    break  # The check of the chain refuses what ends in nowhere.
                chain.append(key_of(row))
            return chain

    async def changes(self, since: int | None) -> KeyChanges | None:
        # Asking an SQLite file takes a millisecond, looking whether anybody wrote to it 2 µs.
        mark = self._engine.mark()
        if mark is not None and self._seen == (since, mark):
            return None
        async with self._engine.connection() as connection:
            version = int(await connection.scalar(_version) or 0)
            self._seen = None if mark is None else (version, mark)
            if version == since:
                return None
            changed = None
            # A lower version is a backup that was put back, after which anything may be different.
            if since is not None and since < version:
                found = await connection.scalars(
                    sa.select(keys.c.kid).where(keys.c.version > since)
                )
                changed = frozenset(found)
            imported = frozenset(await connection.scalars(_imported))
            imported |= frozenset(await connection.scalars(_imported_before))
            any_key = await connection.scalar(sa.select(keys.c.kid).limit(1))
        return KeyChanges(version, changed, any_key is not None, imported)

    async def replace_digest(self, kid: str, old: KeySecret, new: KeySecret) -> None:
        """See `KeyStore`. Nothing happens if `old` is not there any more."""
        async with self._change() as (connection, version):
            for prefix in ("", "old_"):
                columns = {name: keys.c[prefix + name] for name in ("handle", "digest")}
                await connection.execute(
                    sa.update(keys)
                    .where(keys.c.kid == kid, columns["digest"] == old.digest)
                    .values(
                        {
                            columns["handle"]: new.handle,
                            columns["digest"]: new.digest,
                            keys.c[prefix + "secret_id"]: new.secret_id,
                            keys.c.version: version,
                        }
                    )
                )

    # --- virtual keys

    async def key(self, kid: str) -> StoredKey | None:
        async with self._engine.connection() as connection:
            row = (await connection.execute(_by_kid, {"k": kid})).mappings().first()
            return None if row is None else key_of(row)

    async def keys(
        self, *, tenant: str | None = None, name: str | None = None, after: str = "", limit: int
    ) -> list[StoredKey]:
        """Return up to `limit` keys whose id is greater than `after`, by id."""
        query = sa.select(keys).where(keys.c.kid > after).order_by(keys.c.kid).limit(limit)
        if tenant is not None:
            query = query.where(keys.c.tenant == tenant)
        if name is not None:
            query = query.where(keys.c.name == name)
        async with self._engine.connection() as connection:
            return [key_of(row) for row in (await connection.execute(query)).mappings()]

    async def add_key(self, key: StoredKey) -> None:
        """Keep a new key.

        Raises:
            ExistsError: its id or secret is there already.
        """
        async with self._change() as (connection, version):
            try:
                await connection.execute(sa.insert(keys).values(key_row(key, version)))
            except IntegrityError:
                raise ExistsError from None

    async def revoke_key(self, kid: str, at_s: float) -> bool:
        """Revoke a key and with it, in effect, all below it. False if there is none."""
        return await self._change_key(
            kid, {"revoked_at_s": sa.func.coalesce(keys.c.revoked_at_s, at_s)}
        )

    async def rotate_key(self, kid: str, new: KeySecret, hint: str, old_until_s: float) -> bool:
        """Give a key a new secret; the old one works until then. False if there is none."""
        columns = {
            "old_handle": keys.c.handle,
            "old_digest": keys.c.digest,
            "old_secret_id": keys.c.secret_id,
            "old_expires_at_s": old_until_s,
            "handle": new.handle,
            "digest": new.digest,
            "secret_id": new.secret_id,
            "hint": hint,
        }
        return await self._change_key(kid, columns)

    # --- provider keys

    async def provider_keys(self) -> list[SealedKey]:
        async with self._engine.connection() as connection:
            query = sa.select(provider_keys).order_by(provider_keys.c.id)
            return [sealed_of(row) for row in (await connection.execute(query)).mappings()]

    async def add_provider_key(self, key: SealedKey) -> None:
        """Keep a new provider key.

        Raises:
            ExistsError: its provider and tenant have one of that name.
        """
        async with self._change() as (connection, _):
            try:
                await connection.execute(sa.insert(provider_keys).values(sealed_row(key)))
            except IntegrityError:
                raise ExistsError from None

    async def replace_envelope(
        self, row: str, *, was: int, envelope: bytes, hint: str, weight: float
    ) -> bool:
        """Put another envelope, of version `was + 1`, in a row; False if it is at another one."""
        query = (
            sa.update(provider_keys)
            .where(provider_keys.c.id == row, provider_keys.c.version == was)
            .values(envelope=envelope, version=was + 1, hint=hint, weight=weight)
        )
        async with self._change() as (connection, _):
            return (await connection.execute(query)).rowcount == 1

    async def remove_provider_key(self, row: str) -> bool:
        query = sa.delete(provider_keys).where(provider_keys.c.id == row)
        async with self._change() as (connection, _):
            return (await connection.execute(query)).rowcount == 1

    # --- how everything is changed

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[tuple[AsyncConnection, int]]:
        """Yield a connection that has raised the counter, and the new version; then commit."""
        async with self._engine.connection(writes=True) as connection:
            await connection.execute(_raise_version)
            yield connection, int(await connection.scalar(_version) or 0)
            await connection.commit()

    async def _change_key(self, kid: str, columns: dict[str, Any]) -> bool:
        async with self._change() as (connection, version):
            query = sa.update(keys).where(keys.c.kid == kid).values(**columns, version=version)
            return (await connection.execute(query)).rowcount == 1
