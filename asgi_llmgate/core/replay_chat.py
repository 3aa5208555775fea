"""OpenAI chat and legacy completions: a stream as one object, and an object as a stream.

Source: the accumulators of openai-python and openai-node, which add strings to strings and keep
tool calls by their index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.core.sse import EventDecoder
from asgi_llmgate.core.withhold import is_usage_only
from asgi_llmgate.types import Usage

__all__ = [
    "chat_usage",
    "fold_chat",
    "fold_completions",
    "scan_chat",
    "tell_chat",
    "tell_completions",
    "without_usage",
]

DONE = b"data: [DONE]\n\n"

# Texts of a delta that grow; whatever else is new in a delta may grow in a way of its own.
_GROWING = frozenset({"content", "refusal", "reasoning_content", "reasoning"})
# Of a chunk, not of the answer.
_OF_CHUNKS = frozenset({"choices", "object", "usage", "obfuscation"})
# Sent in pieces by streams, and whole by nobody; told in one piece it would be another format.
_UNTELLABLE = frozenset({"audio"})

Folded = tuple[dict[str, Any], bool]


def fold_chat(chunks: list[dict[str, Any]]) -> Folded | None:
    return _fold(chunks, "chat.completion", _add_delta, _finished_choice)


def scan_chat(stream: bytes) -> tuple[set[object], bool] | None:
    """Return why the choices of a stream ended, and whether it reports usage.

    For streams as nearly everybody writes them; None for others, which have to be read in full.
    A choice that never ended is there as None. Most events only carry text and say that nothing
    has ended, which is seen without decoding them.
    """
    if b"\r" in stream or not stream.endswith(b"\n\n"):
        return None
    ended: dict[object, object] = {}
    has_usage = False
    for event in stream.split(b"\n\n"):
        if (
            b'"finish_reason":null' in event
            and b'"finish_reason":"' not in event
            and b'"error"' not in event
            and b'"usage":{' not in event
            and event.count(b'"index":') == event.count(b'"index":0')
        ):
            ended.setdefault(0, None)
            continue
        if event[:6] != b"data: " or b"\n" in event:
            if event:
                return None
            continue
        if event == b"data: [DONE]":
            break
        chunk = loads(event[6:])
        if not isinstance(chunk, dict) or chunk.get("error"):
            return {"error"}, False
        has_usage = has_usage or isinstance(chunk.get("usage"), dict)
        for choice in chunk.get("choices") or ():
            index = choice.get("index", 0)
            ended[index] = choice.get("finish_reason") or ended.get(index)
    return set(ended.values()), has_usage


def fold_completions(chunks: list[dict[str, Any]]) -> Folded | None:
    return _fold(chunks, "text_completion", _add_text, dict)


def _fold(chunks: list[dict[str, Any]], kind: str, add: Any, finish: Any) -> Folded | None:
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    is_whole = True
    usage: Any = None
    for chunk in chunks:
        answer.update(_rest(chunk, _OF_CHUNKS))
        if isinstance(chunk.get("usage"), dict):
            usage = chunk["usage"]
        for piece in chunk.get("choices") or ():
            index = piece.get("index", 0)
            choice = choices.get(index)
            if choice is None:
                choice = choices[index] = {"index": index}
            if not add(choice, piece):
                is_whole = False
    if not choices:
        return None
    answer["object"] = kind
    answer["choices"] = [finish(choices[index]) for index in sorted(choices)]
    if usage is not None:
        answer["usage"] = usage
    return answer, is_whole


def _add_delta(choice: dict[str, Any], piece: Mapping[str, Any]) -> bool:
    """Add one chunk's piece; False if it holds something that is not known to add up."""
    is_known = _add_common(choice, piece, ("index", "delta", "finish_reason", "logprobs"))
    message = choice.setdefault("message", {})
    for name, value in (piece.get("delta") or {}).items():
        if name == "tool_calls":
            is_known = _add_calls(message, value) and is_known
        elif name == "function_call" and isinstance(value, dict):
            call = message.setdefault("function_call", {"name": "", "arguments": ""})
            for part in ("name", "arguments"):
                call[part] += value.get(part) or ""
        elif name == "role":
            message["role"] = value or message.get("role")
        elif name in _GROWING and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is None:
            message.setdefault(name, None)
        else:
            message[name] = value
            is_known = False
    return is_known


def _add_common(choice: dict[str, Any], piece: Mapping[str, Any], known: tuple[str, ...]) -> bool:
    is_known = True
    if piece.get("finish_reason") is not None:
        choice["finish_reason"] = piece["finish_reason"]
    logprobs = piece.get("logprobs")
    if isinstance(logprobs, dict):
        kept = choice.setdefault("logprobs", {})
        for name, values in logprobs.items():
            if isinstance(values, list):
                kept[name] = [*(kept.get(name) or ()), *values]
            elif values is None:
                kept.setdefault(name, None)
            else:
                is_known = False
    # `stop_reason` of vLLM, `native_finish_reason` of OpenRouter …
    choice.update(_rest(piece, known))
    return is_known


def _rest(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    return {
        name: value for name, value in fields.items() if name not in known and value is not None
    }


def _add_calls(message: dict[str, Any], pieces: Any) -> bool:
    if not isinstance(pieces, list):
        return pieces is None
    is_known = True
    calls = message.setdefault("tool_calls", [])
    for position, piece in enumerate(pieces):
        index = piece.get("index", position)
        call = next((call for call in calls if call["index"] == index), None)
        if call is None:
            call = {"index": index}
            calls.append(call)
        for name, value in piece.items():
            if name in ("function", "custom") and isinstance(value, dict):
                inner = call.setdefault(name, {})
                for part, text in value.items():
                    if isinstance(text, str):
                        inner[part] = (inner.get(part) or "") + text
                    elif text is not None:
                        is_known = False
            elif value is not None:
                call[name] = value
    return is_known


def _finished_choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": None} | {
        name: value for name, value in choice["message"].items() if value is not None
    }
    if "tool_calls" in message:
        calls = sorted(message["tool_calls"], key=lambda call: call["index"])
        message["tool_calls"] = [
            {name: value for name, value in call.items() if name != "index"} for call in calls
        ]
    rest = {name: value for name, value in choice.items() if name not in ("index", "message")}
    return {"index": choice["index"], "message": message, "logprobs": None} | rest


def _add_text(choice: dict[str, Any], piece: Mapping[str, Any]) -> bool:
    choice["text"] = choice.get("text", "") + (piece.get("text") or "")
    choice.setdefault("logprobs", None)
    if piece.get("logprobs") is not None:
        return False
    return _add_common(choice, piece, ("index", "text", "finish_reason", "logprobs"))


def tell_chat(answer: Mapping[str, Any], *, with_usage: bool) -> bytes | None:
    """Return the events that spell `answer`; None if it holds what streams have no form for."""
    base = _base(answer, "chat.completion.chunk", with_usage=with_usage)
    events: list[bytes] = []

    def tell(index: int, delta: dict[str, Any], **more: Any) -> None:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | more
        events.append(_data(base | {"choices": [choice]}))

    for choice in answer["choices"]:
        index, message = choice.get("index", 0), choice["message"]
        if any(message.get(name) for name in _UNTELLABLE):
            return None
        empty = None if message.get("content") is None else ""
        tell(index, {"role": message.get("role", "assistant"), "content": empty})
        logprobs = choice.get("logprobs")
        # One delta per field, thoughts first, as a model writes them.
        for name in ("reasoning_content", "reasoning"):
            if message.get(name):
                tell(index, {name: message[name]})
        told = {"role", "content", "reasoning_content", "reasoning", "tool_calls"}
        others = {
            name: value
            for name, value in message.items()
            if name not in told and value is not None and value != []
        }
        if message.get("content"):
            tell(index, {"content": message["content"]}, logprobs=logprobs)
            logprobs = None
        if others:
            tell(index, others, logprobs=logprobs)
            logprobs = None
        for number, call in enumerate(message.get("tool_calls") or ()):
            tell(index, {"tool_calls": [{"index": number} | call]})
        rest = {
            name: value
            for name, value in choice.items()
            if name not in ("index", "message", "logprobs")
        }
        tell(index, {}, logprobs=logprobs, **rest)
    return b"".join(events) + _end(base, answer, with_usage=with_usage)


def tell_completions(answer: Mapping[str, Any], *, with_usage: bool) -> bytes | None:
    base = _base(answer, "text_completion", with_usage=with_usage)
    events = [_data(base | {"choices": [choice]}) for choice in answer["choices"]]
    return b"".join(events) + _end(base, answer, with_usage=with_usage)


def _base(answer: Mapping[str, Any], kind: str, *, with_usage: bool) -> dict[str, Any]:
    base = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    # Every chunk but the last says so, where usage was asked for.
    return base | {"object": kind} | ({"usage": None} if with_usage else {})


def _end(base: dict[str, Any], answer: Mapping[str, Any], *, with_usage: bool) -> bytes:
    if not with_usage:
        return DONE
    return _data(base | {"choices": [], "usage": answer["usage"]}) + DONE


def without_usage(stream: bytes) -> bytes:
    """Return a stream without the event that only reports usage."""
    decoder = EventDecoder()
    kept: list[bytes] = []
    for event in decoder.feed(stream) + decoder.close():
        try:
            payload = loads(event.data)
        except JSONError:
            payload = None
        if isinstance(payload, dict) and is_usage_only(payload):
            continue
        kept.append(b"data: " + event.data.replace("\n", "\ndata: ").encode() + b"\n\n")
    return b"".join(kept)


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Return what was used as OpenAI chat reports it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "audio_tokens": usage.input_audio_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }


def _data(payload: Mapping[str, Any]) -> bytes:
    return b"data: " + dumps(payload) + b"\n\n"
