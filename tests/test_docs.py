"""What the documentation shows is run: code, settings, commands, links."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from fastapi import FastAPI
from google import genai
from pydantic import BaseModel
from starlette.applications import Starlette
from typer.testing import CliRunner

from asgi_llmgate import LLMGate
from asgi_llmgate.assemble import registry_of
from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.cli import cli
from asgi_llmgate.middleware.logging import LoggingMiddleware
from asgi_llmgate.settings import Settings, load_settings
from tests.conftest import ROOT
from tests.provider import Provider
from tests.servers import Gateway

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLE_URL = "http://localhost:8790"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def closing() -> Iterator[dict[str, Any]]:
    """The names a reader has before the first block of a page; clients are closed at the end."""
    names: dict[str, Any] = {
        "Anthropic": anthropic.Anthropic,
        "JournalLogSink": JournalLogSink,
        "LLMGate": LLMGate,
        "LoggingMiddleware": LoggingMiddleware,
        "OpenAI": openai.OpenAI,
        "Path": Path,
        "app": FastAPI(),
        "genai": genai,
        "get_asgi_application": Starlette,
    }
    yield names
    for value in names.values():
        if isinstance(value, openai.OpenAI | anthropic.Anthropic | genai.Client):
            value.close()


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_blocks_run_from_top_to_bottom(
    page: Path,
    closing: dict[str, Any],
    gateway: Gateway,
    provider: Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against a real gateway, where a block makes a call."""
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(variable, "sk-example")
    for number, block in enumerate(blocks(page, "python"), 1):
        source = block.replace(EXAMPLE_URL, gateway.url)
        exec(compile(source, f"{name_of(page)}, block {number}", "exec"), closing)


@pytest.mark.parametrize("page", pages_with("toml"), ids=name_of)
def test_settings_shown_are_settings(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, block in enumerate(blocks(page, "toml"), 1):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        monkeypatch.setenv("LLMGATE_CONFIG", str(file))
        settings = load_settings()
        registry_of(settings)

        assert set(tomllib.loads(block)) <= settings.model_fields_set


def is_setting(name: str) -> bool:
    """Tell whether a variable such as `LLMGATE_LOG__BODIES` is read."""
    model: Any = Settings
    for part in name.removeprefix("LLMGATE_").lower().split("__"):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return True  # The key of a mapping: any name will do, and what is below it.
        if part not in model.model_fields:
            return False
        model = model.model_fields[part].annotation
    return True


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variables_named_are_read(page: Path) -> None:
    names = set(re.findall(r"\bLLMGATE_[A-Z0-9_]*[A-Z0-9]", page.read_text()))
    for_tests = {name for name in names if name.startswith("LLMGATE_TEST_")}

    assert {name for name in names - for_tests if not is_setting(name)} == set()


def commands(page: Path) -> set[str]:
    """Return every `llmgate …` that a page shows in a block or in backticks."""
    text = page.read_text().replace("\\\n", " ")
    shown = re.findall(r"^(?: {4}|\$ |.*&& ?\S*/)?(llmgate [a-z-][^\n]*)$", text, re.MULTILINE)
    shown += re.findall(r"`(llmgate [a-z-][^`]*)`", text)
    # Two spaces or more begin a remark beside the command; `|` and `…` stand for the rest.
    return {re.split(r" {2,}|[|…#]", command)[0].strip() for command in shown}


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_shown_exist_with_their_options(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(command)[1:]
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        names = []
        for word in words:
            if not re.fullmatch(r"[a-z-]+", word) or word.startswith("-"):
                break
            names.append(word)
        if options == ["--version"]:
            names = []
        arguments = 0
        while names and CliRunner().invoke(cli, [*names, "--help"]).exit_code:
            names.pop()
            arguments += 1
        shown = CliRunner().invoke(cli, [*names, "--help"], env={"COLUMNS": "200"})
        is_group = "COMMAND [ARGS]" in shown.output

        assert shown.exit_code == 0, command
        assert not (is_group and arguments), command  # A command that does not exist.
        assert [option for option in options if option not in shown.output] == [], command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]

    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["install", "check", "test", "coverage"])
def test_scripts_can_be_run(name: str) -> None:
    script = ROOT / "scripts" / name
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)

    assert os.access(script, os.X_OK)
    assert (done.returncode, done.stderr) == (0, "")
