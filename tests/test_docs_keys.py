"""docs/keys.md is true: its commands run, its routes are the ones there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asgi_llmgate.api.keys import key_routes
from asgi_llmgate.cli import cli
from asgi_llmgate.control import Control
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "keys.md").read_text()
EXAMPLE = "4f9k2m7q1z"
KEY = "sk-helicone-4fj3k2l-9dk2j1x-a8s7d6f-p0o9i8u"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("llmgate ")]


def test_the_commands_of_the_page_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are taken from what ran before, since they are different every time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path / "data"))
    ids: dict[str, str] = {}
    for command in commands():
        _, *arguments = shlex.split(command.partition(" < ")[0])
        arguments = [ids.get(argument, argument) for argument in arguments]
        done = CliRunner().invoke(cli, arguments, input=KEY + "\n")

        assert done.exit_code == 0, f"{command}\n{done.output}"
        if arguments[:2] == ["keys", "create"]:
            ids.setdefault(EXAMPLE, done.stdout.split("_")[1])
        if found := re.search(r"pk_\w+", done.stdout):
            ids.setdefault(f"pk_{EXAMPLE}", found[0])
    assert len(commands()) == 11


def test_the_routes_of_the_page_are_those_of_the_table(tmp_path: Path) -> None:
    control = Control(url=None, folder=tmp_path, secrets=lambda: [bytes(32)])
    table = {(route.method, route.path) for route in key_routes(control, list)}
    section = PAGE.split("## The admin API")[1].split("\n## ")[0]
    named: set[tuple[str, str]] = set()
    for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        for part in row.split(" · "):
            words = part.replace("`", "").split()
            named |= {(method, words[-1]) for method in words[:-1]}

    assert named == table
