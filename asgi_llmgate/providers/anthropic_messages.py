"""Turns of the inner form as Anthropic messages.

Rules of the API: user and assistant alternate (equal neighbours are merged here, so that cache
breakpoints stay where they were put); all tool results of a turn come first in one user message;
empty texts are refused; signed thinking comes first in an assistant message, unchanged.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import (
    Names,
    arguments_object,
    clean_id,
    guess_mime,
    parse_data_url,
    text_of,
)
from asgi_llmgate.providers.inner import Losses, refuse

__all__ = ["TOOL_ID", "TOOL_NAME", "Turns", "limit_breakpoints"]

TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")

# Of a thinking block: ours, and what OpenAI's SDK leaves in a message it has put together.
_NOT_SENT = frozenset({"origin", "id", "index"})

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

MAX_BREAKPOINTS = 4
"""More cache breakpoints than this are a 400."""


class Turns:
    """Messages under construction: `system` blocks and alternating `messages`."""

    def __init__(self, names: Names, losses: Losses, *, mid_system: bool) -> None:
        self.system: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self._names = names
        self._losses = losses
        self._mid_system = mid_system

    def add(self, message: Mapping[str, Any], index: int) -> None:
        """Append `message`, which is `messages[index]` of the request."""
        where = f"messages[{index}].content"
        match message.get("role"):
            case "system" | "developer":
                blocks = self._blocks(message.get("content"), where)
                if self.messages and self._mid_system:
                    self._append("system", blocks)
                else:
                    # Models without system turns get all instructions up front.
                    self.system += blocks
            case "assistant":
                self._append("assistant", self._assistant(message, where))
            case "tool" | "function":
                self._append("user", [self._tool_result(message, where)])
            case _:
                self._append("user", self._blocks(message.get("content"), where))

    def finish(self) -> None:
        """Make the turns such as the API takes them, when all of them are there."""
        if not self.messages or self.messages[0]["role"] != "user":
            # The first turn must be the user's, and must not be empty.
            self.messages.insert(0, {"role": "user", "content": [{"type": "text", "text": "."}]})
        last = self.messages[-1]
        block = last["content"][-1]
        if last["role"] == "assistant" and block["type"] == "text":
            # The beginning of an answer is refused if it ends in space.
            block["text"] = block["text"].rstrip()

    def _append(self, role: str, blocks: list[dict[str, Any]]) -> None:
        if not blocks:
            return
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != role:
            self.messages.append({"role": role, "content": blocks})
            return
        content: list[dict[str, Any]] = last["content"]
        if blocks[0]["type"] == "tool_result":
            # Results stand before anything else of their turn.
            place = sum(block["type"] == "tool_result" for block in content)
            content[place:place] = blocks
        else:
            content += blocks

    def _assistant(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        blocks = [
            {k: v for k, v in block.items() if k not in _NOT_SENT}
            for block in message.get("thinking_blocks") or ()
            if block.get("origin", "anthropic") == "anthropic"
        ]
        content = message.get("content")
        if content:
            blocks += self._blocks(content, where, assistant=True)
        elif message.get("refusal"):
            blocks.append({"type": "text", "text": message["refusal"]})
        for call in message.get("tool_calls") or ():
            function = call.get("function") or call.get("custom") or {}
            block = {
                "type": "tool_use",
                "id": clean_id(call["id"], TOOL_ID),
                "name": self._names.clean(function["name"]),
                "input": arguments_object(function.get("arguments", function.get("input"))),
            }
            if call.get("cache_control"):
                block["cache_control"] = call["cache_control"]
            blocks.append(block)
        return blocks

    def _tool_result(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        content = message.get("content")
        block: dict[str, Any] = {
            "type": "tool_result",
            "tool_use_id": clean_id(message["tool_call_id"], TOOL_ID),
        }
        if isinstance(content, str):
            if content:
                block["content"] = content
        elif content:
            block["content"] = self._blocks(content, where)
        if message.get("is_error"):
            block["is_error"] = True
        if message.get("cache_control"):
            block["cache_control"] = message["cache_control"]
        return block

    def _blocks(self, content: Any, where: str, *, assistant: bool = False) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if content.strip() else []
        blocks = []
        for position, part in enumerate(content or ()):
            block = self._block(part, f"{where}[{position}]", assistant=assistant)
            if block is not None:
                if part.get("cache_control"):
                    block["cache_control"] = part["cache_control"]
                blocks.append(block)
        return blocks

    def _block(
        self, part: Mapping[str, Any], where: str, *, assistant: bool
    ) -> dict[str, Any] | None:
        match part.get("type"):
            case "text" | "refusal":
                text = part.get("text") or part.get("refusal") or ""
                return {"type": "text", "text": text} if text.strip() else None
            case "image_url":
                return image_block(part["image_url"], where)
            case "file":
                return document_block(part["file"], where)
            case "input_audio":
                raise refuse(where, "Claude takes no audio")
            case kind if assistant:
                self._losses.drop(where, f"`{kind}` is known to one provider only")
                return None
            case kind:
                raise refuse(where, f"`{kind}` content is known to one provider only")


def image_block(image: Any, where: str) -> dict[str, Any]:
    """Return an image; by URL only as http(s), which Anthropic fetches."""
    url = image if isinstance(image, str) else image.get("url", "")
    if url.startswith(("https://", "http://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    parsed = parse_data_url(url)
    if parsed is None:
        raise refuse(where, "the image is neither an http(s) URL nor a data URL")
    mime, payload = parsed
    if mime not in _IMAGES:
        raise refuse(where, f"Claude takes no `{mime}` images")
    source = {"type": "base64", "media_type": mime, "data": payload}
    return {"type": "image", "source": source}


def document_block(file: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a PDF or text document."""
    title = {"title": file["filename"]} if file.get("filename") else {}
    if file.get("file_url"):
        return {"type": "document", "source": {"type": "url", "url": file["file_url"]}} | title
    if not file.get("file_data"):
        raise refuse(where, "the file is stored at another provider; send its data")
    payload = file["file_data"]
    mime, encoded = parse_data_url(payload) or (
        guess_mime(str(file.get("filename") or ""), "application/pdf"),
        payload,
    )
    if mime in _IMAGES:
        source = {"type": "base64", "media_type": mime, "data": encoded}
        return {"type": "image", "source": source}
    if mime == "application/pdf":
        source = {"type": "base64", "media_type": mime, "data": encoded}
    elif mime.startswith("text/") or mime == "application/json":
        source = {"type": "text", "media_type": "text/plain", "data": decode_text(encoded, where)}
    else:
        raise refuse(where, f"Claude takes no `{mime}` documents")
    return {"type": "document", "source": source} | title


def decode_text(encoded: str, where: str) -> str:
    """Return the text of base64 `encoded`, which must be UTF-8."""
    try:
        return base64.b64decode(encoded, validate=False).decode("utf-8")
    except ValueError:
        raise refuse(where, "the document is not valid base64 of UTF-8 text") from None


def limit_breakpoints(body: dict[str, Any]) -> None:
    """Keep the last four cache breakpoints: the later ones cover what the earlier ones do."""
    marked = [tool for tool in body.get("tools") or () if "cache_control" in tool]
    if isinstance(body.get("system"), list):
        marked += [block for block in body["system"] if "cache_control" in block]
    for message in body["messages"]:
        marked += [block for block in message["content"] if "cache_control" in block]
    allowed = MAX_BREAKPOINTS - ("cache_control" in body)
    for block in marked[: max(0, len(marked) - allowed)]:
        del block["cache_control"]


def plain_system(blocks: list[dict[str, Any]]) -> Any:
    """Return `system` as a string where it is one plain block."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return text_of(blocks)
    return blocks
