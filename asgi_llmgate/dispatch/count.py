"""Count the tokens of a request whose provider cannot be asked in the caller's dialect.

Claude Code asks before it compacts a conversation. An estimate is what it would make itself were
it refused, and ours knows the family of the model.
"""

from __future__ import annotations

from typing import Any

from starlette.types import Send

from asgi_llmgate._asgi.respond import send_json
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.estimate import estimate_input_tokens
from asgi_llmgate.core.targets import Target
from asgi_llmgate.providers.reach import COUNTED

__all__ = ["answer_count"]

WARNING = "the number of tokens is an estimate"


async def answer_count(
    context: GatewayContext, target: Target, request: dict[str, Any], send: Send
) -> None:
    """Answer how many tokens `request` has, without a call."""
    asked = context.route.format or ""
    counted = request.get("generateContentRequest")
    tokens = estimate_input_tokens(
        COUNTED[asked], counted if isinstance(counted, dict) else request, target.model
    )
    context.warn(WARNING)
    context.complete = True
    name = "input_tokens" if asked == "anthropic-count-tokens" else "totalTokens"
    await send_json(send, 200, {name: tokens})
