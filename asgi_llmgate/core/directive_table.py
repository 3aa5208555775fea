"""Every `LLMGate-*` header there is, and Helicone's names for them.

Whoever builds a part of the gateway adds its name to `BUILT`; nothing else changes here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from asgi_llmgate.core import directive_values as read

__all__ = [
    "BUILT",
    "HELICONE_NAMES",
    "OURS_ONLY",
    "PROTECTION",
    "REFUSED_UNBUILT",
    "SPECS",
    "Spec",
    "titled",
]

BUILT = frozenset(
    {"auth", "cache", "fallback", "limits", "log", "retry", "routing", "semantic"}
    | {"tags", "timeout"}
)
"""The parts of the gateway that exist. A header of any other part is refused, or, where Helicone
users would merely miss a convenience, passed over with a warning. Whoever builds a part adds it."""

# Not built, and too much is promised to go on without: money is spent, or a provider stays down.
REFUSED_UNBUILT = frozenset({"fallback"})

# Helicone's names for protection that this gateway does not have.
PROTECTION = {
    "moderations-enabled": "moderate prompts",
    "llm-security-enabled": "scan prompts for attacks",
    "llm-security-advanced": "scan prompts for attacks",
    "prompt-security-enabled": "scan prompts for attacks",
    "token-limit-exception-handler": "shorten prompts that are too long",
}


class Spec(NamedTuple):
    """A header: where it goes, how it is read, and the part of the gateway that honours it.

    `field` is None for names whose values are not kept. `may_be_empty` takes an empty value for
    an absent header, as templates write them. `read_helicone` reads Helicone's spelling where
    that differs.
    """

    field: str | None
    read: Callable[[str], Any]
    part: str
    may_be_empty: bool = False
    read_helicone: Callable[[str], Any] | None = None


_DURATION_MS = read.integer(1, 86_400_000)
_PAUSE_MS = read.integer(0, 86_400_000)
_SHARE = read.decimal(0, 1)
_MODE = read.one_of("exact", "semantic", "threshold")
# Each slot is one full answer that somebody pays for; Helicone's limit.
_BUCKETS = read.integer(1, 20)

SPECS: dict[str, Spec] = {
    "auth": Spec(None, str, "auth"),
    "user": Spec(None, str, "tags"),
    "user-id": Spec("user_id", read.identifier, "tags", True),
    "session-id": Spec("session_id", read.identifier, "tags", True),
    "session-path": Spec("session_path", read.identifier, "tags", True),
    "session-name": Spec("session_name", read.identifier, "tags", True),
    "request-id": Spec("request_id", read.request_id, "log"),
    "omit-request": Spec("omit_request", read.boolean, "log", False, read.omission),
    "omit-response": Spec("omit_response", read.boolean, "log", False, read.omission),
    "model-override": Spec("model_override", read.identifier, "log", True),
    "provider": Spec("provider", read.identifier, "routing", True),
    "target-url": Spec("target_url", read.url, "routing", True),
    "stream-usage": Spec("stream_usage", read.boolean, "routing"),
    "translation": Spec("translation", read.one_of("strict", "lenient"), "routing"),
    "timeout-ms": Spec("timeout_ms", _DURATION_MS, "timeout"),
    "hedge-after-ms": Spec("hedge_after_ms", _DURATION_MS, "hedging"),
    "cache-enabled": Spec("cache_enabled", read.boolean, "cache"),
    "cache-mode": Spec("cache_mode", _MODE, "cache"),
    "cache-threshold": Spec("cache_threshold", _SHARE, "semantic"),
    "cache-question": Spec("cache_question", read.question, "semantic"),
    "cache-max-error": Spec("cache_max_error", _SHARE, "semantic"),
    "cache-bucket-max-size": Spec("cache_bucket_max_size", _BUCKETS, "cache"),
    "cache-seed": Spec("cache_seed", read.identifier, "cache", True),
    "cache-control": Spec("cache_control", read.identifier, "cache", True),
    "cache-ignore-keys": Spec("cache_ignore_keys", read.words, "cache"),
    "cache-tags": Spec("cache_tags", read.words, "cache"),
    "cache-read": Spec("cache_read", read.boolean, "cache"),
    "cache-save": Spec("cache_save", read.boolean, "cache"),
    "fallbacks": Spec("fallbacks", read.fallbacks, "fallback"),
    "retry-enabled": Spec("retry_enabled", read.boolean, "retry"),
    "retry-num": Spec("retry_num", read.integer(0, 10), "retry"),
    "retry-factor": Spec("retry_factor", read.decimal(1, 10), "retry"),
    "retry-min-timeout": Spec("retry_min_timeout_ms", _PAUSE_MS, "retry"),
    "retry-max-timeout": Spec("retry_max_timeout_ms", _PAUSE_MS, "retry"),
    "ratelimit-policy": Spec(
        "rate_limit_policy", read.rate_limits, "limits", False, read.helicone_rate_limits
    ),
    "prompt-id": Spec("prompt_id", read.identifier, "prompts"),
    "prompt-version": Spec("prompt_version", read.identifier, "prompts"),
    "prompt-label": Spec("prompt_label", read.identifier, "prompts"),
    "prompt-inputs": Spec("prompt_inputs", read.json_object, "prompts"),
}

# Ours alone: under Helicone's name they mean nothing.
OURS_ONLY = frozenset({"user"})

# Helicone's other words for the same thing (oai.* hosts, header directory, Rust gateway). They
# say where a call goes, so passing over them would send it elsewhere.
HELICONE_NAMES = {
    "openai-api-base": "target-url",
    "target-provider": "provider",
    "forced-routing": "provider",
}

_ODD = re.compile(r"[^a-z0-9_-]")
_SHOWN = {"id": "Id", "url": "URL", "ratelimit": "RateLimit", "llm": "LLM", "openai": "OpenAI"}


def titled(name: str) -> str:
    """Return `name` as documentation writes it, fit for a header and of bounded length."""
    words = _ODD.sub("?", name.lower()[:64]).split("-")
    return "-".join(_SHOWN.get(word, word.capitalize()) for word in words)
