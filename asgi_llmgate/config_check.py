"""Find every mistake in settings that each part would only find for itself, one at a time."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from asgi_llmgate.assemble import limits_of, prices_of, registry_of
from asgi_llmgate.core.credentials import StaticKeys
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.keyfile import check_secret_key
from asgi_llmgate.resilience import aliases_of, moves_of, pools_of
from asgi_llmgate.settings import Settings

__all__ = ["check_settings", "unknown_variables"]


def check_settings(settings: Settings) -> None:
    """Raise if a gateway with `settings` could not start. Makes no file and opens nothing.

    Raises:
        ConfigurationError: lists every mistake.
    """
    checks: list[Callable[[], Any]] = [
        *(_one_provider(settings, name) for name in settings.providers),
        lambda: aliases_of(settings),
        lambda: pools_of(settings),
        lambda: moves_of(settings.fallback.on, "fallback.on"),
        lambda: prices_of(settings),
        lambda: limits_of(settings),
        lambda: _static_keys(settings),
        lambda: _secret_key(settings),
    ]
    mistakes: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigurationError as error:
            mistakes.append(str(error))
    if not mistakes:
        # What one provider says of another: the same row under two names.
        registry_of(settings.model_copy(update={"models": {}}))
        return
    raise ConfigurationError("\n".join(dict.fromkeys(mistakes)))


def unknown_variables(environment: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Return `LLMGATE_*` variables that no setting reads, each with the one it may stand for."""
    known = {name.upper() for name in Settings.model_fields}
    found: list[tuple[str, str | None]] = []
    for name in sorted(environment):
        first, nested, rest = name.removeprefix("LLMGATE_").partition("__")
        if not name.startswith("LLMGATE_") or first.startswith("TEST_") or first in known:
            continue
        near = difflib.get_close_matches(first, known, n=1)
        found.append((name, f"LLMGATE_{near[0]}{nested}{rest}" if near else None))
    return found


def _one_provider(settings: Settings, name: str) -> Callable[[], Any]:
    alone = {"providers": {name: settings.providers[name]}, "models": {}}
    return lambda: registry_of(settings.model_copy(update=alone))


def _static_keys(settings: Settings) -> None:
    keys = {name: key.get_secret_value() for name, key in settings.keys.items()}
    try:
        StaticKeys(keys, bytes(32))
    except ValueError as error:
        raise ConfigurationError(
            f"LLMGATE_KEYS has a mistake: {error}.\n"
            "HINT: write name:key,name:key; `openssl rand -hex 32` makes a key."
        ) from None


def _secret_key(settings: Settings) -> None:
    shared = settings.redis_url is not None or settings.database_url is not None
    given = settings.secret_key.get_secret_value() if settings.secret_key else None
    check_secret_key(given, shared=shared)
