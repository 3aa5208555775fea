"""A model that is asked whether two answers say the same."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware.semantic import Judge

__all__ = ["Post", "judge_by"]

logger = logging.getLogger("asgi_llmgate")

Post = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Makes a call of the gateway's own: path and body; raises `BackendError`."""

JUDGE_TASK = """\
Two answers were given to two questions. Would the second answer have been just as right for the \
first question? Wording and detail may differ; facts, numbers, names, conditions and advice may \
not. Reply with one word: SAME or DIFFERENT."""


def judge_by(model: str, post: Post) -> Judge:
    """Return a judge that asks `model`, through the gateway itself."""

    async def judge(question: str, answer: str, other: str, other_answer: str) -> bool | None:
        told = (
            f"First question: {question}\nFirst answer: {answer}\n\n"
            f"Second question: {other}\nSecond answer: {other_answer}"
        )
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": JUDGE_TASK},
                {"role": "user", "content": told},
            ],
        }
        try:
            reply = await post("/v1/chat/completions", body)
            word = str(reply["choices"][0]["message"]["content"]).strip().upper()
        except BackendError as error:
            logger.info("The judge of the semantic cache did not answer: %s", error)
            return None
        except (KeyError, IndexError, TypeError):
            return None
        is_same, is_different = word.startswith("SAME"), word.startswith("DIFFERENT")
        return is_same if is_same != is_different else None

    return judge
