from __future__ import annotations

import socket
from pathlib import Path

import pytest

from asgi_llmgate.cli import prepare
from asgi_llmgate.config_check import check_settings, unknown_variables
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.settings import load_settings

SETTINGS = """
[providers.openai]
base_url = "ftp://files.example.com"

[providers.nobody]
api_key = "sk-x"

[prices."house/llama"]
input = "cheap"
output = "0.40"

[models.fast]
targets = ["fast,slow"]

[limits]
time_zone = "Middle/Earth"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def test_every_mistake_of_every_part_is_named_at_once(folder: Path) -> None:
    (folder / "llmgate.toml").write_text(SETTINGS)
    settings = load_settings(secret_key="short", keys="a:same,b:same")
    with pytest.raises(ConfigurationError) as raised:
        check_settings(settings)

    told = str(raised.value)
    for name in ("openai", "nobody", "cheap", "models.fast", "Middle/Earth", "SECRET_KEY", "'a'"):
        assert name in told
    assert "same" not in told.replace("are the same", "")
    assert told.count("HINT:") == 7
    assert not (folder / "data").exists()


def test_good_settings_are_fine(folder: Path) -> None:
    check_settings(load_settings())

    assert not (folder / "data").exists()


def test_one_row_under_two_names_is_a_mistake() -> None:
    row = {"base_url": "https://eu.example.com/v1"}
    with pytest.raises(ConfigurationError, match="set twice"):
        check_settings(load_settings(providers={"google": row, "gemini": row}))


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("LLMGATE_AUTH__MOD", "did you mean mode?"),
        ("LLMGATE_PROVIDERS__OPENAI__API_KY", "did you mean api_key?"),
        ("LLMGATE_UPSTREAM__TIMEOUTS__FIRSTBYTE", "did you mean first_byte?"),
        ("LLMGATE_LOG__NOTHING_LIKE_IT", "there is no such setting"),
    ],
)
def test_a_misspelled_setting_is_told_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, near: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigurationError) as raised:
        load_settings()

    assert f"({variable}): there is no such setting" in str(raised.value)
    assert near in str(raised.value)


def test_a_misspelled_variable_is_noticed() -> None:
    environment = {"LLMGATE_KES": "1", "LLMGATE_KEYS": "", "LLMGATE_XYZ__A": "1", "PATH": "/"}

    assert unknown_variables(environment) == [
        ("LLMGATE_KES", "LLMGATE_KEYS"),
        ("LLMGATE_XYZ__A", None),
    ]


def test_a_port_that_is_taken_is_told_before_anything_else() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigurationError, match="--port"),
    ):
        prepare("127.0.0.1", taken.getsockname()[1])
