"""OpenAI Responses: the last event of a stream is the answer; an answer is told item by item.

Source: openai SDK 3.54 (types/responses), recorded streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgi_llmgate.core.json import dumps

__all__ = ["fold_responses", "tell_responses"]


def fold_responses(events: list[dict[str, Any]]) -> tuple[dict[str, Any], bool] | None:
    items: dict[int, Any] = {}
    for event in events:
        match event.get("type"):
            case "response.output_item.done":
                items[event["output_index"]] = event["item"]
            case "response.completed":
                answer = dict(event["response"])
                # Some servers send the items only once.
                if not answer.get("output") and items:
                    answer["output"] = [items[index] for index in sorted(items)]
                return answer, True
            case "response.failed" | "response.incomplete" | "error":
                return None
    return None


def tell_responses(answer: Mapping[str, Any]) -> bytes | None:
    if answer.get("object") != "response":
        return None
    teller = _Teller()
    begun = dict(answer) | {"status": "in_progress", "output": [], "usage": None}
    if "completed_at" in begun:
        begun["completed_at"] = None
    teller.tell("response.created", response=begun)
    teller.tell("response.in_progress", response=begun)
    for index, item in enumerate(answer["output"]):
        teller.tell_item(index, item)
    teller.tell("response.completed", response=dict(answer))
    return b"".join(teller.events)


class _Teller:
    def __init__(self) -> None:
        self.events: list[bytes] = []

    def tell(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "sequence_number": len(self.events)} | fields
        self.events.append(b"event: " + kind.encode() + b"\ndata: " + dumps(event) + b"\n\n")

    def tell_item(self, index: int, item: dict[str, Any]) -> None:
        begun = dict(item)
        if "status" in begun:
            begun["status"] = "in_progress"
        place = {"item_id": item.get("id"), "output_index": index}
        match item.get("type"):
            case "message":
                self.tell(
                    "response.output_item.added", output_index=index, item=begun | {"content": []}
                )
                for number, part in enumerate(item.get("content") or ()):
                    self._part(part, place | {"content_index": number})
            case "reasoning":
                emptied: dict[str, Any] = {"summary": []}
                if item.get("content"):
                    emptied["content"] = []
                self.tell("response.output_item.added", output_index=index, item=begun | emptied)
                for number, part in enumerate(item.get("summary") or ()):
                    self._summary(part, place | {"summary_index": number})
                for number, part in enumerate(item.get("content") or ()):
                    self._text("response.reasoning_text", part, place | {"content_index": number})
            case "function_call" | "mcp_call" as kind:
                self.tell(
                    "response.output_item.added", output_index=index, item=begun | {"arguments": ""}
                )
                name = f"response.{kind}_arguments"
                arguments = item.get("arguments") or ""
                if arguments:
                    self.tell(f"{name}.delta", **place, delta=arguments)
                more = {"name": item.get("name")} if kind == "function_call" else {}
                self.tell(f"{name}.done", **place, **more, arguments=arguments)
            case "custom_tool_call":
                self.tell(
                    "response.output_item.added", output_index=index, item=begun | {"input": ""}
                )
                given = item.get("input") or ""
                if given:
                    self.tell("response.custom_tool_call_input.delta", **place, delta=given)
                self.tell("response.custom_tool_call_input.done", **place, input=given)
            case _:
                # Hosted tools report progress in events of their own, which change no answer.
                self.tell("response.output_item.added", output_index=index, item=begun)
        self.tell("response.output_item.done", output_index=index, item=item)

    def _part(self, part: dict[str, Any], place: dict[str, Any]) -> None:
        is_refusal = part.get("type") == "refusal"
        emptied: dict[str, Any] = {"refusal": ""} if is_refusal else {"text": "", "annotations": []}
        if part.get("logprobs"):
            emptied["logprobs"] = []
        self.tell("response.content_part.added", **place, part=part | emptied)
        if is_refusal:
            self.tell("response.refusal.delta", **place, delta=part["refusal"])
            self.tell("response.refusal.done", **place, refusal=part["refusal"])
        else:
            logprobs = part.get("logprobs") or []
            if part.get("text"):
                self.tell(
                    "response.output_text.delta", **place, delta=part["text"], logprobs=logprobs
                )
            for number, note in enumerate(part.get("annotations") or ()):
                self.tell(
                    "response.output_text.annotation.added",
                    **place,
                    annotation_index=number,
                    annotation=note,
                )
            self.tell(
                "response.output_text.done", **place, text=part.get("text", ""), logprobs=logprobs
            )
        self.tell("response.content_part.done", **place, part=part)

    def _summary(self, part: dict[str, Any], place: dict[str, Any]) -> None:
        self.tell("response.reasoning_summary_part.added", **place, part=part | {"text": ""})
        self._text("response.reasoning_summary_text", part, place)
        self.tell("response.reasoning_summary_part.done", **place, part=part)

    def _text(self, name: str, part: dict[str, Any], place: dict[str, Any]) -> None:
        if part.get("text"):
            self.tell(f"{name}.delta", **place, delta=part["text"])
        self.tell(f"{name}.done", **place, text=part.get("text", ""))
