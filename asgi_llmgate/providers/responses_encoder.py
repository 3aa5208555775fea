"""The event stream of OpenAI Responses, written from chunks of the inner form.

Every event has a type and a running number. One item is open at a time, except that fragments
of an earlier function call still go to their own item; each item is announced, filled and
closed, and the last event repeats the whole response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.providers._parts import annotations_of
from asgi_llmgate.providers._sse import named_event
from asgi_llmgate.providers.inner import Call, Inner
from asgi_llmgate.providers.provider_errors import ProviderError, openai_error
from asgi_llmgate.providers.responses_items import (
    call_item,
    envelope,
    finish_fields,
    item_id,
    message_item,
    reasoning_item,
    sealed_signature,
    text_part,
)

__all__ = ["ResponsesStreamEncoder"]


class _Item:
    """An item being filled: `index` in the output, `kind`, and the pieces of its text."""

    __slots__ = ("annotations", "id", "index", "kind", "logprobs", "number", "pieces", "started")

    def __init__(self, kind: str, index: int, identifier: str) -> None:
        self.kind = kind
        self.index = index
        self.id = identifier
        self.number = 0
        self.pieces: list[str] = []
        self.annotations: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.started: dict[str, Any] = {}


class ResponsesStreamEncoder:
    """State: the open item, open function calls by number, and the output so far."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._sequence = 0
        self._head: dict[str, Any] | None = None
        self._output: dict[int, dict[str, Any]] = {}
        self._next = 0
        self._open: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._finish: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] | None = None

    def feed(self, chunk: Inner) -> bytes:
        out = b"" if self._head is not None else self._start(chunk)
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not choices or choices[0].get("index"):
            return out
        choice = choices[0]
        delta = choice["delta"]
        if delta:
            if delta.get("reasoning_content"):
                out += self._reason(delta["reasoning_content"])
            for block in delta.get("thinking_blocks") or ():
                out += self._sign(block)
            text = delta.get("content")
            if text:
                out += self._say(text, choice.get("logprobs"))
            if delta.get("refusal"):
                out += self._refuse(delta["refusal"])
            if delta.get("annotations"):
                out += self._annotate(annotations_of(delta))
            for made in delta.get("tool_calls") or ():
                out += self._tool(made)
        if choice.get("finish_reason"):
            self._finish = choice
        return out

    def close(self) -> bytes:
        out = b"" if self._head is not None else self._start({})
        out += self._leave()
        for item in self._calls.values():
            out += self._end_call(item)
        response = self._whole(finish_fields(self._finish, self._usage, self._call))
        return out + self._event(f"response.{response['status']}", response=response)

    def error(self, error: ProviderError) -> bytes:
        out = b"" if self._head is not None else self._start({})
        code = error.code or error.type
        # `error` is what the SDKs raise for; the rest is the event as the API defines it.
        out += self._event(
            "error", code=code, message=error.message, param=error.param, **openai_error(error)
        )
        failure = {"status": "failed", "error": {"code": code, "message": error.message}}
        return out + self._event("response.failed", response=self._whole(failure))

    def _start(self, chunk: Inner) -> bytes:
        identifier = chunk.get("id") or f"resp_{self._call.id}"
        self._head = envelope(self._call, identifier, chunk.get("model"))
        created = self._event("response.created", response=self._head)
        return created + self._event("response.in_progress", response=self._head)

    def _whole(self, fields: dict[str, Any]) -> dict[str, Any]:
        output = [self._output[index] for index in sorted(self._output)]
        return {**(self._head or {}), **fields, "output": output}

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return named_event(event)

    def _add(self, prefix: str, kind: str, item: dict[str, Any]) -> tuple[_Item, bytes]:
        index = self._next
        self._next += 1
        made = _Item(kind, index, item.get("id") or item_id(prefix, self._call, index))
        made.started = {"id": made.id, **item}
        event = self._event("response.output_item.added", output_index=index, item=made.started)
        return made, event

    def _leave(self) -> bytes:
        """Close the open message or reasoning; function calls close on their own."""
        item, self._open = self._open, None
        if item is None:
            return b""
        text = "".join(item.pieces)
        if item.kind == "reasoning":
            return self._end_reasoning(item, text, None)
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0}
        if item.kind == "refusal":
            part: dict[str, Any] = {"type": "refusal", "refusal": text}
            out = self._event("response.refusal.done", refusal=text, **place)
        else:
            part = text_part(text, item.annotations, item.logprobs)
            out = self._event(
                "response.output_text.done", text=text, logprobs=item.logprobs, **place
            )
        out += self._event("response.content_part.done", part=part, **place)
        return out + self._done(item, message_item(self._call, item.index, [part]))

    def _done(self, item: _Item, whole: dict[str, Any]) -> bytes:
        self._output[item.index] = whole
        return self._event("response.output_item.done", output_index=item.index, item=whole)

    def _reason(self, text: str) -> bytes:
        out = b""
        item = self._open
        if item is None or item.kind != "reasoning":
            out = self._leave()
            item, event = self._add("rs", "reasoning", {"type": "reasoning", "summary": []})
            self._open = item
            place = {"item_id": item.id, "output_index": item.index, "summary_index": 0}
            part = {"type": "summary_text", "text": ""}
            out += event + self._event("response.reasoning_summary_part.added", part=part, **place)
        item.pieces.append(text)
        return out + self._event(
            "response.reasoning_summary_text.delta",
            item_id=item.id,
            output_index=item.index,
            summary_index=0,
            delta=text,
        )

    def _sign(self, block: Mapping[str, Any]) -> bytes:
        item, out = self._open, b""
        if item is not None and item.kind == "reasoning":
            self._open = None
        else:
            out = self._leave()
            item, event = self._add("rs", "reasoning", {"type": "reasoning", "summary": []})
            out += event
        return out + self._end_reasoning(item, "".join(item.pieces), block)

    def _end_reasoning(self, item: _Item, text: str, block: Mapping[str, Any] | None) -> bytes:
        out = b""
        if text:
            place = {"item_id": item.id, "output_index": item.index, "summary_index": 0}
            part = {"type": "summary_text", "text": text}
            out += self._event("response.reasoning_summary_text.done", text=text, **place)
            out += self._event("response.reasoning_summary_part.done", part=part, **place)
        whole = reasoning_item(self._call, item.index, text, block)
        return out + self._done(item, whole | {"id": item.id})

    def _message(self, kind: str, part: dict[str, Any]) -> tuple[_Item, bytes]:
        item = self._open
        if item is not None and item.kind == kind:
            return item, b""
        out = self._leave()
        started = {"type": "message", "status": "in_progress", "role": "assistant", "content": []}
        item, event = self._add("msg", kind, started)
        self._open = item
        out += event
        out += self._event(
            "response.content_part.added",
            item_id=item.id,
            output_index=item.index,
            content_index=0,
            part=part,
        )
        return item, out

    def _say(self, text: str, logprobs: Mapping[str, Any] | None) -> bytes:
        item, out = self._message("message", text_part("", [], []))
        tokens = (logprobs or {}).get("content") or []
        item.logprobs += tokens
        item.pieces.append(text)
        return out + self._event(
            "response.output_text.delta",
            item_id=item.id,
            output_index=item.index,
            content_index=0,
            delta=text,
            logprobs=tokens,
        )

    def _refuse(self, text: str) -> bytes:
        item, out = self._message("refusal", {"type": "refusal", "refusal": ""})
        item.pieces.append(text)
        return out + self._event(
            "response.refusal.delta",
            item_id=item.id,
            output_index=item.index,
            content_index=0,
            delta=text,
        )

    def _annotate(self, citations: list[dict[str, Any]]) -> bytes:
        item, out = self._message("message", text_part("", [], []))
        for citation in citations:
            out += self._event(
                "response.output_text.annotation.added",
                item_id=item.id,
                output_index=item.index,
                content_index=0,
                annotation_index=len(item.annotations),
                annotation={"type": "url_citation", **citation},
            )
            item.annotations.append(citation)
        return out

    def _tool(self, made: Mapping[str, Any]) -> bytes:
        number = made.get("index", 0)
        item, out = self._calls.get(number), b""
        if item is None:
            out = self._leave()
            identifier = made.get("id") or f"call_{self._call.id}_{number}"
            made = {**made, "id": identifier}
            signature = sealed_signature(made)
            if signature is not None:
                out += self._sign(signature)
            if made.get("type") not in {None, "function"}:
                return out + self._whole_call(made)
            started = call_item(self._call, self._next, made)
            started |= {"status": "in_progress", "arguments": ""}
            item, event = self._add("fc", "call", started)
            self._calls[number] = item
            out += event
        arguments = (made.get("function") or {}).get("arguments")
        if arguments:
            item.pieces.append(arguments)
            out += self._event(
                "response.function_call_arguments.delta",
                item_id=item.id,
                output_index=item.index,
                delta=arguments,
            )
        return out

    def _whole_call(self, made: Mapping[str, Any]) -> bytes:
        """Write a call of a tool that is no function; it comes in one piece."""
        whole = call_item(self._call, self._next, made)
        empty = {"input": ""} if "input" in whole else {}
        item, out = self._add("", "call", {**whole, "status": "in_progress", **empty})
        if "input" in whole:
            place = {"item_id": item.id, "output_index": item.index}
            kind = "response.custom_tool_call_input"
            if whole["input"]:
                out += self._event(f"{kind}.delta", delta=whole["input"], **place)
            out += self._event(f"{kind}.done", input=whole["input"], **place)
        return out + self._done(item, whole)

    def _end_call(self, item: _Item) -> bytes:
        arguments = "".join(item.pieces) or "{}"
        whole = {**item.started, "status": "completed", "arguments": arguments}
        out = self._event(
            "response.function_call_arguments.done",
            item_id=item.id,
            output_index=item.index,
            name=whole["name"],
            arguments=arguments,
        )
        return out + self._done(item, whole)
