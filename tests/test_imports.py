"""The import rules of docs/architecture.md, held by a test instead of by memory."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "asgi_llmgate"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of ours, by the first name below `asgi_llmgate`.
LEVEL_0 = {"_version", "types", "errors", "core"}
LEVEL_1 = LEVEL_0 | {"_asgi", "protocols", "providers"}
LEVEL_2 = LEVEL_1 | {"context"}
MAY_IMPORT = {
    "_version": set(),
    "types": set(),
    "errors": set(),
    "core": {"core", "types", "errors"},
    "providers": {"providers", "core", "types", "errors"},
    "_asgi": LEVEL_1,
    "protocols": LEVEL_0,
    "context": LEVEL_1,
    # Siblings never meet.
    "middleware": LEVEL_2 | {"middleware"},
    "backends": LEVEL_2 | {"backends"},
    "upstream": LEVEL_2 | {"upstream"},
    "dispatch": LEVEL_2 | {"dispatch"},
    "pricing": LEVEL_2,
    "client": LEVEL_2 | {"client"},
}
PURE = {"core", "providers"}
NOT_PURE = {
    "anyio",
    "asyncio",
    "httpx",
    "httpx2",
    "redis",
    "redisvl",
    "socket",
    "starlette",
    "time",
}

# What comes with extras, and must not be needed to import the middlewares.
OPTIONAL = {
    "aiosqlite",
    "alembic",
    "anthropic",
    "apsw",
    "botocore",
    "asyncpg",
    "cryptography",
    "django",
    "fastapi",
    "genai_prices",
    "google",
    "greenlet",
    "httptools",
    "numpy",
    "onnxruntime",
    "openai",
    "opentelemetry",
    "pydantic_settings",
    "pyreqwest",
    "redis",
    "redisvl",
    "sqlalchemy",
    "tokenizers",
    "typer",
    "uvicorn",
    "uvloop",
}
MAX_IMPORT_S = 0.3


def part(path: Path) -> str:
    """Return the first name below the package: `core`, `types`, `middleware` …"""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> set[str]:
    """Return every module imported at run time, also inside functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if is_type_checking(node):  # type: ignore[arg-type]  # walk yields any node
            assert isinstance(node, ast.If)
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_is_below_it(path: Path) -> None:
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("asgi_llmgate.")}

    assert part(path) not in MAY_IMPORT or ours <= MAY_IMPORT[part(path)]


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if part(path) in PURE],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_decisions_and_wire_formats_do_no_io_and_read_no_clock(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & NOT_PURE


def test_only_the_settings_read_the_environment() -> None:
    allowed = {"settings", "assemble", "gateway", "api", "cli", "cli_doctor", "cli_logs"}
    readers = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if re.search(r"os\.environ(?!/)|os\.getenv", path.read_text())
    }

    assert {name for name in readers if Path(name).with_suffix("").parts[0] not in allowed} == set()


def run_python(code: str) -> str:
    """Run `code` in a fresh interpreter, without the settings of this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMGATE_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "modules",
    [
        "asgi_llmgate.middleware",
        "asgi_llmgate.backends.memory, asgi_llmgate.backends.jsonl",
        "asgi_llmgate.backends.cache_memory, asgi_llmgate.backends.limits_memory",
    ],
)
def test_middlewares_and_what_they_need_are_imported_without_any_extra(modules: str) -> None:
    code = f"import sys, json, {modules}; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(run_python(code))}

    assert loaded & OPTIONAL == set()


def test_a_gateway_without_its_extra_says_which_it_is() -> None:
    code = """
import sys
sys.modules["apsw"] = None
try:
    from asgi_llmgate import LLMGate
except ImportError as error:
    print(error)
"""
    told = run_python(code)

    assert "asgi_llmgate.LLMGate needs apsw" in told
    assert "asgi-llmgate[standalone]" in told


@pytest.mark.parametrize("module", ["asgi_llmgate", "asgi_llmgate.middleware"])
def test_importing_opens_no_socket_no_file_for_writing_and_no_thread(module: str) -> None:
    code = f"""
import sys
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "sqlite3.")):
        raise SystemExit(f"importing did {{event}} {{arguments}}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if not str(arguments[0]).endswith((".pyc", "null")) and ".pyc." not in str(arguments[0]):
            raise SystemExit(f"importing wrote {{arguments}}")
sys.addaudithook(watch)
import {module}, threading
print(threading.active_count())
"""
    assert run_python(code).strip() == "1"


def test_importing_the_package_loads_nothing_of_others() -> None:
    code = (
        "import sys; before = set(sys.modules); import asgi_llmgate; import json;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = {name.split(".")[0] for name in json.loads(run_python(code))}

    assert loaded - set(sys.stdlib_module_names) == {"asgi_llmgate"}


def test_importing_the_middlewares_takes_less_than_300_ms() -> None:
    """The best of five, in CPU time: what the import costs, not what else the machine does."""
    code = (
        "import time; t = time.process_time(); import asgi_llmgate.middleware;"
        "print(time.process_time() - t)"
    )
    took_s = min(float(run_python(code)) for _ in range(5))

    assert took_s < MAX_IMPORT_S
