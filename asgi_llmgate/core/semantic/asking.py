"""The question in a request, and everything else in it: what must be equal, whatever the words.

    messages: system, user, assistant, user ──▶ question  the text of the last turn
                                                rest      the request without that text

Two questions are compared by meaning only if their rests are equal: model, system prompt, tools,
schema, sampling, and all that was said before. Whoever knows that his questions stand alone says
so (`Context.NONE`), or sends the question in words of its own.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["FULL", "MAX_CHARS", "NONE", "Asking", "Context", "asking"]

# What one sentence embedding can tell apart: 256 tokens of the model in the package.
MAX_CHARS = 1000
HOLE = "\0question"

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What of the conversation has to be equal.

    Args:
        turns: None: all of it. 0: nothing, each question stands alone. k: nothing, but the last
            k turns are embedded together with the question.
    """

    turns: int | None = None

    @classmethod
    def parse(cls, text: str) -> Context:
        """Read `full`, `none` or `window:k`, k from 1 to 8.

        Raises:
            ValueError: it is none of these.
        """
        if text in ("full", "none"):
            return FULL if text == "full" else NONE
        name, _, count = text.partition(":")
        if name != "window" or not count.isdecimal() or not 1 <= int(count) <= 8:
            raise ValueError("expected full, none, or window:k with k from 1 to 8")
        return cls(int(count))

    @property
    def share_of_error(self) -> float:
        """Of the bound: a window says less about a question than all that was said before."""
        return 0.5 if self.turns else 1.0


FULL = Context()
NONE = Context(0)


class Asking(NamedTuple):
    """What is asked.

    Args:
        question: Unicode NFC, without white space around it.
        rest: The request with a hole where the question was.
    """

    question: str
    rest: dict[str, Any]


def asking(
    wire_format: str,
    request: Mapping[str, Any],
    *,
    context: Context = FULL,
    standalone: str | None = None,
) -> Asking | str:
    """Return what is asked; or why only the very same request may share its answer.

    Args:
        standalone: The question in words that need no conversation, as the caller gives it.
    """
    reads = _READERS.get(wire_format)
    if reads is None:
        return "route"
    several = request.get("n", request.get("best_of"))
    if several not in (None, 1):
        return "several-answers"
    if request.get("logprobs") or request.get("top_logprobs"):
        return "logprobs"
    if standalone is not None:
        context = NONE
    found = reads(request, context)
    if isinstance(found, str):
        return found
    texts, rest = found
    question = unicodedata.normalize("NFC", standalone or "\n".join(texts)).strip()
    if not question:
        return "no-question"
    if len(question) > MAX_CHARS:
        return "long"
    _bucket_sampling(rest)
    return Asking(question, rest)


Found = tuple[list[str], dict[str, Any]] | str


def _chat(request: Mapping[str, Any], context: Context) -> Found:
    return _conversation(request, "messages", context, keeps=("system", "developer"))


def _anthropic(request: Mapping[str, Any], context: Context) -> Found:
    return _conversation(request, "messages", context, keeps=())


def _gemini(request: Mapping[str, Any], context: Context) -> Found:
    contents = request.get("contents")
    if isinstance(contents, dict):  # One turn may stand without its list.
        request = {**request, "contents": [contents]}
    return _conversation(request, "contents", context, keeps=())


def _responses(request: Mapping[str, Any], context: Context) -> Found:
    given = request.get("input")
    if request.get("previous_response_id"):
        return "stateful"
    if isinstance(given, str):
        return [given], {**request, "input": HOLE}
    return _conversation(request, "input", context, keeps=("system", "developer"))


def _completions(request: Mapping[str, Any], context: Context) -> Found:
    prompt = request.get("prompt")
    if not isinstance(prompt, str):
        return "several-answers"
    return [prompt], {**request, "prompt": HOLE}


_READERS: dict[str, Callable[[Mapping[str, Any], Context], Found]] = {
    "openai-chat": _chat,
    "openai-completions": _completions,
    "openai-responses": _responses,
    "anthropic-messages": _anthropic,
    "gemini": _gemini,
}


def _conversation(
    request: Mapping[str, Any], name: str, context: Context, *, keeps: Sequence[str]
) -> Found:
    turns = request.get(name)
    if not isinstance(turns, list) or not turns:
        return "no-question"
    if not all(isinstance(turn, dict) for turn in turns):
        return "odd"
    *before, last = turns
    if last.get("role", "user") != "user" or last.get("type") not in (None, "message"):
        is_tool = last.get("role") == "tool" or str(last.get("type")).endswith("_output")
        return "tool-output" if is_tool else "no-question"
    found = _without_text(last)
    if isinstance(found, str):
        return found
    texts, hole = found
    if context.turns is None:
        return texts, {**request, name: [*before, hole]}
    said = [turn for turn in before if turn.get("role") not in keeps]
    for turn in reversed(said[-context.turns :] if context.turns else ()):
        earlier = _without_text(turn)
        if isinstance(earlier, str):
            return earlier
        texts = [*earlier[0], *texts]
    kept = [turn for turn in before if turn.get("role") in keeps]
    return texts, {**request, name: [*kept, hole]}


def _without_text(turn: Message) -> tuple[list[str], dict[str, Any]] | str:
    """Return the texts of a turn, and the turn with a hole; why not, if there is more than text."""
    name = "parts" if "parts" in turn else "content"
    content = turn.get(name)
    if isinstance(content, str):
        return [content], {**turn, name: HOLE}
    if not isinstance(content, list) or not content:
        return "no-question"
    texts: list[str] = []
    holes: list[dict[str, Any]] = []
    for part in content:
        if not isinstance(part, dict):
            return "odd"
        text = part.get("text")
        kind = part.get("type")
        if kind in ("tool_result", "function_call_output") or "functionResponse" in part:
            return "tool-output"
        if not isinstance(text, str) or kind not in (None, "text", "input_text", "output_text"):
            return "multimodal"
        texts.append(text)
        holes.append({**part, "text": HOLE})
    return texts, {**turn, name: holes}


def _bucket_sampling(rest: dict[str, Any]) -> None:
    """Put a range in the place of the temperature: close ones answer alike.

    Gemini's is in `generationConfig`.
    """
    config = rest.get("generationConfig")
    if isinstance(config, dict) and "temperature" in config:
        rest["generationConfig"] = {
            **config,
            "temperature": _bucket(config["temperature"]),
        }
    if "temperature" in rest:
        rest["temperature"] = _bucket(rest["temperature"])


def _bucket(temperature: object) -> object:
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        return temperature
    if not math.isfinite(temperature):
        return str(temperature)
    bounds = (0.0, 0.3, 0.8)
    return f"bucket {sum(temperature > bound for bound in bounds)}"
