"""Turns of the inner form as Gemini contents.

Roles alternate here (equal neighbours are merged) and the first is the user's. A result needs
its function's name, so names are remembered by call id. From Gemini 3 on the first call of a
turn must carry its signature; where it is lost or another provider's, Google documents a dummy.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.providers._parts import (
    Names,
    arguments_object,
    guess_mime,
    parse_data_url,
    texts_of,
)
from asgi_llmgate.providers.inner import Losses, refuse

__all__ = ["DUMMY_SIGNATURE", "Contents"]

DUMMY_SIGNATURE = base64.b64encode(b"skip_thought_signature_validator").decode()

_RESOLUTIONS = {
    "low": "MEDIA_RESOLUTION_LOW",
    "high": "MEDIA_RESOLUTION_HIGH",
    "original": "MEDIA_RESOLUTION_HIGH",
}


class Contents:
    """Contents under construction: `system` texts and alternating `contents`."""

    def __init__(self, names: Names, losses: Losses, *, signs: bool) -> None:
        self.system: list[str] = []
        self.contents: list[dict[str, Any]] = []
        self._names = names
        self._losses = losses
        self._signs = signs
        self._called: dict[str, str] = {}

    def add(self, message: Mapping[str, Any], index: int) -> None:
        """Append `message`, which is `messages[index]` of the request."""
        where = f"messages[{index}].content"
        match message.get("role"):
            case "system" | "developer":
                self.system += texts_of(message.get("content"))
            case "assistant":
                self._append("model", self._model_parts(message, where))
            case "tool" | "function":
                self._append("user", self._result(message, where))
            case _:
                self._append("user", self._parts(message.get("content"), where))

    def finish(self) -> None:
        """Have a user's turn where there were only instructions."""
        if not self.contents:
            self.contents.append(_nothing())

    def _append(self, role: str, parts: list[dict[str, Any]]) -> None:
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"] += parts
            return
        if not self.contents and role == "model":
            self.contents.append(_nothing())
        self.contents.append({"role": role, "parts": parts})

    def _model_parts(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        loose: str | None = None
        for block in message.get("thinking_blocks") or ():
            if block.get("origin") == "gemini" and block.get("signature"):
                if block.get("thinking"):
                    text = {"text": block["thinking"], "thought": True}
                    parts.append(text | {"thoughtSignature": block["signature"]})
                else:
                    loose = block["signature"]
        said = self._parts(message.get("content"), where, assistant=True)
        if message.get("refusal") and not said:
            said = [{"text": message["refusal"]}]
        if loose and said:
            said[-1]["thoughtSignature"] = loose
        parts += said
        first = True
        for call in message.get("tool_calls") or ():
            parts.append(self._call(call, first=first))
            first = False
        return parts

    def _call(self, call: Mapping[str, Any], *, first: bool) -> dict[str, Any]:
        function = call.get("function") or call.get("custom") or {}
        name = self._names.clean(function["name"])
        self._called[call["id"]] = name
        arguments = arguments_object(function.get("arguments", function.get("input")))
        part: dict[str, Any] = {"functionCall": {"id": call["id"], "name": name, "args": arguments}}
        google = (call.get("extra_content") or {}).get("google") or {}
        if google.get("thought_signature"):
            part["thoughtSignature"] = google["thought_signature"]
        elif first and self._signs:
            part["thoughtSignature"] = DUMMY_SIGNATURE
        return part

    def _result(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        identifier = message["tool_call_id"]
        content = message.get("content")
        text = "\n\n".join(texts_of(content))
        result: dict[str, Any] = {
            "id": identifier,
            "name": self._called.get(identifier) or message.get("name") or identifier,
            "response": _response(text, is_error=bool(message.get("is_error"))),
        }
        media: list[dict[str, Any]] = []
        if isinstance(content, list):
            media = self._parts([part for part in content if part.get("type") != "text"], where)
        if media and self._signs:
            result["parts"] = media
            media = []
        # Before Gemini 3 a result is text; what else it has stands beside it.
        return [{"functionResponse": result}, *media]

    def _parts(self, content: Any, where: str, *, assistant: bool = False) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"text": content}] if content else []
        parts = []
        for position, part in enumerate(content or ()):
            made = self._part(part, f"{where}[{position}]", assistant=assistant)
            if made is not None:
                parts.append(made)
        return parts

    def _part(
        self, part: Mapping[str, Any], where: str, *, assistant: bool
    ) -> dict[str, Any] | None:
        match part.get("type"):
            case "text" | "refusal":
                text = part.get("text") or part.get("refusal")
                return {"text": text} if text else None
            case "image_url":
                image = part["image_url"]
                url = image if isinstance(image, str) else image.get("url", "")
                made = _data(url, "image/jpeg", where)
                detail = None if isinstance(image, str) else image.get("detail")
                if self._signs and detail in _RESOLUTIONS:
                    made["mediaResolution"] = {"level": _RESOLUTIONS[detail]}
                return made
            case "input_audio":
                audio = part["input_audio"]
                kind = "mpeg" if audio.get("format") == "mp3" else audio.get("format", "wav")
                return {"inlineData": {"mimeType": f"audio/{kind}", "data": audio["data"]}}
            case "file":
                file = part["file"]
                if file.get("file_url"):
                    return _data(file["file_url"], "application/pdf", where)
                if not file.get("file_data"):
                    raise refuse(where, "the file is stored at another provider; send its data")
                payload = file["file_data"]
                mime = guess_mime(str(file.get("filename") or ""), "application/pdf")
                if not payload.startswith("data:"):
                    return {"inlineData": {"mimeType": mime, "data": payload}}
                return _data(payload, mime, where)
            case kind if assistant:
                self._losses.drop(where, f"`{kind}` is known to one provider only")
                return None
            case kind:
                raise refuse(where, f"`{kind}` content is known to one provider only")


def _nothing() -> dict[str, Any]:
    """Return a user's turn, which the API wants first; a single space says nothing."""
    return {"role": "user", "parts": [{"text": " "}]}


def _data(url: str, default: str, where: str) -> dict[str, Any]:
    if url.startswith(("https://", "http://", "gs://")):
        return {"fileData": {"fileUri": url, "mimeType": guess_mime(url, default)}}
    parsed = parse_data_url(url)
    if parsed is None:
        raise refuse(where, "it is neither an http(s) URL nor a data URL")
    mime, payload = parsed
    return {"inlineData": {"mimeType": mime, "data": payload}}


def _response(text: str, *, is_error: bool) -> dict[str, Any]:
    """Return what a function returned as the object Gemini wants."""
    if is_error:
        return {"error": text}
    if text.startswith("{"):
        try:
            value = loads(text)
        except JSONError:
            return {"result": text}
        if isinstance(value, dict):
            return value
    return {"result": text}
