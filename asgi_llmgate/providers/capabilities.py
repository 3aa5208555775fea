"""What each model can do: `capabilities.toml`, looked up by name."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import Any, Literal, get_args

__all__ = ["Capabilities", "ChatProvider", "Thinking", "capabilities_of", "chat_provider"]

Thinking = Literal["none", "budget", "adaptive", "level", "effort"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model takes. The meaning of each field is beside its default in the table."""

    sampling: bool = True
    one_sampling: bool = False
    forced_tools: bool = True
    thinking: Thinking = "none"
    budget: bool = True
    thinking_off: bool = True
    thinking_display: bool = False
    efforts: tuple[str, ...] = ()
    json_schema: bool = False
    json_schema_with_tools: bool = True
    mid_system: bool = False
    cache_points: bool = False
    cache_hour: bool = False
    max_output: int = 0
    known: bool = True
    """False for a model that no row names, so that nothing is held against it."""


@dataclass(frozen=True, slots=True)
class ChatProvider:
    """What a provider of the chat format takes.

    `max_tokens` and `user` (empty: none) are the names of those fields; `request` and `message`
    are fields it knows beyond what all do, `without` those it lacks, `renames` those it calls
    something else; `tool_id_length` is the length
    that ids of tool calls must have, 0 if they may have any; `developer` tells whether it knows
    that role, and `allowed_tools` that form of `tool_choice`.
    """

    max_tokens: str = "max_tokens"
    user: str = "user"
    request: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict)
    message: frozenset[str] = frozenset()
    tool_id_length: int = 0
    developer: bool = False
    allowed_tools: bool = False


# What stands before the bare name: `us.anthropic.`, `anthropic/`, `publishers/google/models/` …
_PREFIX = re.compile(
    r"^(?:.*/)?(?:(?:us|eu|apac|global|jp|au|ca|us-gov)\.)?"
    r"(?:(?:anthropic|google|amazon|cohere|meta|openai|deepseek|mistral|qwen)\.)?"
)


# Bounded: model names come from callers.
@functools.lru_cache(maxsize=1024)
def capabilities_of(model: str) -> Capabilities:
    """Return what `model` can do, by any of the names providers have for it."""
    name = _PREFIX.sub("", model.lower(), count=1)
    best: dict[str, Any] = {}
    length = -1
    for row in _table()["model"]:
        for prefix in row["names"]:
            if len(prefix) > length and name.startswith(prefix):
                best, length = row, len(prefix)
    return _capabilities(best)


@functools.lru_cache(maxsize=1024)
def chat_provider(provider: str) -> ChatProvider:
    """Return what the chat provider of that id takes; OpenAI's common ground if unknown."""
    rows: dict[str, dict[str, Any]] = _table()["chat"]
    row = rows["default"] | rows.get(provider, {})
    return ChatProvider(
        max_tokens=row["max_tokens"],
        user=row["user"],
        request=frozenset(row["request"]),
        without=frozenset(row["without"]),
        renames=row["renames"],
        message=frozenset(row["message"]),
        tool_id_length=row["tool_id_length"],
        developer=row["developer"],
        allowed_tools=row["allowed_tools"],
    )


def _capabilities(row: dict[str, Any]) -> Capabilities:
    merged = _table()["default"] | {key: row[key] for key in row if key != "names"}
    unknown = merged.keys() - {known.name for known in fields(Capabilities)}
    if unknown or merged["thinking"] not in get_args(Thinking):
        raise ValueError(f"capabilities.toml: {sorted(unknown) or merged['thinking']!r}")
    merged["efforts"] = tuple(merged["efforts"])
    merged["known"] = bool(row)
    return Capabilities(**merged)


@functools.cache
def _table() -> dict[str, Any]:
    text = files("asgi_llmgate.providers").joinpath("capabilities.toml").read_text("utf-8")
    return tomllib.loads(text)
