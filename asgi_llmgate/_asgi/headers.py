"""Headers the gateway adds to answers, and header values made safe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from asgi_llmgate.core.fallback import PASSED_OVER
from asgi_llmgate.core.record import usd

if TYPE_CHECKING:  # Above this level; needed only by name.
    from asgi_llmgate.context import GatewayContext

__all__ = ["gateway_headers", "safe_value"]

# As in records. A caller may name anything, and proxies give up at 4 KiB of headers.
MAX_MODEL_CHARS = 256


def safe_value(text: str) -> bytes:
    """Encode `text` for a header: what is not printable ASCII is percent-encoded.

    Model names come from request bodies, so they may hold anything, line breaks included.
    """
    if text.isascii() and text.isprintable():
        return text.encode()
    return quote(text, safe=" !#$&'()*+,/:;=?@[]").encode()


def gateway_headers(context: GatewayContext) -> list[tuple[bytes, bytes]]:
    """Return what `context` knows, as the `LLMGate-*` headers of the public contract.

    To be asked for when a response begins. Errors of our own have their `LLMGate-Id` already.
    """
    request_id = context.id.encode()
    is_error = context.error_code is not None
    headers = [] if is_error else [(b"llmgate-id", request_id)]
    if context.target_provider is not None:
        headers.append((b"llmgate-provider", context.target_provider.encode()))
        if context.target_model is not None:
            headers.append((b"llmgate-model", safe_value(context.target_model[:MAX_MODEL_CHARS])))
        # The attempt that is being answered is noted only when it is over.
        made = sum(attempt.reason not in PASSED_OVER for attempt in context.attempts)
        headers.append((b"llmgate-attempts", b"%d" % (made + context.is_attempting)))
        if context.fallback_index is not None:
            index = b"%d" % context.fallback_index
            headers.append((b"llmgate-fallback-index", index))
            if context.directives_or_default.uses_helicone:
                headers.append((b"helicone-fallback-index", index))
        if (cost := usd(context.cost_nanousd)) is not None:
            headers.append((b"llmgate-cost-usd", cost.encode()))
        if context.upstream_started_ns is not None and not is_error:
            now = time.perf_counter_ns()
            waited = now - context.upstream_started_ns
            own = now - context.started_ns - waited
            timing = b"upstream;dur=%.2f, llmgate;dur=%.2f" % (waited / 1e6, own / 1e6)
            headers.append((b"server-timing", timing))
    if context.policy is not None and context.policy.policy.guarded:
        headers.append((b"llmgate-guarded", b"true"))
    if context.warnings is not None:
        headers.append((b"llmgate-warnings", safe_value("; ".join(context.warnings))))
    if context.directives_or_default.uses_helicone:
        headers.append((b"helicone-id", request_id))
    return headers
