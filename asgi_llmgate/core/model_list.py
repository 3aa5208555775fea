"""Lists of models: read in the format of any provider, written in that of any caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from asgi_llmgate.core.registry import Provider
from asgi_llmgate.types import Dialect

__all__ = [
    "LISTED",
    "Model",
    "list_path",
    "listed_as",
    "read_models",
    "shown_model",
    "shown_models",
]

LISTED: Mapping[str, str] = {
    "openai-chat": "/models",
    "anthropic-messages": "/models?limit=1000",
    "gemini": "/models?pageSize=1000",
}
"""Formats whose providers have a list of models, and where."""

MAX_MODELS = 5000

_VERBS = ["generateContent", "streamGenerateContent"]


class Model(NamedTuple):
    """One that can be called. `created_s` is seconds since the epoch, 0 if nobody says."""

    id: str
    provider: str
    created_s: int = 0
    name: str | None = None


def listed_as(provider: Provider) -> str | None:
    """Return the format in which `provider` lists its models; None if it does not."""
    return next((name for name in provider.endpoints if name in LISTED), None)


def list_path(wire_format: str) -> tuple[str, bytes]:
    """Return path and query of the list."""
    path, _, query = LISTED[wire_format].partition("?")
    return path, query.encode()


def read_models(answer: Any, provider: str) -> list[Model]:
    """Return the models of a provider's list, in any format; what is unreadable is left out."""
    if isinstance(answer, Mapping):
        # OpenAI and Anthropic have `data`, Gemini has `models`; Together has a bare list.
        answer = answer.get("data") or answer.get("models")
    models = []
    for row in answer if isinstance(answer, list) else ():
        if not isinstance(row, Mapping):
            continue
        name = row.get("id") or row.get("name")
        if not isinstance(name, str) or not name:
            continue
        title = row.get("display_name") or row.get("displayName")
        models.append(
            Model(
                name.removeprefix("models/"),
                provider,
                _seconds(row.get("created") or row.get("created_at")),
                title if isinstance(title, str) else None,
            )
        )
        if len(models) >= MAX_MODELS:
            break
    return models


def shown_models(dialect: Dialect, models: Iterable[Model]) -> dict[str, Any]:
    """Return a list of models as the API of `dialect` has it; all on one page."""
    rows = [shown_model(dialect, model) for model in models]
    if dialect is Dialect.GEMINI:
        return {"models": rows}
    if dialect is Dialect.ANTHROPIC:
        return {
            "data": rows,
            "has_more": False,
            "first_id": rows[0]["id"] if rows else None,
            "last_id": rows[-1]["id"] if rows else None,
        }
    return {"object": "list", "data": rows}


def shown_model(dialect: Dialect, model: Model) -> dict[str, Any]:
    """Return one model likewise."""
    if dialect is Dialect.GEMINI:
        return {
            "name": f"models/{model.id}",
            "displayName": model.name or model.id,
            "supportedGenerationMethods": _VERBS,
        }
    if dialect is Dialect.ANTHROPIC:
        created = datetime.fromtimestamp(model.created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "type": "model",
            "id": model.id,
            "display_name": model.name or model.id,
            "created_at": created,
            "lifecycle": "active",
        }
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_s,
        "owned_by": model.provider,
    }


def _seconds(given: Any) -> int:
    if isinstance(given, int | float):
        return int(given)
    if isinstance(given, str):
        try:
            return int(datetime.fromisoformat(given).timestamp())
        except ValueError:
            return 0
    return 0
