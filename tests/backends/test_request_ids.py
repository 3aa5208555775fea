from __future__ import annotations

import stat
from pathlib import Path

import apsw
import pytest

from asgi_llmgate.backends import request_ids
from asgi_llmgate.backends.request_ids import REQUEST_IDS_FILE, SqliteRequestIds
from asgi_llmgate.errors import BackendError


async def test_an_id_is_given_once_per_tenant_by_all_workers_and_after_a_start(
    tmp_path: Path,
) -> None:
    one, other = SqliteRequestIds(tmp_path), SqliteRequestIds(tmp_path)
    assert not (tmp_path / REQUEST_IDS_FILE).exists()

    assert await one.claim("acme", "order-7")
    assert not await other.claim("acme", "order-7")
    assert await other.claim("shop", "order-7")
    await one.aclose()
    await other.aclose()
    assert not await SqliteRequestIds(tmp_path).claim("acme", "order-7")
    assert stat.S_IMODE((tmp_path / REQUEST_IDS_FILE).stat().st_mode) == 0o600


async def test_old_ids_and_those_beyond_the_bound_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_ids, "UPKEEP_EVERY", 1)
    monkeypatch.setattr(request_ids, "MAX_ROWS", 2)
    now_us = 1_000_000
    ids = SqliteRequestIds(tmp_path, clock_us=lambda: now_us)
    for name in ("a", "b", "c"):
        assert await ids.claim("acme", name)

    assert not await ids.claim("acme", "c")
    assert await ids.claim("acme", "a")
    now_us += (request_ids.KEPT_S + 1) * 1_000_000
    assert await ids.claim("acme", "new")
    assert await ids.claim("acme", "c")
    await ids.aclose()


async def test_a_file_that_somebody_else_holds_is_a_backend_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_ids, "BUSY_MS", 1)
    ids = SqliteRequestIds(tmp_path)
    await ids.claim("acme", "first")
    holder = apsw.Connection(str(tmp_path / REQUEST_IDS_FILE))
    holder.execute("BEGIN IMMEDIATE")

    with pytest.raises(BackendError):
        await ids.claim("acme", "second")

    holder.execute("ROLLBACK")
    holder.close()
    assert await ids.claim("acme", "second")
    await ids.aclose()
