from __future__ import annotations

from pathlib import Path

import pytest

from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.keyfile import admin_token, secret_key

HEX = bytes(range(32)).hex()


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    first = secret_key(None, folder, shared=False)

    assert secret_key(None, folder, shared=False) == first
    assert len(first) == 32
    assert (folder / "secret.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["secret.key"]


@pytest.mark.parametrize(
    "given",
    [HEX, HEX.upper(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", f" {HEX}\n"],
    ids=["hex", "capital hex", "base64", "with blanks"],
)
def test_a_given_secret_is_read_in_every_usual_spelling(tmp_path: Path, given: str) -> None:
    assert secret_key(given, tmp_path, shared=True) == bytes(range(32))


@pytest.mark.parametrize("given", ["", "short", "00" * 32, "no hex, no base64!" * 4])
def test_a_weak_secret_stops_the_start(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigurationError, match="HINT") as caught:
        secret_key(given, tmp_path, shared=False)

    assert not given or given not in str(caught.value)


def test_a_shared_store_needs_a_given_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="HINT"):
        secret_key(None, tmp_path, shared=True)


def test_an_admin_token_is_kept_or_given(tmp_path: Path) -> None:
    made = admin_token(None, tmp_path)

    assert admin_token(None, tmp_path) == made
    assert admin_token("given", tmp_path) == "given"
    assert len(made) >= 40
