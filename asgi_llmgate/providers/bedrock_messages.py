"""Turns of the inner form as Bedrock Converse messages.

User and assistant alternate, starting with the user; texts are never empty; images and documents
are bytes (Bedrock fetches only from S3, and we fetch nothing); a cache breakpoint is a block of
its own after what it covers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.providers._parts import (
    Names,
    arguments_object,
    clean_id,
    guess_mime,
    parse_data_url,
)
from asgi_llmgate.providers.capabilities import Capabilities
from asgi_llmgate.providers.inner import Losses, refuse

__all__ = ["TOOL_NAME", "Turns", "cache_point", "limit_cache_points"]

TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]+")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_AUDIO = frozenset({"mp3", "wav", "flac", "ogg", "opus", "aac", "m4a", "webm"})


class Turns:
    """Messages under construction: `system` blocks, `messages`, and the tools they called."""

    def __init__(self, names: Names, losses: Losses, *, claude: bool) -> None:
        self.system: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.called: dict[str, None] = {}
        self._names = names
        self._losses = losses
        self._claude = claude
        self._documents = 0

    def add(self, message: Mapping[str, Any], index: int) -> None:
        """Append `message`, which is `messages[index]` of the request."""
        where = f"messages[{index}].content"
        content = message.get("content")
        match message.get("role"):
            case "system" | "developer":
                self.system += self._blocks(content, where)
            case "assistant":
                self._append("assistant", self._assistant(message, where))
            case "tool" | "function":
                self._append("user", self._result(message, where))
            case _:
                blocks = self._blocks(content, where)
                if any("document" in b for b in blocks) and not any("text" in b for b in blocks):
                    blocks.append({"text": "."})  # A document is refused without a text.
                self._append("user", blocks)

    def finish(self) -> None:
        """Have a user's turn where there were only instructions."""
        if not self.messages:
            self.messages.append(_nothing())

    def _append(self, role: str, blocks: list[dict[str, Any]]) -> None:
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
            return
        if not self.messages and role == "assistant":
            self.messages.append(_nothing())
        self.messages.append({"role": role, "content": blocks})

    def _assistant(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        for block in message.get("thinking_blocks") or ():
            origin = block.get("origin", "anthropic")
            if block.get("type") == "redacted_thinking" and origin == "bedrock":
                blocks.append({"reasoningContent": {"redactedContent": block["data"]}})
            elif block.get("type") == "thinking" and origin == "anthropic" and self._claude:
                text = {"text": block["thinking"], "signature": block["signature"]}
                blocks.append({"reasoningContent": {"reasoningText": text}})
        said = message.get("content") or message.get("refusal")
        blocks += self._blocks(said, where, assistant=True)
        for call in message.get("tool_calls") or ():
            function = call.get("function") or call.get("custom") or {}
            name = self._names.clean(function["name"])
            self.called[name] = None
            use = {
                "toolUseId": clean_id(call["id"], TOOL_ID),
                "name": name,
                "input": arguments_object(function.get("arguments", function.get("input"))),
            }
            blocks.append({"toolUse": use})
            blocks += cache_point(call)
        return blocks

    def _result(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        content = message.get("content")
        blocks = _result_text(content) if isinstance(content, str) else None
        result: dict[str, Any] = {
            "toolUseId": clean_id(message["tool_call_id"], TOOL_ID),
            "content": self._blocks(content, where) if blocks is None else blocks,
            "status": "error" if message.get("is_error") else "success",
        }
        return [{"toolResult": result}, *cache_point(message)]

    def _blocks(self, content: Any, where: str, *, assistant: bool = False) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"text": content}] if content.strip() else []
        blocks: list[dict[str, Any]] = []
        for position, part in enumerate(content or ()):
            block = self._block(part, f"{where}[{position}]", assistant=assistant)
            if block is not None:
                blocks.append(block)
                blocks += cache_point(part)
        return blocks

    def _block(
        self, part: Mapping[str, Any], where: str, *, assistant: bool
    ) -> dict[str, Any] | None:
        match part.get("type"):
            case "text" | "refusal":
                text = part.get("text") or part.get("refusal") or ""
                return {"text": text} if text.strip() else None
            case "image_url":
                image = part["image_url"]
                return _image(image if isinstance(image, str) else image.get("url", ""), where)
            case "file":
                return self._document(part["file"], where)
            case "input_audio":
                audio = part["input_audio"]
                if audio.get("format") not in _AUDIO:
                    raise refuse(where, f"Bedrock takes no `{audio.get('format')}` audio")
                source = {"bytes": audio["data"]}
                return {"audio": {"format": audio["format"], "source": source}}
            case kind if assistant:
                self._losses.drop(where, f"`{kind}` is known to one provider only")
                return None
            case kind:
                raise refuse(where, f"`{kind}` content is known to one provider only")

    def _document(self, file: Mapping[str, Any], where: str) -> dict[str, Any]:
        payload = file.get("file_data")
        if not payload:
            raise refuse(where, "Bedrock fetches no files; send the file as a data URL")
        name = str(file.get("filename") or "")
        mime, encoded = parse_data_url(payload) or (guess_mime(name, "application/pdf"), payload)
        if mime in _IMAGES:
            return {"image": {"format": _IMAGES[mime], "source": {"bytes": encoded}}}
        if mime not in _DOCUMENTS:
            mime = guess_mime(name, mime)
        if mime not in _DOCUMENTS:
            raise refuse(where, f"Bedrock takes no `{mime}` documents")
        # Names may hold letters, digits, single spaces and `-()[]`, and must differ.
        self._documents += 1
        stem = re.sub(r"[^a-zA-Z0-9\-()\[\]]+", " ", name.rpartition(".")[0] or name).strip()
        document = {
            "format": _DOCUMENTS[mime],
            "name": f"{stem[:150] or 'document'} {self._documents}",
            "source": {"bytes": encoded},
        }
        return {"document": document}


def _nothing() -> dict[str, Any]:
    """Return a user's turn, which must be the first, and must not be empty."""
    return {"role": "user", "content": [{"text": "."}]}


def cache_point(marked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the block that ends what a cache breakpoint covers; none if there is none."""
    control = marked.get("cache_control")
    if not control:
        return []
    point = {"type": "default"}
    if control.get("ttl"):
        point["ttl"] = control["ttl"]
    return [{"cachePoint": point}]


def limit_cache_points(body: dict[str, Any], can: Capabilities, *, on_tools: bool) -> None:
    """Leave as many cache points as the model takes, the last ones: they cover the earlier."""
    config = body.get("toolConfig") or {}
    places: list[list[dict[str, Any]]] = [m["content"] for m in reversed(body["messages"])]
    places += [body.get("system") or [], config.get("tools") or []]
    left = MAX_CACHE_POINTS if can.cache_points else 0
    for blocks in places:
        if blocks is config.get("tools") and not on_tools:
            left = 0
        for block in [block for block in reversed(blocks) if "cachePoint" in block]:
            if left:
                left -= 1
            else:
                # By identity: equal ones may stay.
                blocks[:] = [other for other in blocks if other is not block]
            if not can.cache_hour:
                block["cachePoint"].pop("ttl", None)


MAX_CACHE_POINTS = 4


def _image(url: str, where: str) -> dict[str, Any]:
    parsed = parse_data_url(url)
    if parsed is None:
        raise refuse(where, "Bedrock fetches no images; send the image as a data URL")
    mime, payload = parsed
    if mime not in _IMAGES:
        raise refuse(where, f"Bedrock takes no `{mime}` images")
    return {"image": {"format": _IMAGES[mime], "source": {"bytes": payload}}}


def _result_text(text: str) -> list[dict[str, Any]]:
    if text.startswith("{"):
        try:
            value = loads(text)
        except JSONError:
            value = None
        if isinstance(value, dict):
            return [{"json": value}]
    # An empty text is refused; a result without content is not.
    return [{"text": text}] if text.strip() else []
