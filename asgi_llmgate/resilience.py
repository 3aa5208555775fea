"""Make what keeps calls alive from settings: aliases, their pools, breakers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from asgi_llmgate.core.balance import Strategy
from asgi_llmgate.core.breaker import BreakerPolicy, State
from asgi_llmgate.core.fallback import DEFAULT_MOVES, MoveOn
from asgi_llmgate.core.health import CALLERS, WHOLE_KEY, Health, Place
from asgi_llmgate.core.retry import RetryPolicy
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.middleware.fallback import Pool, PoolTarget
from asgi_llmgate.settings import RetrySettings, Settings

__all__ = ["aliases_of", "health_of", "moves_of", "pools_of", "retry_of"]

logger = logging.getLogger("asgi_llmgate")

_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
_SWITCHES = ("connect", "timeout", "context_window", "content_filter", "stream")


def aliases_of(settings: Settings) -> dict[str, str]:
    """Return the model names of the operator's own, to the lists they stand for.

    Raises:
        ConfigurationError: a target is none.
    """
    aliases = {}
    for name, model in settings.models.items():
        targets = [target.target for target in model.targets]
        for target in targets:
            if not target.strip() or "," in target or target in settings.models:
                raise ConfigurationError(
                    f"models.{name} has a target that is none: {target!r}.\n"
                    'HINT: write "provider/model", one model for each target; aliases do not nest.'
                )
        if len(set(targets)) < len(targets):
            raise ConfigurationError(
                f"models.{name} has a target twice.\nHINT: give it more `weight` instead."
            )
        aliases[name] = ",".join(targets)
    return aliases


def pools_of(settings: Settings) -> dict[str, Pool]:
    return {
        name: Pool(
            tuple(
                PoolTarget(target.weight, target.context, target.tools, target.images)
                for target in model.targets
            ),
            Strategy(model.strategy),
            None if model.on is None else moves_of(model.on, f"models.{name}.on"),
            None if model.retry is None else retry_of(model.retry),
        )
        for name, model in settings.models.items()
    }


def moves_of(words: Iterable[str] | None, where: str) -> MoveOn:
    """Read what is reason enough to go on: names, statuses, ranges.

    Raises:
        ConfigurationError: a word is none of these; the message names `where`.
    """
    if words is None:
        return DEFAULT_MOVES
    switches: dict[str, Any] = dict.fromkeys(_SWITCHES, False)
    statuses: set[int] = set()
    for word in words:
        if word in switches:
            switches[word] = True
        elif match := _RANGE.fullmatch(word):
            low = int(match[1])
            statuses.update(range(low, int(match[2] or low) + 1))
        else:
            raise ConfigurationError(
                f"{where}: {word!r} is no reason to go on.\n"
                f"HINT: use {', '.join(_SWITCHES)}, a status, or a range like 500-599."
            )
    return MoveOn(**switches, statuses=frozenset(statuses))


def retry_of(settings: RetrySettings) -> RetryPolicy:
    return RetryPolicy(settings.attempts, settings.factor, settings.min, settings.max)


def health_of(
    settings: Settings, *, is_shared: bool, count: Callable[..., None] | None = None
) -> Health:
    """Return what will be known about upstreams; every change of it is logged and counted."""
    given = settings.breaker
    policy = BreakerPolicy(
        failures=given.failures,
        share=given.share,
        least_calls=given.least_calls,
        window_s=given.window,
        slow_s=given.slow,
        open_s=given.open,
        max_open_s=given.max_open,
    )

    def tell(place: Place, state: State, reason: str) -> None:
        provider, key, model = place
        if model == WHOLE_KEY:
            if state is State.OPEN:
                logger.error(
                    "%s refused the key %r (%s). It is used only where there is no other; renew it",
                    provider,
                    key,
                    reason,
                )
            elif state is State.CLOSED:
                logger.warning("%s takes the key %r again", provider, key)
        else:
            shown = "a caller's" if key.startswith(CALLERS) else repr(key)
            level = logging.WARNING if state is State.OPEN else logging.INFO
            logger.log(
                level,
                "The breaker of %s, model %r, key %s is %s%s",
                provider,
                model,
                shown,
                state.value.replace("_", "-"),
                f": {reason}" if reason else "",
            )
        if count is not None:
            count("llmgate_breaker_changes_total", provider=provider, state=state.value)

    return Health(policy, is_shared=is_shared, on_change=tell)
