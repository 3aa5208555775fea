"""Which questions are never answered by the answer to another phrasing, by their wording alone.

- "volatile": what is true now may not be true when it is asked again.
- "action": something is to be done, not said.
- "vague": without a word of its own it is near everything that is asked in small words.
- "long": embedders read only the beginning of a text.

English. The rules are narrow: a question they miss is still held to the bound on wrong hits, one
they take for what it is not costs a hit.
"""

from __future__ import annotations

import re

from asgi_llmgate.core.semantic.words import words

__all__ = ["MAX_CHARS", "unfit"]

# MiniLM reads 256 tokens; a token of English is four characters.
MAX_CHARS = 1_000

_VOLATILE = re.compile(
    r"\b(?:today(?:'s)?|tonight|right now|currently|latest|up[- ]to[- ]date|at (?:the|this) moment"
    r"|as of (?:now|today|this)|breaking news"
    r"|current (?!account)(?!bank account)\w+"
    r"|weather|forecast|(?:stock|share|gas|bitcoin|oil|gold|crypto\w*) prices?"
    r"|what time is it|what(?:'s| is) the (?:time|date)|what day is it"
    r"|(?:what(?:'s| is)|tell me|show me|check) (?:me )?my (?:\w+ ){0,2}balance"
    r"|how much (?:money |credit )?(?:do i have|is (?:left )?(?:in|on) my))\b"
)
_ACTION = re.compile(
    r"^(?:please |kindly |hey |hi |ok |now |just |(?:can|could|would|will) you (?:please )?"
    r"|i(?:'d| would)? (?:want|like|need) (?:you )?to )*"
    r"(?:cancel|transfer|send|pay|delete|remove|close|shut down|freeze|lock|block|stop|refund"
    r"|dispute|buy|sell|move|withdraw|deposit|wire|raise|increase|submit|approve|unsubscribe|deactivate"
    r"|(?:file|open) a dispute)\b.*(?:\bmy\b|\bthis\b|\bthat\b|\bit\b|\bi just\b|[$€£]|\d)"
)


def unfit(question: str) -> str | None:
    """Return why only the same words may be answered from the cache; None if others may be."""
    if len(question) > MAX_CHARS:
        return "long"
    text = " ".join(question.lower().replace("\u2019", "'").split())
    if _VOLATILE.search(text):
        return "volatile"
    if _ACTION.match(text):
        return "action"
    if not words(question).content:
        return "vague"
    return None
