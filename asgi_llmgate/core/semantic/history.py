"""Calls that were made once, as questions and answers to go through again. Pure.

A line of a file is `{"question": …, "answer": …}`, or a pair of bodies, `{"request": …, "response":
…}`, or a call as `llmgate logs tail --json` prints it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from asgi_llmgate.core.cache_key import ATTRIBUTION, NOT_IN_KEY
from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.semantic.answers import answer_text
from asgi_llmgate.core.semantic.asking import FULL, Context, asking
from asgi_llmgate.core.semantic.wording import unfit
from asgi_llmgate.types import CallRecord

__all__ = ["Past", "past_of_line", "past_of_record"]

# What embedding and judging calls of the cache itself are marked with.
OWN_PURPOSE = "semantic-cache"

_OUT = NOT_IN_KEY | ATTRIBUTION
_FORMATS = {"messages": "openai-chat", "contents": "gemini", "input": "openai-responses"}


class Past(NamedTuple):
    """One call.

    Args:
        key: Equal for the very same request of the same tenant.
        scope: Questions are compared within one only.
        question: None if only the very same request may share the answer.
        answer: What was answered.
        asker: Who asked: a user, else a kind of principal, else nobody.
        cost_nanousd: What it cost, or had cost; None if that is unknown.
    """

    key: str
    scope: str
    question: str | None
    answer: str
    asker: str
    cost_nanousd: int | None


def past_of_line(line: bytes, context: Context = FULL) -> Past | str:
    """Read one line of a file; return what is wrong with it, if it is no call."""
    try:
        given = loads(line)
    except JSONError:
        return "no JSON"
    if not isinstance(given, dict):
        return "no object"
    cost = _cost(given)
    question, answer = given.get("question"), given.get("answer")
    if isinstance(question, str) and isinstance(answer, str):
        question = question.strip()
        if not question or not answer.strip():
            return "empty"
        asked = None if unfit(question) else question
        user = given.get("user")
        return Past(question, "", asked, answer, user if isinstance(user, str) else "", cost)
    tenant, asker = str(given.get("tenant") or ""), _asker(given)
    if "request" in given and "response" in given:
        return _past(given["request"], given["response"], None, context, tenant, asker, cost)
    if "request_body" not in given:
        return "neither question and answer, nor request and response"
    properties = given.get("properties")
    if isinstance(properties, dict) and properties.get("purpose") == OWN_PURPOSE:
        return "the cache's own"
    if given.get("request_body") is None or given.get("response_body") is None:
        return "no bodies"
    if given.get("request_truncated") or given.get("response_truncated"):
        return "bodies cut off"
    if given.get("status") != 200 or not given.get("complete"):
        return "failed"
    request, response = given["request_body"], given["response_body"]
    wire_format = {"anthropic": "anthropic-messages", "gemini": "gemini"}.get(
        str(given.get("dialect"))
    )
    return _past(request, response, wire_format, context, tenant, asker, cost)


def past_of_record(record: CallRecord, context: Context = FULL) -> Past | str:
    """Read a logged call; return why it cannot be gone through again, if it cannot."""
    if (record.properties or {}).get("purpose") == OWN_PURPOSE:
        return "the cache's own"
    if record.status != 200 or not record.complete:
        return "failed"
    if record.request_body is None or record.response_body is None:
        return "no bodies"
    if record.request_truncated or record.response_truncated:
        return "bodies cut off"
    cost = record.saved_nanousd if record.cache == "HIT" else record.cost_nanousd
    return _past(
        record.request_body,
        record.response_body,
        record.format,
        context,
        record.tenant or "",
        record.user_id or f"{record.principal_kind}:{record.principal_id}",
        cost,
    )


def _past(
    request: object,
    response: object,
    wire_format: str | None,
    context: Context,
    tenant: str,
    asker: str,
    cost_nanousd: int | None,
) -> Past | str:
    try:
        body = request if isinstance(request, dict) else loads(_bytes(request))
    except (JSONError, TypeError):
        return "no JSON"
    if not isinstance(body, dict):
        return "no object"
    told = _bytes(response) if isinstance(response, str | bytes) else json.dumps(response).encode()
    known = wire_format or _format_of(body, told)
    if known is None:
        return "another route"
    answer = answer_text(known, _form_of(told), told)
    if answer is None:
        return "answers that are no text"
    rest = {name: value for name, value in body.items() if name not in _OUT}
    found = asking(known, rest, context=context)
    key = _digest(tenant, known, rest)
    if isinstance(found, str):
        return Past(key, "", None, answer, asker, cost_nanousd)
    question = None if unfit(found.question) else found.question
    scope = _digest(tenant, known, found.rest)
    return Past(key, scope, question, answer, asker, cost_nanousd)


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, bytes):
        return value
    raise TypeError


def _format_of(body: Mapping[str, Any], told: bytes) -> str | None:
    for name, wire_format in _FORMATS.items():
        if name in body:
            is_anthropic = b'"type":"message' in told.replace(b" ", b"")
            return "anthropic-messages" if name == "messages" and is_anthropic else wire_format
    return "openai-completions" if "prompt" in body else None


def _form_of(told: bytes) -> str:
    start = told.lstrip()[:1]
    return {b"{": "json", b"[": "array"}.get(start, "events")


def _cost(given: Mapping[str, Any]) -> int | None:
    saved, cost, usd = (given.get(name) for name in ("saved_nanousd", "cost_nanousd", "cost_usd"))
    if given.get("cache") == "HIT" and isinstance(saved, int):
        return saved
    if isinstance(cost, int):
        return cost
    try:
        return None if usd is None else int(Decimal(str(usd)) * 10**9)
    except (InvalidOperation, ValueError, OverflowError):
        return None


def _asker(given: Mapping[str, Any]) -> str:
    return str(given.get("user_id") or given.get("user") or given.get("principal_kind") or "")


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
