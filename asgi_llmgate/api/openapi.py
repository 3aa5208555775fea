"""The OpenAPI document of the admin API, made from the table that answers it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from asgi_llmgate._version import __version__
from asgi_llmgate.api.router import API_PREFIX, AdminRoute

__all__ = ["openapi_document"]

_REFERENCE = "#/components/schemas/{model}"
_FAILURES = {
    "401": "No admin token, and no virtual key that counts.",
    "403": "The caller lacks the permission.",
    "404": "There is none with this id.",
    "409": "There is one already, or somebody else changed it.",
    "422": "The body is not as described, or contradicts what there is.",
    "503": "The control store is unavailable.",
}


def openapi_document(routes: Sequence[AdminRoute]) -> dict[str, Any]:
    """Return the document. Source: OpenAPI 3.1.0."""
    models = {model for route in routes for model in (route.request, route.response) if model}
    ordered = sorted(models, key=lambda model: model.__name__)
    requests = {route.request for route in routes}
    _, definitions = models_json_schema(
        [(model, "validation" if model in requests else "serialization") for model in ordered],
        ref_template=_REFERENCE,
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(API_PREFIX + route.path, {})[route.method.lower()] = _operation(route)
    error = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                },
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "asgi_llmgate admin API", "version": __version__},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {**definitions.get("$defs", {}), "Error": error},
        },
    }


def _operation(route: AdminRoute) -> dict[str, Any]:
    words = re.sub(r"[^a-z]+", " ", f"{route.method} {route.path}".lower()).split()
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ] + [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in (route.query or {}).items()
    ]
    good: dict[str, Any] = {"description": "Done."}
    if route.response is not None:
        good["content"] = _json(route.response.__name__)
    operation: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": route.summary,
        "x-permission": route.permission,
        "responses": {
            str(route.status): good,
            **{
                status: {"description": text, "content": _json("Error")}
                for status, text in _FAILURES.items()
            },
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {"required": True, "content": _json(route.request.__name__)}
    return operation


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=name)}}}
