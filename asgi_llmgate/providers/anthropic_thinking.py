"""Effort, thinking and sampling as each Claude model takes them.

Three generations: a budget in tokens; adaptive thinking steered by an effort; adaptive only.
Thinking with a budget excludes temperature, top_k and forced tools, must be smaller than
`max_tokens`, and needs the thinking of a tool call that is being answered.
"""

from __future__ import annotations

from typing import Any

from asgi_llmgate.providers._parts import budget_of, effort_of, nearest_effort
from asgi_llmgate.providers.inner import Losses, TargetInfo

__all__ = ["MIN_BUDGET", "sampling", "thinking"]

MIN_BUDGET = 1024


def thinking(
    rest: dict[str, Any], body: dict[str, Any], target: TargetInfo, losses: Losses
) -> bool:
    """Move reasoning from `rest` to `body`; tell whether the model will think.

    `body` has its messages and `max_tokens` already.
    """
    can = target.capabilities
    effort, budget = effort_of(rest), budget_of(rest)
    asked = rest.pop("thinking", None)
    explicit = rest.pop("reasoning_effort", None)
    named = "thinking" if asked else "reasoning_effort"
    if effort is None:
        return can.thinking == "adaptive" and can.thinking_display
    if not can.known and can.thinking == "none":
        # A model nobody described: what the caller said in Anthropic's own words is passed on.
        if effort != "none":
            budget = _fit(budget or MIN_BUDGET, body)
            if budget:
                body["thinking"] = {"type": "enabled", "budget_tokens": budget}
                return True
            losses.drop(named, "`max_tokens` leaves no room for thinking")
        return False
    if can.thinking == "none":
        if effort != "none":
            losses.drop(named, "this model does not think")
        return False
    if effort == "none":
        if can.thinking == "adaptive" and can.thinking_off:
            body["thinking"] = {"type": "disabled"}
        elif not can.thinking_off:
            losses.drop(named, "this model cannot stop thinking")
            return True
        return False
    if (can.efforts and explicit is not None) or can.thinking == "adaptive":
        body["output_config"] = {"effort": nearest_effort(effort, can.efforts)}
    if can.thinking == "adaptive":
        body["thinking"] = {"type": "adaptive"}
        if can.thinking_display:
            body["thinking"]["display"] = "summarized"
        return True
    if _answers_unsigned_call(body["messages"]):
        # The provider of that call was another one; Claude would refuse the turn.
        return False
    budget = _fit(budget or MIN_BUDGET, body)
    if not budget:
        losses.drop(named, "`max_tokens` leaves no room for thinking")
        return False
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    return True


def sampling(
    rest: dict[str, Any], body: dict[str, Any], target: TargetInfo, losses: Losses, *, thinks: bool
) -> None:
    """Move temperature, top_p and top_k from `rest` to `body`, as far as the model takes them."""
    can = target.capabilities
    temperature = rest.pop("temperature", None)
    top_p, top_k = rest.pop("top_p", None), rest.pop("top_k", None)
    if not can.sampling:
        for name, value in (("temperature", temperature), ("top_p", top_p), ("top_k", top_k)):
            if value is not None and (value != 1 or name == "top_k"):
                losses.drop(name, "this model takes no sampling parameters")
        return
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


def _fit(budget: int, body: dict[str, Any]) -> int:
    """Return a budget below `max_tokens` that leaves half of it for the answer; 0 if none does."""
    limit: int = body["max_tokens"]
    budget = max(budget, MIN_BUDGET)
    if budget < limit:
        return budget
    smaller = limit // 2
    return smaller if smaller >= MIN_BUDGET else 0


def _answers_unsigned_call(messages: list[dict[str, Any]]) -> bool:
    for message in reversed(messages):
        if message["role"] == "assistant":
            kinds = [block["type"] for block in message["content"]]
            return "tool_use" in kinds and not {"thinking", "redacted_thinking"} & set(kinds)
        if all(block["type"] != "tool_result" for block in message["content"]):
            return False  # A new question: earlier tool use needs no thinking.
    return False
