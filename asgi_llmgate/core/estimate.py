"""Guess tokens where a provider did not count them: a broken-off stream, a server without usage.

Tokens are bytes over a ratio, plus what a family adds to every request and to the first tool. The
constants are fitted on 135 recorded calls by `bench/fit_estimate.py`, over those without media and
without the provider's own tools, whose results are input that nobody here sees. Error of the fit,
as |estimate - counted| / counted; the same calls were fitted and measured:

family   input: calls  median  p90     output: calls  median  p90
claude             39     15%  58%                31     20%  58%
gpt                42     15%  65%                19      9%  61%
gemini             16     17%  82%                 9     15%  39%
other              38     65%  93%                16      9%  105%

The worst are short prompts to which a provider adds a template of its own; of the 12 inputs over
1,000 tokens the median is 19% off. Outputs are those of at least 100 bytes; a tool call costs up
to 50 tokens more than its text. Hidden reasoning cannot be estimated and is not. Every figure made
here is marked `estimated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from asgi_llmgate.core.counts import mapping
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.meter import Metered
from asgi_llmgate.types import Usage

__all__ = [
    "PromptSize",
    "complete_usage",
    "estimate_input_tokens",
    "estimate_output_tokens",
    "family_of",
    "prompt_size",
]


@dataclass(frozen=True, slots=True)
class Family:
    """How models of one family turn bytes into tokens.

    Args:
        text_bytes: UTF-8 bytes of prompt per token.
        schema_bytes: Bytes of compact JSON of tools and response schemas per token.
        request_tokens: Added to every request: roles, separators, template.
        tools_tokens: Added once if there are tools: the instructions how to call them.
        output_bytes: UTF-8 bytes of answer per token.
        image_tokens: Per image. OpenAI: 1024 x 1024 in high detail is 85 + 4 x 170 = 765;
            Anthropic: a megapixel is 1,000,000 / 750 = 1,333; Gemini: 258 per tile. No image is
            decoded to look.
        page_tokens: Per page of a document. Anthropic's documentation says 1,500 to 3,000, Gemini
            counts a page as one image tile.
    """

    text_bytes: float
    schema_bytes: float
    request_tokens: int
    tools_tokens: int
    output_bytes: float
    image_tokens: int
    page_tokens: int


FAMILIES: dict[str, Family] = {
    "claude": Family(4.2, 2.0, 12, 445, 4.0, 1333, 2000),
    "gpt": Family(3.7, 11.0, 6, 15, 4.2, 765, 1000),
    "gemini": Family(4.3, 12.0, 2, 0, 5.4, 258, 258),
    "other": Family(5.0, 12.0, 5, 15, 4.5, 1000, 1000),
}

# A scanned or typeset PDF page, by order of magnitude; the page count is inside the file.
BYTES_PER_PAGE = 50_000
# 32 tokens a second (Gemini's figure) at 16 kB a second (128 kbit/s MP3).
AUDIO_BYTES_PER_TOKEN = 500

_PROMPT = frozenset(
    {"content", "contents", "documents", "input", "inputs", "instructions", "message", "messages"}
    | {"prompt", "query", "requests", "suffix", "system", "systemInstruction", "texts"}
    | {"system_instruction"}
)
_SCHEMAS = frozenset(
    {"functions", "outputConfig", "output_config", "response_format", "text", "toolConfig"}
    | {"tools"}
)
# Words of the protocol, and what the model gets in another form or not at all.
_NOT_TEXT = frozenset(
    {"cache_control", "call_id", "encrypted_content", "file_id", "fileUri", "id", "mimeType"}
    | {"media_type", "role", "signature", "status", "thoughtSignature", "toolUseId", "type"}
    | {"tool_call_id", "tool_use_id", "format", "detail"}
)
_IMAGES = frozenset({"image", "image_url", "input_image"})
_FILES = frozenset({"document", "file", "input_file", "video"})
_AUDIO = frozenset({"audio", "input_audio"})

# What generates text or reads it; of the rest (images, files, counting …) nothing is guessed.
_ESTIMATED = frozenset(
    {"", "anthropic-messages", "azure-openai-deployments", "bedrock-converse", "bedrock-invoke"}
    | {"cohere-v2", "gemini", "gemini-embeddings", "openai-chat", "openai-completions"}
    | {"openai-embeddings", "openai-responses"}
)
_EMBEDDINGS = frozenset({"openai-embeddings", "gemini-embeddings"})


@dataclass(slots=True)
class PromptSize:
    """What a request holds, in UTF-8 bytes and pieces. Media are counted as decoded bytes."""

    text_bytes: int = 0
    schema_bytes: int = 0
    has_tools: bool = False
    images: int = 0
    pages: int = 0
    audio_bytes: int = 0


def family_of(model: str | None) -> str:
    """Return the family whose constants fit `model`; `other` for all that is not named."""
    name = (model or "").lower()
    if "claude" in name:
        return "claude"
    if "gemini" in name or "gemma" in name:
        return "gemini"
    last = name.rpartition("/")[2]
    if "gpt" in last or last.startswith(("o1", "o3", "o4", "text-embedding-", "computer-use")):
        return "gpt"
    return "other"


def estimate_input_tokens(
    wire_format: str | None, request: Mapping[str, Any], model: str | None
) -> int:
    """Return about how many tokens `request` has, in any dialect; at least 1.

    Args:
        wire_format: As in `Route.format`. Embeddings have no roles and no template.
        request: The decoded JSON body.
        model: As the provider names it; decides the family.
    """
    size = prompt_size(request)
    family = FAMILIES[family_of(model)]
    tokens = size.text_bytes / family.text_bytes + size.schema_bytes / family.schema_bytes
    if wire_format not in _EMBEDDINGS:
        tokens += family.request_tokens + (family.tools_tokens if size.has_tools else 0)
    tokens += size.images * family.image_tokens + size.pages * family.page_tokens
    tokens += size.audio_bytes / AUDIO_BYTES_PER_TOKEN
    return max(1, round(tokens))


def estimate_output_tokens(output_bytes: int, model: str | None) -> int:
    """Return about how many tokens `output_bytes` of UTF-8 text are; 0 only for none."""
    if output_bytes <= 0:
        return 0
    return max(1, round(output_bytes / FAMILIES[family_of(model)].output_bytes))


def complete_usage(
    metered: Metered,
    wire_format: str | None,
    request: Mapping[str, Any] | None,
    model: str | None,
) -> Usage | None:
    """Return what the provider counted, completed by estimates where it did not.

    Args:
        metered: What the answer said.
        wire_format: As in `Route.format`.
        request: The decoded JSON body; None if it was not parsed.
        model: The model that answered, else the one asked for.

    Returns:
        Usage, marked `estimated` if any of it is; None if nothing was used as far as anybody
        knows: formats that generate nothing, and errors before the first byte of an answer.
    """
    usage = metered.usage
    if usage is not None and not metered.is_provisional:
        return usage
    output_tokens = estimate_output_tokens(metered.output_bytes, model)
    if usage is not None:
        # The provider counts hidden reasoning, we what was written: the larger is nearer.
        output_tokens = max(output_tokens, usage.output_tokens)
        return replace(usage, output_tokens=output_tokens, estimated=True)
    if (wire_format or "") not in _ESTIMATED or (metered.failed and not output_tokens):
        return None
    if request is None:
        return Usage(0, output_tokens, estimated=True) if output_tokens else None
    input_tokens = estimate_input_tokens(wire_format, request, model)
    return Usage(input_tokens, output_tokens, estimated=True)


def prompt_size(request: Mapping[str, Any]) -> PromptSize:
    """Measure the prompt of a request in any dialect, by the names all of them use."""
    size = PromptSize()
    for name, value in request.items():
        if name in _PROMPT:
            _measure(value, size)
        elif name in _SCHEMAS and value:
            size.schema_bytes += len(dumps(value))
            size.has_tools = size.has_tools or name in ("tools", "toolConfig", "functions")
    return size


def _measure(value: object, size: PromptSize) -> None:
    if isinstance(value, str):
        size.text_bytes += len(value) if value.isascii() else len(value.encode(errors="replace"))
    elif isinstance(value, list):
        for item in value:
            _measure(item, size)
    elif isinstance(value, dict) and not _measure_media(value, size):
        for name, item in value.items():
            if name not in _NOT_TEXT:
                _measure(item, size)


def _measure_media(part: Mapping[str, Any], size: PromptSize) -> bool:
    """Count `part` if it is a picture, a document or a sound; else tell that it is not."""
    kind = part.get("type")
    if not isinstance(kind, str):
        kind = next((name for name in ("image", "document", "video", "audio") if name in part), "")
    inline = mapping(part.get("inlineData") or part.get("inline_data") or part.get("fileData"))
    if inline:
        mime = str(inline.get("mimeType") or inline.get("mime_type") or "")
        kind = {"image": "image", "audio": "audio"}.get(mime.partition("/")[0], "file")
    if kind in _IMAGES:
        size.images += 1
    elif kind in _AUDIO:
        size.audio_bytes += _decoded_bytes(part)
    elif kind in _FILES:
        if mapping(part.get("source")).get("type") in ("text", "content"):
            return False  # Anthropic's plain text documents.
        size.pages += 1 + _decoded_bytes(part) // BYTES_PER_PAGE
    else:
        return False
    return True


def _decoded_bytes(value: object) -> int:
    """Return the size of the largest base64 string anywhere in `value`."""
    if isinstance(value, str):
        return len(value) * 3 // 4
    if isinstance(value, dict):
        return max(map(_decoded_bytes, value.values()), default=0)
    return 0
