"""What a request's `LLMGate-*` and `Helicone-*` headers ask for.

Two spellings with two tempers. An `LLMGate-*` header that is misspelled or malformed is an error
that names it: the caller asked for something and would not get it. A `Helicone-*` header does
what it does at Helicone, so mostly nothing, and is named in the warnings: who switches the host
must keep working. Headers that promise protection this gateway does not have are refused.

Credentials (`LLMGate-Auth`, `Helicone-Auth`) are known here by name only; their values are never
kept.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asgi_llmgate.core import directive_values as read
from asgi_llmgate.core.directive_table import (
    BUILT,
    HELICONE_NAMES,
    OURS_ONLY,
    PROTECTION,
    REFUSED_UNBUILT,
    SPECS,
    titled,
)
from asgi_llmgate.core.directive_values import MalformedError
from asgi_llmgate.core.limits import Policy
from asgi_llmgate.errors import InvalidRequestError

__all__ = ["DEFAULT", "Directives", "parse_directives"]

MAX_PROPERTIES = 32
# Warnings go into one response header.
MAX_WARNINGS = 10

# Passed over, these would send a caller's key to a provider it is not for.
_DESTINATION = frozenset({"provider", "target_url"})
# What Helicone refuses, too, if it cannot be read.
_STRICT = _DESTINATION | {"cache_bucket_max_size", "fallbacks"}
# Values of headers that are built, for parts that are not.
_VALUES_OF_PARTS = {("cache_mode", "semantic"): "semantic", ("cache_mode", "threshold"): "semantic"}


@dataclass(frozen=True, slots=True)
class Directives:
    """What the caller asked for. None, or empty, where nothing was said.

    Args:
        properties: Names in lower case, at most 32, names and values at most 256 bytes. Not to
            be changed: the empty one is shared.
        request_id: 1 to 128 of `[A-Za-z0-9._:-]`; not yet known to be unique.
        provider: Ids or aliases, comma-separated, in the order to be tried.
        target_url: As sent; `core/targets.py` decides whether it may be used.
        model_override: The model whose price counts.
        translation: `strict` or `lenient`.
        cache_mode: `exact`, `semantic` or `threshold`.
        cache_threshold: Least cosine similarity of a hit, 0 to 1, for mode `threshold`.
        cache_question: What is asked, in words that need no conversation.
        cache_max_error: Largest tolerated share of wrong hits, 0 to 1.
        cache_control: A `Cache-Control` value: ours, else the plain header.
        cache_ignore_keys: Top-level body keys that do not tell requests apart.
        fallbacks: Decoded JSON: strings or objects, at most 8, in order.
        retry_num: Attempts in all, not additional ones.
        uses_helicone: A `Helicone-*` header was sent, so Helicone's response headers are wanted.
        warnings: Lines for `LLMGate-Warnings`; printable ASCII, no value of a header in them.
    """

    user_id: str | None = None
    session_id: str | None = None
    session_path: str | None = None
    session_name: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    request_id: str | None = None
    provider: str | None = None
    target_url: str | None = None
    model_override: str | None = None
    stream_usage: bool | None = None
    translation: str | None = None
    omit_request: bool | None = None
    omit_response: bool | None = None
    timeout_ms: int | None = None
    hedge_after_ms: int | None = None
    cache_enabled: bool | None = None
    cache_mode: str | None = None
    cache_threshold: float | None = None
    cache_question: str | None = None
    cache_max_error: float | None = None
    cache_bucket_max_size: int | None = None
    cache_seed: str | None = None
    cache_control: str | None = None
    cache_ignore_keys: tuple[str, ...] = ()
    cache_tags: tuple[str, ...] = ()
    cache_read: bool | None = None
    cache_save: bool | None = None
    fallbacks: tuple[Any, ...] = ()
    retry_enabled: bool | None = None
    retry_num: int | None = None
    retry_factor: float | None = None
    retry_min_timeout_ms: int | None = None
    retry_max_timeout_ms: int | None = None
    rate_limit_policy: tuple[Policy, ...] = ()
    prompt_id: str | None = None
    prompt_version: str | None = None
    prompt_label: str | None = None
    prompt_inputs: Mapping[str, Any] | None = None
    uses_helicone: bool = False
    warnings: tuple[str, ...] = ()


DEFAULT = Directives()
"""What a request without any such header asks for."""


def parse_directives(headers: Mapping[bytes, bytes]) -> Directives:
    """Return what `headers` ask for.

    Args:
        headers: Names in lower case.

    Raises:
        InvalidRequestError: code `invalid_header`, `param` the header: an `LLMGate-*` header is
            unknown or malformed or of a part that is not built, or a `Helicone-*` header promises
            what nobody keeps here.
    """
    # One search through all names costs less than a look at each.
    names = b"\n".join(headers)
    if b"llmgate-" in names or b"helicone-" in names:
        return _Reader().read(headers)
    plain = headers.get(b"cache-control")
    if plain is not None:
        return Directives(cache_control=_plain_cache_control(plain))
    return DEFAULT


class _Reader:
    """Reads the headers of one request. What is ours beats what is theirs."""

    __slots__ = ("our_properties", "ours", "their_properties", "theirs", "warnings")

    def __init__(self) -> None:
        self.ours: dict[str, Any] = {}
        self.theirs: dict[str, Any] = {}
        self.our_properties: dict[str, str] = {}
        self.their_properties: dict[str, str] = {}
        self.warnings: list[str] = []

    def read(self, headers: Mapping[bytes, bytes]) -> Directives:
        uses_helicone = False
        for name, value in headers.items():
            if name.startswith(b"llmgate-"):
                self._read_ours(name[8:].decode("latin-1"), value)
            elif name.startswith(b"helicone-"):
                uses_helicone = True
                self._read_theirs(name[9:].decode("latin-1"), value)
        values = self.theirs | self.ours
        plain = headers.get(b"cache-control")
        if plain is not None and "cache_control" not in self.ours:
            values["cache_control"] = _plain_cache_control(plain)
        if self.our_properties or self.their_properties:
            values["properties"] = self._properties()
        return Directives(**values, uses_helicone=uses_helicone, warnings=self._warnings())

    def _read_ours(self, name: str, value: bytes) -> None:
        try:
            if name.startswith("property-"):
                if len(self.our_properties) >= MAX_PROPERTIES:
                    raise MalformedError(f"at most {MAX_PROPERTIES} properties")
                self.our_properties[read.property_name(name[9:])] = read.property_value(value)
                return
            spec = SPECS.get(name)
            if spec is None:
                raise _unknown(name)
            if spec.part not in BUILT:
                raise _not_built(_ours(name))
            if spec.field is not None:
                text = read.text_of(value)
                if text or not spec.may_be_empty:
                    value_read = spec.read(text)
                    part = _VALUES_OF_PARTS.get((spec.field, text.lower()))
                    if part is not None and part not in BUILT:
                        raise _not_built(f"{_ours(name)}: {value_read}")
                    self.ours[spec.field] = value_read
        except MalformedError as error:
            raise _malformed(_ours(name), error) from None

    def _read_theirs(self, name: str, value: bytes) -> None:
        spec = None if name in OURS_ONLY else SPECS.get(HELICONE_NAMES.get(name, name))
        try:
            if name.startswith("property-"):
                if len(self.their_properties) >= MAX_PROPERTIES:
                    raise MalformedError(f"at most {MAX_PROPERTIES} properties")
                self.their_properties[read.property_name(name[9:])] = read.property_value(value)
            elif spec is None:
                self._read_foreign(name, value)
            elif spec.part not in BUILT:
                if spec.part in REFUSED_UNBUILT:
                    raise _not_built(_theirs(name))
                self._warn(name, "is not available in this version and was ignored")
            elif spec.field is not None:
                text = read.text_of(value)
                if text or not spec.may_be_empty:
                    self.theirs[spec.field] = (spec.read_helicone or spec.read)(text)
        except MalformedError as error:
            if spec is not None and spec.field in _STRICT:
                raise _malformed(_theirs(name), error) from None
            self._warn(name, f"was ignored: expected {error}")

    def _read_foreign(self, name: str, value: bytes) -> None:
        """Meet a header that only Helicone has."""
        task = PROTECTION.get(name)
        if task is None:
            self._warn(name, "is not known here and was ignored")
        elif name == "token-limit-exception-handler" or value.strip().lower() == b"true":
            shown = _theirs(name)
            raise _invalid(
                f"{shown} asks to {task}, which this gateway does not do. "
                "Remove the header to go on without.",
                shown,
            )

    def _warn(self, name: str, text: str) -> None:
        self.warnings.append(f"{_theirs(name)} {text}")

    def _warnings(self) -> tuple[str, ...]:
        more = len(self.warnings) - MAX_WARNINGS
        if more <= 0:
            return tuple(self.warnings)
        return (*self.warnings[:MAX_WARNINGS], f"{more} more Helicone-* headers were ignored")

    def _properties(self) -> dict[str, str]:
        merged = self.our_properties
        for name, value in self.their_properties.items():
            if name in merged:
                continue
            if len(merged) < MAX_PROPERTIES:
                merged[name] = value
            else:
                wanted = f"was ignored: expected at most {MAX_PROPERTIES} properties"
                self._warn(f"property-{name}", wanted)
        return merged


def _plain_cache_control(value: bytes) -> str | None:
    """Read the standard header, which is nobody's mistake if it is odd."""
    try:
        return read.text_of(value) or None
    except MalformedError:
        return None


def _ours(name: str) -> str:
    return f"LLMGate-{titled(name)}"


def _theirs(name: str) -> str:
    return f"Helicone-{titled(name)}"


def _invalid(message: str, shown: str) -> InvalidRequestError:
    return InvalidRequestError(message, code="invalid_header", param=shown)


def _malformed(shown: str, error: MalformedError) -> InvalidRequestError:
    return _invalid(f"{shown} is malformed: expected {error}.", shown)


def _not_built(shown: str) -> InvalidRequestError:
    return _invalid(f"{shown} is not available in this version. Remove the header.", shown)


def _unknown(name: str) -> InvalidRequestError:
    near = difflib.get_close_matches(name[:64], [*SPECS, "property-"], n=1)
    hint = f" Did you mean {_ours(near[0])}?" if near else ""
    shown = _ours(name)
    return _invalid(f"{shown} is not a header of this gateway.{hint}", shown)
