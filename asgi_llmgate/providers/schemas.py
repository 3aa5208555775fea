"""JSON schemas, as providers that hold a model to them take them.

Sources: platform.claude.com (structured outputs) and what the anthropic SDK 2.14 makes of schemas,
developers.openai.com (supported schemas).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["closed_schema", "fits_strict"]


def closed_schema(schema: Any) -> Any:
    """Return a JSON schema as Claude's structured output takes it.

    Objects must be closed, and constraints the grammar cannot hold are refused there, so they
    move into the description, where the model still reads them.
    """
    if isinstance(schema, list):
        return [closed_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    notes = []
    for key, value in schema.items():
        if _is_unsupported(key, value):
            notes.append(f"{key}: {value}")
        elif key == "oneOf":
            closed["anyOf"] = closed_schema(value)
        elif key in _NAMED and isinstance(value, dict):
            closed[key] = {name: closed_schema(inner) for name, inner in value.items()}
        elif key in _VALUES:
            closed[key] = value
        else:
            closed[key] = closed_schema(value)
    if _is_object(schema):
        closed["additionalProperties"] = False
    if notes:
        text = schema.get("description")
        closed["description"] = "; ".join(([text] if text else []) + notes)
    return closed


def fits_strict(schema: Any) -> bool:
    """Tell whether OpenAI takes `schema` as strict: objects are closed, all fields required.

    Claude's own strictness allows optional fields; OpenAI answers 400 to them.
    """
    if isinstance(schema, list):
        return all(map(fits_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    if _is_object(schema):
        fields = schema.get("properties") or {}
        if schema.get("additionalProperties") is not False:
            return False
        if set(fields) != set(schema.get("required") or ()):
            return False
    return all(
        all(map(fits_strict, value.values()))
        if key in _NAMED and isinstance(value, Mapping)
        else key in _VALUES or fits_strict(value)
        for key, value in schema.items()
    )


def _is_unsupported(key: str, value: Any) -> bool:
    match key:
        case "minItems":
            return value not in (0, 1)
        case "format":
            return value not in _FORMATS
    return key in _UNSUPPORTED


def _is_object(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    return kinds == "object" or (isinstance(kinds, list) and "object" in kinds)


_NAMED = frozenset({"properties", "$defs", "definitions"})
"""Keywords whose values are schemas by names of the author's."""

_VALUES = frozenset({"enum", "const", "required", "default"})
"""Keywords whose values are no schemas."""

_FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
    }
)

_UNSUPPORTED = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "pattern",
        "maxLength",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "patternProperties",
    }
)
