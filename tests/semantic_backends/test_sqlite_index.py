"""What is particular to a file that several processes use."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from asgi_llmgate.backends.alias_rows import KEPT_CHANGES
from asgi_llmgate.backends.followed_scopes import SMALL
from asgi_llmgate.backends.vectors_sqlite import VECTORS_FILE, SqliteVectorIndex
from asgi_llmgate.errors import BackendError
from tests.conftest import ROOT
from tests.semantic_backends.making import OTHER, SCOPE, alias, answer, random_vectors, vector


async def ids(index: SqliteVectorIndex, scope: str = SCOPE) -> set[int]:
    return {int(one.alias.id, 16) for one in await index.nearest(scope, vector(1), limit=10**6)}


async def until(look: Callable[[], Awaitable[bool]], within_s: float = 20) -> float:
    """Look again and again; return how long it took. The promise is 1 s, of a machine at rest."""
    began = time.monotonic()
    while not await look():
        assert time.monotonic() - began < within_s
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def test_what_was_added_outlives_the_process(tmp_path: Path) -> None:
    one = SqliteVectorIndex(tmp_path)
    added = alias(1, question="half a pair: \ud800")
    await one.add(SCOPE, added, vector(0.3, 0.4))
    await one.aclose()
    two = SqliteVectorIndex(tmp_path)

    [found] = await two.nearest(SCOPE, vector(0.3, 0.4), limit=9)
    assert found.alias == added
    assert found.distance == pytest.approx(0, abs=1e-3)
    await two.aclose()


@pytest.mark.parametrize("number", [1, SMALL, 3 * SMALL], ids=["one", "small", "large"])
async def test_two_follow_each_other(tmp_path: Path, number: int) -> None:
    one, two = SqliteVectorIndex(tmp_path), SqliteVectorIndex(tmp_path)
    vectors = random_vectors(number + 1)
    for count in range(number):
        await one.add(SCOPE, alias(count, answer=answer(count % 3)), vectors[count])
    all_of_one = set(range(number))
    await until(lambda: _equal(ids(two), all_of_one))
    await two.add(SCOPE, alias(number), vectors[number])
    await until(lambda: _equal(ids(one), all_of_one | {number}))
    await one.remove(SCOPE, [alias(0).id])
    await until(lambda: _equal(ids(two), (all_of_one | {number}) - {0}))
    await two.remove_answer(SCOPE, answer(number))
    await until(lambda: _equal(ids(one), all_of_one - {0}))
    await one.purge()
    await until(lambda: _equal(ids(two), set()))

    assert (await two.size()).aliases == 0
    await one.aclose()
    await two.aclose()


async def _equal(got: Awaitable[set[int]], expected: set[int]) -> bool:
    return await got == expected


async def test_more_changes_than_are_read_one_by_one(tmp_path: Path) -> None:
    one, two = SqliteVectorIndex(tmp_path), SqliteVectorIndex(tmp_path)
    await one.add(SCOPE, alias(0), vector(1))
    await until(lambda: _equal(ids(two), {0}))
    for number in range(1, 400):
        await one.add(SCOPE, alias(number), vector(1, number))
    await until(lambda: _equal(ids(two), set(range(400))))

    await one.aclose()
    await two.aclose()


async def test_who_slept_for_longer_than_changes_are_kept_reads_all_again(tmp_path: Path) -> None:
    one, two = SqliteVectorIndex(tmp_path), SqliteVectorIndex(tmp_path)
    await one.add(SCOPE, alias(0), vector(1))
    await until(lambda: _equal(ids(two), {0}))
    await one.remove(SCOPE, [alias(0).id])
    await one.add(SCOPE, alias(1), vector(1))
    await one.size()
    other = apsw.Connection(str(tmp_path / VECTORS_FILE))
    other.execute("DELETE FROM changes")
    other.execute("INSERT INTO changes VALUES(?, 'x', ?, '')", (KEPT_CHANGES * 2, OTHER))
    other.close()

    await until(lambda: _equal(ids(two), {1}))
    await one.aclose()
    await two.aclose()


async def test_what_is_removed_while_a_large_scope_is_read_stays_removed(tmp_path: Path) -> None:
    one = SqliteVectorIndex(tmp_path)
    for number in range(5 * SMALL):
        await one.add(SCOPE, alias(number), vector(1, number))
    await one.aclose()
    two = SqliteVectorIndex(tmp_path)
    looking = asyncio.create_task(ids(two))
    adding = asyncio.create_task(two.add(SCOPE, alias(9999), vector(0, 0, 1)))
    await two.remove(SCOPE, [alias(number).id for number in range(SMALL)])
    await asyncio.gather(looking, adding)

    assert await ids(two) == {*range(SMALL, 5 * SMALL), 9999}
    await two.aclose()


async def test_who_leaves_does_not_take_a_scope_from_the_others(tmp_path: Path) -> None:
    one = SqliteVectorIndex(tmp_path)
    for number in range(5 * SMALL):
        await one.add(SCOPE, alias(number), vector(1, number))
    await one.aclose()
    two = SqliteVectorIndex(tmp_path)
    await two.size()
    tasks = [asyncio.create_task(ids(two)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()

    assert await tasks[1] == await tasks[2] == set(range(5 * SMALL))
    await two.aclose()


async def test_memory_may_hold_less_than_the_file(tmp_path: Path) -> None:
    index = SqliteVectorIndex(tmp_path, max_bytes=30_000)
    for number in range(100):
        await index.add(f"{number:064x}", alias(number), vector(1, number))
        await index.size()

    assert index._matrices.bytes <= 30_000
    for number in range(100):
        assert await ids(index, f"{number:064x}") == {number}
    await index.aclose()


async def test_the_file_is_bounded_and_what_was_asked_for_stays(tmp_path: Path) -> None:
    index = SqliteVectorIndex(tmp_path, max_aliases=50)
    index._upkeep_at_s = float("inf")  # not before all are there
    for number in range(100):
        await index.add(f"{number // 10:064x}", alias(number), vector(1, number))
    await index.size()
    await ids(index, f"{0:064x}")
    index._file.write_blocking(index._tidy)

    assert (await index.size())[:2] == (50, 5)
    assert await ids(index, f"{0:064x}") == set(range(10))
    assert await ids(index, f"{1:064x}") == set()
    await index.aclose()


async def test_a_scope_is_bounded_in_the_file_too(tmp_path: Path) -> None:
    index = SqliteVectorIndex(tmp_path, max_per_scope=5)
    for number in range(20):
        await index.add(SCOPE, alias(number), vector(1, number))

    assert len(await ids(index)) == 5
    assert (await index.size()).aliases == 5
    await index.aclose()


async def test_a_file_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    index = SqliteVectorIndex(tmp_path)
    await index.add(SCOPE, alias(1), vector(1))
    await index.size()
    for path in tmp_path.iterdir():
        path.unlink()

    assert await ids(index) == set()
    await index.add(SCOPE, alias(2), vector(1))
    assert await ids(index) == {2}
    assert (await index.size()).aliases == 1
    await index.aclose()


async def test_a_damaged_file_is_a_failing_index(tmp_path: Path) -> None:
    (tmp_path / VECTORS_FILE).write_bytes(b"no database, but long enough to be taken for one" * 99)
    index = SqliteVectorIndex(tmp_path)

    with pytest.raises(BackendError):
        await index.nearest(SCOPE, vector(1), limit=1)
    with pytest.raises(BackendError):
        await index.add(SCOPE, alias(1), vector(1))
    with pytest.raises(BackendError):
        await index.size()
    await index.aclose()


async def test_a_locked_file_delays_no_lookup(tmp_path: Path) -> None:
    index = SqliteVectorIndex(tmp_path)
    await index.add(SCOPE, alias(1), vector(1))
    await index.size()
    other = apsw.Connection(str(tmp_path / VECTORS_FILE))
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    for number in range(2, 22):
        await index.add(SCOPE, alias(number), vector(1, number))
        assert await ids(index, OTHER) == set()
    assert len(await ids(index)) == 21

    assert time.monotonic() - began < 5
    other.execute("ROLLBACK")
    other.close()
    await index.aclose()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
async def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    index = SqliteVectorIndex(tmp_path / "data")
    await index.add(SCOPE, alias(1), vector(1))
    await index.size()

    for path in (tmp_path / "data").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await index.aclose()


ANOTHER = """
import asyncio, pathlib, sys
from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex
from tests.semantic_backends.making import SCOPE, alias, vector

async def main():
    index = SqliteVectorIndex(pathlib.Path(sys.argv[1]))
    while not await index.nearest(SCOPE, vector(1), limit=1):
        await asyncio.sleep(0.005)
    await index.add(SCOPE, alias(2), vector(0, 1))
    await index.remove(SCOPE, [alias(1).id])
    await index.aclose()

asyncio.run(asyncio.wait_for(main(), 60))
"""


async def test_another_process_sees_and_is_seen(tmp_path: Path) -> None:
    index = SqliteVectorIndex(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", ANOTHER, str(tmp_path)], cwd=ROOT)
    await index.add(SCOPE, alias(1), vector(1))
    await until(lambda: _equal(ids(index), {2}), within_s=60)

    assert child.wait(60) == 0
    await index.aclose()


FORKS = """
import asyncio, os, pathlib, sys
from asgi_llmgate.backends.vectors_sqlite import SqliteVectorIndex
from tests.semantic_backends.making import SCOPE, alias, vector

index = SqliteVectorIndex(pathlib.Path(sys.argv[1]))

async def use(number):
    await index.add(SCOPE, alias(number), vector(1, number))
    return {int(one.alias.id, 16) for one in await index.nearest(SCOPE, vector(1), limit=99)}

async def close():
    await index.aclose()

assert asyncio.run(use(1)) == {1}
pid = os.fork()
if not pid:
    found = asyncio.run(asyncio.wait_for(use(2), 20))
    asyncio.run(close())
    os._exit(0 if 2 in found else 1)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
asyncio.run(use(3))
size = asyncio.run(index.size())
asyncio.run(close())
print(code, size.aliases)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_forked_child_has_its_own_connections(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["0", "3"]
