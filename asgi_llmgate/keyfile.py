"""Secrets that are made once and kept in the data folder: the secret key, the admin token."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from asgi_llmgate.errors import ConfigurationError

__all__ = ["admin_token", "check_secret_key", "private_folder", "secret_key", "secret_keys"]

MIN_SECRET_BYTES = 32


def private_folder(folder: Path) -> Path:
    """Make `folder`, readable by its owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def secret_key(given: str | None, folder: Path, *, shared: bool) -> bytes:
    """Return the key from which all others derive: the first of `secret_keys`."""
    return secret_keys(given, folder, shared=shared)[0]


def secret_keys(given: str | None, folder: Path, *, shared: bool) -> tuple[bytes, ...]:
    """Return the secret key in force, then others that still open what they sealed.

    Args:
        given: `LLMGATE_SECRET_KEY`: at least 32 bytes, as hex or base64, or several joined by
            commas; None makes one, once.
        folder: Where the one made is kept: one per line, the first in force.
        shared: Several machines share a store, so a key made by one of them will not do.

    Raises:
        ConfigurationError: it is too short, unreadable, or missing where it must be given.
    """
    if (keys := check_secret_key(given, shared=shared)) is not None:
        return keys
    kept = _made_once(folder / "secret.key", lambda: secrets.token_hex(32))
    return tuple(_decoded(line) for line in kept.splitlines())


def check_secret_key(given: str | None, *, shared: bool) -> tuple[bytes, ...] | None:
    """Return the keys of `LLMGATE_SECRET_KEY`; None if one may be made.

    Raises:
        ConfigurationError: as `secret_keys`.
    """
    if given is not None:
        return tuple(_decoded(part) for part in given.split(","))
    if shared:
        raise ConfigurationError(
            "LLMGATE_SECRET_KEY is needed where a Redis or a database is shared.\n"
            "HINT: make one with `openssl rand -hex 32` and give it to every machine."
        )
    return None


def admin_token(given: str | None, folder: Path) -> str:
    """Return the token of the admin plane: the one given, else one made once."""
    if given:
        return given
    return _made_once(folder / "admin_token", lambda: secrets.token_urlsafe(32))


def _decoded(text: str) -> bytes:
    text = text.strip()
    key = b""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        try:
            standard = text.rstrip("=").replace("-", "+").replace("_", "/")
            key = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
        except (binascii.Error, ValueError):
            pass
    if len(key) < MIN_SECRET_BYTES or len(set(key)) < MIN_SECRET_BYTES // 4:
        raise ConfigurationError(
            f"LLMGATE_SECRET_KEY must be at least {MIN_SECRET_BYTES} random bytes, as hex or "
            "base64.\nHINT: make one with `openssl rand -hex 32`."
        )
    return key


def _made_once(path: Path, make: Callable[[], str]) -> str:
    private_folder(path.parent)
    made = make()
    # Written aside and linked into place, so that a second worker never reads half a file.
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(made)
        try:
            os.link(aside, path)
        except FileExistsError:
            return path.read_text().strip()
    finally:
        aside.unlink()
    return made
