"""Effort, thinking and sampling as each Claude model takes them.

Three generations: a budget in tokens; adaptive thinking steered by an effort; adaptive only.
Thinking with a budget excludes temperature, top_k and forced tools, must be smaller than
`max_tokens`, and needs the thinking of a tool call that is being answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asgi_llmgate.providers._parts import budget_of, effort_of, nearest_effort
from asgi_llmgate.providers.inner import Losses, TargetInfo

__all__ = ["MIN_BUDGET", "Thinking", "sampling", "thinking", "unsigned_call"]

MIN_BUDGET = 1024


@dataclass(frozen=True, slots=True)
class Thinking:
    """What to send: the `thinking` object, the effort, and whether the model will think."""

    config: dict[str, Any] | None = None
    effort: str | None = None
    thinks: bool = False


def thinking(
    rest: dict[str, Any],
    target: TargetInfo,
    losses: Losses,
    *,
    max_tokens: int,
    unsigned_call: bool,
) -> Thinking:
    """Take reasoning out of `rest` and say it as the model wants it.

    `unsigned_call`: a tool call that is being answered came without signed thinking.
    """
    can = target.capabilities
    effort, budget = effort_of(rest), budget_of(rest)
    asked = rest.pop("thinking", None)
    explicit = rest.pop("reasoning_effort", None)
    named = "thinking" if asked else "reasoning_effort"
    if effort is None:
        return Thinking(thinks=not can.thinking_off)
    if can.known and can.thinking == "none":
        if effort != "none":
            losses.drop(named, "this model does not think")
        return Thinking()
    if effort == "none":
        if not can.thinking_off:
            losses.drop(named, "this model cannot stop thinking")
            return Thinking(thinks=True)
        return Thinking({"type": "disabled"} if can.thinking == "adaptive" else None)
    wanted = None
    if can.efforts and (explicit is not None or can.thinking == "adaptive"):
        wanted = nearest_effort(effort, can.efforts)
    if can.thinking == "adaptive":
        shown = {"display": "summarized"} if can.thinking_display else {}
        return Thinking({"type": "adaptive", **shown}, wanted, thinks=True)
    if unsigned_call:
        # The provider of that call was another one; Claude would refuse the turn.
        return Thinking(effort=wanted)
    fitting = _fit(budget or MIN_BUDGET, max_tokens)
    if not fitting:
        losses.drop(named, "`max_tokens` leaves no room for thinking")
        return Thinking(effort=wanted)
    return Thinking({"type": "enabled", "budget_tokens": fitting}, wanted, thinks=True)


def sampling(
    rest: dict[str, Any], target: TargetInfo, losses: Losses, *, thinks: bool
) -> dict[str, Any]:
    """Take temperature, top_p and top_k out of `rest`; return what the model takes of them."""
    can = target.capabilities
    body: dict[str, Any] = {}
    temperature = rest.pop("temperature", None)
    top_p, top_k = rest.pop("top_p", None), rest.pop("top_k", None)
    if not can.sampling:
        for name, value in (("temperature", temperature), ("top_p", top_p), ("top_k", top_k)):
            if value is not None and (value != 1 or name == "top_k"):
                losses.drop(name, "this model takes no sampling parameters")
        return body
    if temperature is not None:
        if thinks and temperature != 1:
            losses.drop("temperature", "it cannot be set while the model thinks")
        elif not thinks:
            if temperature > 1:
                losses.drop("temperature", "Claude's scale ends at 1")
            body["temperature"] = min(temperature, 1)
    if top_p is not None:
        if can.one_sampling and "temperature" in body:
            if top_p != 1:
                losses.drop("top_p", "this model takes temperature or top_p, not both")
        elif thinks and top_p < 0.95:
            losses.drop("top_p", "it must be at least 0.95 while the model thinks")
        else:
            body["top_p"] = top_p
    if top_k is not None:
        if thinks:
            losses.drop("top_k", "it cannot be set while the model thinks")
        else:
            body["top_k"] = top_k
    return body


def _fit(budget: int, max_tokens: int) -> int:
    """Return a budget below `max_tokens` that leaves half of it for the answer; 0 if none does."""
    budget = max(budget, MIN_BUDGET)
    if budget < max_tokens:
        return budget
    smaller = max_tokens // 2
    return smaller if smaller >= MIN_BUDGET else 0


def unsigned_call(messages: list[dict[str, Any]]) -> bool:
    """Tell whether the tool call being answered came without thinking Claude has signed."""
    for message in reversed(messages):
        match message.get("role"):
            case "tool" | "function":
                continue
            case "assistant" if message.get("tool_calls"):
                return not any(
                    block.get("origin", "anthropic") == "anthropic"
                    for block in message.get("thinking_blocks") or ()
                )
            case "user" | "assistant":
                return False  # A new question: earlier tool use needs no thinking.
    return False
