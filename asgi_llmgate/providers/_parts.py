"""Small things every translator needs: data URLs, texts, tool ids, signatures, usage."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError, dumps, loads

__all__ = [
    "EFFORT_BUDGETS",
    "PART_TYPES",
    "UNSIGNED",
    "Names",
    "annotations_of",
    "arguments_object",
    "budget_of",
    "clean_id",
    "data_url",
    "delta",
    "digest",
    "effort_of",
    "family_of",
    "guess_mime",
    "leading_choice",
    "nearest_effort",
    "open_envelope",
    "parse_data_url",
    "seal_envelope",
    "short_user",
    "stop_list",
    "text_of",
    "texts_of",
    "unsigned_reasoning",
    "usage",
]

_ENVELOPE = "llmgate."
"""Marks a signature of another family in a field of a dialect that has only its own."""

_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL | re.IGNORECASE)

# Both mature mappings we know disagree (high: 4,096 or 16,384 tokens); these are the roomier, as
# an effort is asked for because the answer matters. Every budget maps back to its effort.
EFFORT_BUDGETS: Mapping[str, int] = {
    "minimal": 1024,
    "low": 2048,
    "medium": 10_000,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 49_152,
}

MIMES: Mapping[str, str] = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "heic": "image/heic",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "html": "text/html",
    "csv": "text/csv",
    "json": "application/json",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "mp4": "video/mp4",
}


PART_TYPES = frozenset({"text", "image_url", "input_audio", "file", "refusal"})
"""Content parts of the inner form. Others are steps of tools that ran at one vendor."""


def parse_data_url(url: str) -> tuple[str, str] | None:
    """Return (MIME type, base64) of a `data:` URL; None if it is none, or broken."""
    match = _DATA_URL.fullmatch(url)
    if match is None:
        return None
    mime, parameters, payload = match.groups()
    if ";base64" in parameters.lower():
        return mime.lower() or "text/plain", payload
    raw = urllib.parse.unquote_to_bytes(payload)
    return mime.lower() or "text/plain", base64.b64encode(raw).decode()


def data_url(mime: str, payload: str) -> str:
    """Return the `data:` URL of base64 `payload`."""
    return f"data:{mime};base64,{payload}"


def guess_mime(name: str, default: str) -> str:
    """Return the MIME type that the ending of a URL or file name stands for."""
    path = urllib.parse.urlsplit(name).path if "://" in name else name
    return MIMES.get(path.rpartition(".")[2].lower(), default)


def text_of(content: Any) -> str:
    """Return the text of a message's content: a string, parts, or None."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        str(part.get("text") or part.get("refusal") or "")
        for part in content
        if isinstance(part, Mapping)
    )


def texts_of(content: Any) -> list[str]:
    """Return the texts of a message's parts one by one, without empty ones."""
    parts = content if isinstance(content, list) else [content]
    return [text for part in parts if (text := text_of(part if isinstance(part, str) else [part]))]


def arguments_object(arguments: Any) -> dict[str, Any]:
    """Return a tool call's arguments as an object.

    What is no JSON object travels as `{"_raw": text}`: a model that once wrote bad JSON must not
    make every later turn of its conversation fail.
    """
    if isinstance(arguments, dict):
        return arguments
    if not arguments or not str(arguments).strip():
        return {}
    try:
        value = loads(str(arguments))
    except JSONError:
        return {"_raw": str(arguments)}
    return value if isinstance(value, dict) else {"_raw": str(arguments)}


def clean_id(value: str, pattern: re.Pattern[str], max_length: int = 64) -> str:
    """Return `value` if `pattern` matches it, else an id that does, always the same one.

    Call and result are cleaned alike, so they still meet; a digest keeps `a.b` and `a-b` apart.
    """
    if len(value) <= max_length and pattern.fullmatch(value):
        return value
    mark = digest(value)[:12]
    stem = re.sub(r"[^a-zA-Z0-9_-]", "_", value)[: max_length - 14]
    cleaned = f"{stem}_{mark}" if stem else f"id_{mark}"
    # Names of Gemini's functions must not start with a digit.
    return cleaned if pattern.fullmatch(cleaned) else f"_{cleaned}"


class Names:
    """Tool names as a provider takes them, and the way back."""

    __slots__ = ("_max_length", "_pattern", "changed")

    def __init__(self, pattern: re.Pattern[str], max_length: int = 64) -> None:
        self._pattern = pattern
        self._max_length = max_length
        self.changed: dict[str, str] = {}

    def clean(self, name: str) -> str:
        """Return the name to send for `name`."""
        sent = clean_id(name, self._pattern, self._max_length)
        if sent != name:
            self.changed[sent] = name
        return sent


def short_user(user: Any) -> str:
    """Return a user's name in at most 64 characters, OpenAI's limit: longer ones as a digest."""
    name = str(user)
    return name if len(name) <= MAX_USER else digest(name)


def digest(text: str) -> str:
    """Return SHA-256 of `text` as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


MAX_USER = 64


def seal_envelope(block: Mapping[str, Any]) -> str:
    """Return `block`, a signature of another family, as one opaque string."""
    return _ENVELOPE + base64.urlsafe_b64encode(dumps(block)).decode()


def open_envelope(signature: Any) -> dict[str, Any] | None:
    """Return the block sealed in `signature`; None if it is a native one."""
    if not isinstance(signature, str) or not signature.startswith(_ENVELOPE):
        return None
    try:
        block = loads(base64.urlsafe_b64decode(signature[len(_ENVELOPE) :]))
    except (JSONError, binascii.Error, ValueError):
        return {}
    return block if isinstance(block, dict) else {}


UNSIGNED = seal_envelope({"type": "thinking", "origin": "none"})
"""Stands for the signature that reasoning does not have, where a provider would insist on one."""


def unsigned_reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning of an answer that stands in no signed block; "" if all does."""
    if any(block.get("thinking") for block in message.get("thinking_blocks") or ()):
        return ""
    return message.get("reasoning_content") or ""


def family_of(model: str) -> str:
    """Return whose reasoning signatures `model` on Bedrock or Vertex can read."""
    return "anthropic" if "claude" in model.lower() else "bedrock"


def effort_of(request: Mapping[str, Any]) -> str | None:
    """Return the effort a request asks for, `none` included; None if it does not say."""
    thinking = request.get("thinking")
    effort = request.get("reasoning_effort")
    if isinstance(thinking, Mapping):
        match thinking.get("type"):
            case "disabled":
                return "none"
            case "enabled":
                budget = thinking.get("budget_tokens")
                if effort is None and isinstance(budget, int):
                    return next((e for e, n in EFFORT_BUDGETS.items() if budget <= n), "max")
                return effort or "medium"
            case "adaptive" | "between_tools":
                return effort or "medium"
    return effort if isinstance(effort, str) else None


def budget_of(request: Mapping[str, Any]) -> int | None:
    """Return the thinking budget in tokens: 0 for none, None if nothing was asked for."""
    thinking = request.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if isinstance(budget, int):
            return budget
    effort = effort_of(request)
    if effort is None:
        return None
    return 0 if effort == "none" else EFFORT_BUDGETS.get(effort, EFFORT_BUDGETS["medium"])


def nearest_effort(effort: str, efforts: tuple[str, ...]) -> str:
    """Return the effort of `efforts` that comes closest to `effort`, rather more than less."""
    if effort in efforts or not efforts:
        return effort
    order = ["none", *EFFORT_BUDGETS]
    wanted = order.index(effort) if effort in order else order.index("medium")
    return min(efforts, key=lambda e: (abs(order.index(e) - wanted), -order.index(e)))


def delta(fields: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """Return a stream chunk of the inner form with one choice."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def stop_list(stop: Any) -> list[str]:
    """Return stop sequences as a list."""
    return [stop] if isinstance(stop, str) else list(stop or ())


def leading_choice(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first choice of a response; an empty one if it has none."""
    choices = response.get("choices") or [{}]
    first: dict[str, Any] = choices[0]
    return first


def annotations_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the `url_citation`s of a message: start_index, end_index, url, title."""
    found = []
    for annotation in message.get("annotations") or ():
        citation = annotation.get("url_citation")
        if isinstance(citation, dict):
            found.append(citation)
    return found


def usage(
    prompt: int, completion: int, *, cached: int = 0, written: int = 0, reasoning: int = 0
) -> dict[str, Any]:
    """Return usage in OpenAI's shape: totals include their parts."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
