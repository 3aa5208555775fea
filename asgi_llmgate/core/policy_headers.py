"""The headers that a policy speaks of, by their short names, and values for them.

Whatever a caller could write wrongly an operator can, too, and is told so before the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from asgi_llmgate.core.directive_table import HELICONE_NAMES, SPECS, titled
from asgi_llmgate.core.directives import Directives, parse_directives
from asgi_llmgate.core.json import dumps
from asgi_llmgate.errors import ConfigurationError, InvalidRequestError

__all__ = ["Header", "HeaderValue", "assignment", "header_named", "mistake"]

HeaderValue = str | bool | int | float | Sequence[Any] | Mapping[str, Any]

ANY_PROPERTY = "property-*"

# They say which call it is, so one value for all calls of a route makes no sense.
_PER_CALL = frozenset({"request_id"})


class Header(NamedTuple):
    """A header by what it sets: a field of the directives, or a property (`*` is any)."""

    shown: str
    short: str
    field: str
    property: str | None = None

    def value(self, directives: Directives) -> Any:
        """Return what the caller, a default or the policy set; None if nothing did."""
        value = getattr(directives, self.field)
        if self.property is None:
            return None if value in ((), "") else value
        if self.property == "*":
            return value or None
        return value.get(self.property)


def header_named(path: str, name: str, *, any_property: bool = False) -> Header:
    """Return the header of that short name.

    Raises:
        ConfigurationError: there is none, or it says nothing that a policy could set.
    """
    short = name.strip().lower().removeprefix("llmgate-").removeprefix("helicone-")
    short = HELICONE_NAMES.get(short, short)
    shown = f"LLMGate-{titled(short)}"
    if short == ANY_PROPERTY and any_property:
        return Header("LLMGate-Property-*", short, "properties", "*")
    # Whatever is wrong with the name, the reader of headers knows it and names the nearest.
    spec = SPECS.get(short)
    if short.startswith("property-") and short != ANY_PROPERTY:
        if len(short) > len("property-"):
            return Header(shown, short, "properties", short.removeprefix("property-"))
    elif spec is None:
        _read(path, short, "x")
    elif spec.field is not None:
        return Header(shown, short, spec.field)
    raise mistake(path, f"{shown} cannot be used in a policy", "a header that says what to do")


def assignment(path: str, name: str, value: HeaderValue) -> tuple[Header, Any]:
    """Return a header and the value that a caller would have sent with it, as it is understood.

    Raises:
        ConfigurationError: he would be refused.
    """
    header = header_named(path, name)
    if header.field in _PER_CALL:
        raise mistake(path, f"{header.shown} is different on each call", "leave it to callers")
    directives = _read(path, header.short, _text(value))
    understood = header.value(directives)
    if understood is None:
        raise mistake(path, f"{header.shown} has no value", "give it one")
    if header.field == "rate_limit_policy":
        # The operator's own, so with buckets of their own, and none for callers to answer for.
        understood = tuple(replace(each, source=f"route:{path}") for each in understood)
    return header, understood


def _read(path: str, short: str, text: str) -> Directives:
    """Read a header as if a caller had sent it.

    Raises:
        ConfigurationError: he would be refused.
    """
    try:
        encoded = text.encode("latin-1")
    except UnicodeEncodeError:
        encoded = text.encode()
    try:
        return parse_directives({b"llmgate-" + short.encode(): encoded})
    except InvalidRequestError as error:
        raise mistake(path, str(error).rstrip("."), "mend or remove that header") from None


def _text(value: HeaderValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else dumps(value).decode()


def mistake(path: str, what: str, hint: str) -> ConfigurationError:
    """Return what to raise for a mistake in the policy for `path`."""
    stop = "" if what.endswith("?") else "."
    return ConfigurationError(f"The policy for {path!r}: {what}{stop}\nHINT: {hint}.")
