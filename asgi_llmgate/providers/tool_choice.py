"""Which tools a model may, must or must not use, read from the inner form; and JSON by tool.

A model that cannot be held to a JSON schema is given the schema as a tool and made to call it;
its arguments are the answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asgi_llmgate.providers.inner import Losses

__all__ = ["JSON_HINT", "Choice", "json_tool", "possible", "read_choice", "with_json_tool"]

JSON_HINT = "Answer with one valid JSON object and nothing else."


@dataclass(frozen=True, slots=True)
class Choice:
    """How tools are chosen. `names`: the one named, or the set allowed (empty: all)."""

    mode: Literal["auto", "required", "none", "named"]
    names: tuple[str, ...] = ()

    def allows(self, name: str) -> bool:
        """Tell whether `name` is to be sent, for formats that have no allowed set."""
        return self.mode == "named" or not self.names or name in self.names


def read_choice(rest: dict[str, Any], losses: Losses) -> Choice:
    """Take `tool_choice` out of `rest`."""
    choice = rest.pop("tool_choice", None)
    if choice in ("none", "required", "auto"):
        return Choice(choice)
    if not isinstance(choice, Mapping):
        return Choice("required" if choice == "any" else "auto")
    match choice.get("type"):
        case "function" if isinstance(choice.get("function"), Mapping):
            return Choice("named", (choice["function"]["name"],))
        case "allowed_tools":
            allowed = choice.get("allowed_tools") or {}
            names = tuple(
                tool["function"]["name"]
                for tool in allowed.get("tools") or ()
                if "function" in tool
            )
            return Choice("required" if allowed.get("mode") == "required" else "auto", names)
        case kind:
            losses.drop("tool_choice", f"`{kind}` is known to one provider only")
            return Choice("auto")


def possible(choice: Choice, tools: Collection[str], losses: Losses) -> Choice:
    """Return `choice`, or a free one where the tools it is about were left out.

    Args:
        tools: Names of those that are sent, as the caller wrote them.
    """
    match choice.mode:
        case "named":
            is_possible = choice.names[0] in tools
        case "required":
            is_possible = bool(tools)
        case _:
            return choice
    if not is_possible:
        losses.drop("tool_choice", "no tool is left to choose")
        return Choice("auto")
    return choice


def with_json_tool(choice: Choice, tool: str, *, is_alone: bool) -> Choice:
    """Return how `tool`, which stands for the answer, is chosen among the caller's own tools."""
    if is_alone or choice.mode == "none":
        return Choice("named", (tool,))
    return Choice("required")


def json_tool(wanted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (name, function) of the tool that stands for `response_format.json_schema`."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(wanted.get("name") or "answer"))[:48]
    schema = wanted.get("schema") or {"type": "object"}
    if schema.get("type") != "object":
        schema = {"type": "object", **schema}
    hint = "Give the final answer by calling this tool. Its arguments are the whole answer."
    described = wanted.get("description")
    return f"json_{name}", {
        "name": f"json_{name}",
        "description": f"{described} {hint}" if described else hint,
        "parameters": schema,
    }
