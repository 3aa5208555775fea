from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asgi_llmgate.cli import cli
from asgi_llmgate.core.virtual_keys import kid_in

HELICONE = "sk-helicone-4fj3k2l-9dk2j1x-a8s7d6f-p0o9i8u"
PROVIDER_KEY = "sk-canary-0123456789abcdef"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `llmgate` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path / "data"))

    def invoke(*args: str, text: str = "") -> Result:
        return CliRunner().invoke(cli, args, input=text)

    return invoke


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_is_printed_alone_so_that_a_script_can_keep_it(run: Run) -> None:
    result = run("keys", "create", "laptop", "--model", "gpt-4o*", "--tag", "team=a")
    (key,) = answer(run("keys", "list", "--json"))["keys"]

    assert kid_in(result.stdout.strip()) == key["kid"]
    assert "Shown this once" in result.stderr
    assert (key["name"], key["tenant"]) == ("laptop", "laptop")
    assert (key["models"], key["tags"]) == (["gpt-4o*"], {"team": "a"})


def test_every_option_arrives(run: Run) -> None:
    parent = answer(run("keys", "create", "team", "--scope", "call", "--scope", "read", "--json"))
    kid = parent["key"]["kid"]
    child = answer(
        run(
            *("keys", "create", "ann", "--parent", kid, "--user", "ann@example.com", "--json"),
            *("--provider", "OpenAI", "--route", "/v1/chat/*", "--expires", "2099-01-31"),
            *("--rate", "100;w=60", "--rate", "9000;w=60;u=token"),
        )
    )["key"]

    assert (child["parent"], child["tenant"], child["user_id"]) == (kid, "team", "ann@example.com")
    assert (child["providers"], child["routes"]) == (["openai"], ["/v1/chat/*"])
    assert child["rates"] == "100;w=60,9000;w=60;u=token"
    assert child["expires_at"] == "2099-01-31T00:00:00Z"


def test_lists_show_no_secret_and_are_one_line_per_key(run: Run) -> None:
    token = run("keys", "create", "laptop").stdout.strip()
    run("keys", "create", "Ann's key", "--tenant", "acme", "--user", "ann", "--expires", "30d")
    listed = run("keys", "list")

    assert len(listed.stdout.splitlines()) == 2
    assert token not in listed.stdout
    assert "acme/ann" in listed.stdout
    assert len(run("keys", "list", "--tenant", "acme").stdout.splitlines()) == 1


def test_a_key_is_rotated_and_revoked(run: Run) -> None:
    made = answer(run("keys", "create", "laptop", "--json"))
    kid = made["key"]["kid"]
    rotated = answer(run("keys", "rotate", kid, "--overlap", "1h", "--json"))
    revoked = answer(run("keys", "revoke", kid, "--json"))

    assert rotated["token"] != made["token"]
    assert rotated["key"]["old_secret_until"] is not None
    assert revoked["state"] == "revoked"
    assert run("keys", "rotate", kid).exit_code == 1
    assert "revoked" in run("keys", "list").stdout


def test_a_key_of_helicone_is_taken_over_from_standard_input(run: Run) -> None:
    key = answer(run("keys", "import", "moved", "--json", text=HELICONE + "\n"))
    again = run("keys", "import", "again", text=HELICONE)

    assert (key["imported"], key["hint"]) == (True, "9i8u")
    assert again.exit_code == 1
    assert "already" in again.stderr


@pytest.mark.parametrize(
    ("args", "text", "why"),
    [
        (("import", "x"), "sk-1234567890", "bits of randomness"),
        (("import", "x"), "", "Nothing was read"),
        (("import", "x"), "sk-cana", "at least 8"),
        (("revoke", "0000000000"), "", "no key with this id"),
        (("create", "x", "--tag", "novalue"), "", "NAME=VALUE"),
        (("create", "x", "--expires", "soon"), "", "30d"),
        (("create", "x", "--expires", "2001-01-01"), "", "past"),
        (("create", ""), "", "at least 1"),
        (("create", "x", "--model", "a*b"), "", "only be at the end"),
        (("rotate", "0000000000", "--overlap", "long"), "", "30d"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_is_one_line_that_says_why(
    run: Run, args: tuple[str, ...], text: str, why: str
) -> None:
    result = run("keys", *args, text=text)

    assert result.exit_code == 1
    assert why in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "sk-cana" not in result.stderr


def test_a_provider_key_is_stored_replaced_and_removed(run: Run) -> None:
    row = answer(run("provider-keys", "add", "openai", "--json", text=PROVIDER_KEY))
    listed = run("provider-keys", "list")
    replaced = answer(run("provider-keys", "replace", row["id"], "--json", text="sk-another-one"))
    removed = run("provider-keys", "remove", row["id"])

    assert row["provider"] == "openai"
    assert PROVIDER_KEY not in listed.stdout
    assert row["id"] in listed.stdout
    assert replaced["id"] == row["id"]
    assert removed.exit_code == 0
    assert answer(run("provider-keys", "list", "--json")) == {"provider_keys": []}
    assert run("provider-keys", "add", "nobody", text=PROVIDER_KEY).exit_code == 1


def test_a_new_secret_key_reseals_what_is_stored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "ab" * 16 + "0123456789abcdef" * 2, "cd" * 16 + "fedcba9876543210" * 2
    monkeypatch.setenv("LLMGATE_SECRET_KEY", old)
    run("keys", "create", "laptop")
    run("provider-keys", "add", "openai", text=PROVIDER_KEY)
    monkeypatch.setenv("LLMGATE_SECRET_KEY", new)
    lost = run("doctor")
    monkeypatch.setenv("LLMGATE_SECRET_KEY", f"{new},{old}")
    waiting = run("doctor")
    resealed = answer(run("provider-keys", "reseal", "--json"))
    rows = answer(run("provider-keys", "list", "--json"))["provider_keys"]

    assert "1 cannot be opened" in lost.stdout
    assert lost.exit_code == 1
    assert "1 virtual and 1 provider keys depend on" in waiting.stdout
    assert resealed == {"resealed": 1}
    assert [row["usable"] for row in rows] == [True]


def test_the_doctor_says_what_there_is(run: Run) -> None:
    before = run("doctor")
    run("keys", "create", "laptop")
    after = run("doctor")

    assert "virtual keys: none yet" in before.stdout
    assert "virtual keys: 1 keys, 0 stored provider keys" in after.stdout


def test_the_secret_file_may_hold_several_lines(run: Run, tmp_path: Path) -> None:
    run("keys", "create", "laptop")
    file = tmp_path / "data" / "secret.key"
    file.write_text("cd" * 16 + "fedcba9876543210" * 2 + "\n" + file.read_text() + "\n")

    assert "1 virtual and 0 provider keys depend on" in run("doctor").stdout
