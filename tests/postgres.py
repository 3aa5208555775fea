"""A PostgreSQL of our own: a private cluster in a folder, reached by a socket in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DEBIAN = Path("/usr/lib/postgresql")


def program(name: str) -> str | None:
    """Return the path of a program of PostgreSQL; Debian keeps them out of the PATH."""
    found = sorted(DEBIAN.glob(f"*/bin/{name}"), reverse=True)
    return str(found[0]) if found else shutil.which(name)


def run(folder: Path, *command: str) -> None:
    # It refuses to run as root, which containers often are.
    user = "postgres" if os.getuid() == 0 else None
    done = subprocess.run(
        command, user=user, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[0]}:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of an empty database. Nothing listens on the network."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("not installed: initdb, pg_ctl (PostgreSQL)")
    folder = Path(tempfile.mkdtemp(prefix="llmgate-pg-", dir="/tmp"))  # a socket's path is short
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        cluster = str(folder / "data")
        run(folder, initdb, "-D", cluster, "-U", "postgres", "--auth=trust", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=50"
        run(folder, pg_ctl, "-D", cluster, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run(folder, pg_ctl, "-D", cluster, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
async def postgres(postgres_server: str) -> str:
    """The same, without what the test before left in it."""
    import asyncpg  # type: ignore[import-untyped]  # has no types

    connection = await asyncpg.connect(postgres_server)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()
    return postgres_server
