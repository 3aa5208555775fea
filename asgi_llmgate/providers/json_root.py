"""JSON answers that are no objects, where a model can be held to objects only.

Gemini takes any schema, so its callers ask for lists and words (`response_schema=list[Recipe]`).
All others want an object at the root: the schema becomes that of one field, and the answer is
taken out of it again, in a stream without waiting for its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.providers.inner import Inner

__all__ = ["RootOpener", "opened", "with_object_root"]

FIELD = "answer"
_START = re.compile(r'\s*\{\s*"answer"\s*:\s*')
# What may be the beginning of that: as long as it is, nothing is known.
_MAX_START = 64
_END = re.compile(r"[\s}]*\Z")


def with_object_root(request: Inner) -> Inner:
    """Return `request`, its schema in a field of an object if it is none; else itself."""
    wanted = request.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return request
    named = wanted["json_schema"]
    schema = named.get("schema")
    if not isinstance(schema, Mapping) or _is_object(schema, schema):
        return request
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    inner = {name: value for name, value in schema.items() if name not in shared}
    root = {"type": "object", "properties": {FIELD: inner}, "required": [FIELD]}
    changed = {**named, "schema": {**root, "additionalProperties": False, **shared}}
    return {**request, "response_format": {**wanted, "json_schema": changed}}


def opened(text: str) -> str:
    """Return the answer inside `text`; `text` itself if there is none."""
    try:
        value = loads(text)
    except JSONError:
        return text
    if isinstance(value, dict) and value.keys() == {FIELD}:
        return dumps(value[FIELD]).decode()
    return text


class RootOpener:
    """The same for a stream: takes off the object's start, and at the end its last brace."""

    def __init__(self) -> None:
        self._is_open: bool | None = None
        self._kept = ""

    def feed(self, chunk: Inner) -> Inner:
        """Return `chunk` with what is known to belong to the answer."""
        choices = chunk.get("choices")
        if not choices or choices[0].get("index"):
            return chunk
        choice = choices[0]
        text = choice["delta"].get("content") or ""
        if text:
            text = self._text(text)
        if choice.get("finish_reason"):
            text += self._rest()
        if not text and not choice["delta"].get("content"):
            return chunk
        delta = {**choice["delta"], "content": text}
        return {**chunk, "choices": [{**choice, "delta": delta}, *choices[1:]]}

    def _text(self, text: str) -> str:
        text, self._kept = self._kept + text, ""
        if self._is_open is None:
            start = _START.match(text)
            if start is not None:
                self._is_open, text = True, text[start.end() :]
            elif len(text) > _MAX_START or not _may_start(text):
                self._is_open = False
            else:
                self._kept = text
                return ""
        if not self._is_open:
            return text
        end = _END.search(text)
        place = len(text) if end is None else end.start()
        self._kept = text[place:]
        return text[:place]

    def _rest(self) -> str:
        kept, self._kept = self._kept, ""
        return kept.rstrip().removesuffix("}").rstrip() if self._is_open else kept


def _may_start(text: str) -> bool:
    squeezed = "".join(text.split())
    return f'{{"{FIELD}":'.startswith(squeezed)


def _is_object(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for step in reference[2:].split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        return isinstance(found, Mapping) and "$ref" not in found and _is_object(found, root)
    return schema.get("type", "object") == "object" and "anyOf" not in schema
