"""What a request's `LLMGate-*` and `Helicone-*` headers ask for.

Two spellings with two tempers. An `LLMGate-*` header that is misspelled or malformed is an error
that names it: the caller asked for something and would not get it. A `Helicone-*` header does
what it does at Helicone, so mostly nothing, and is named in the warnings: who switches the host
must keep working. Headers that promise protection this gateway does not have are refused in both
spellings.

Credentials (`LLMGate-Auth`, `Helicone-Auth`) are known here by name only; their values are never
kept.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.errors import InvalidRequestError

__all__ = ["BUILT", "DEFAULT", "Directives", "parse_directives"]

BUILT = frozenset({"auth", "log", "routing", "tags", "timeout"})
"""The parts of the gateway that exist. A header of any other part is refused, or, where Helicone
users would merely miss a convenience, passed over with a warning. Whoever builds a part adds it."""

# Not built, and too much is promised to go on without: money is spent or a provider stays down.
_REFUSED_UNBUILT = frozenset({"fallback", "limits"})

# Helicone's names for protection that this gateway does not have.
_PROTECTION = {
    "moderations-enabled": "moderate prompts",
    "llm-security-enabled": "scan prompts for attacks",
    "llm-security-advanced": "scan prompts for attacks",
    "prompt-security-enabled": "scan prompts for attacks",
    "token-limit-exception-handler": "shorten prompts that are too long",
}

MAX_PROPERTIES = 32
MAX_PROPERTY_BYTES = 256
# An identifier goes into every record, every cache key and many dashboards.
MAX_ID_CHARS = 256
MAX_FALLBACKS = 8
MAX_TAGS = 32
# Each slot is one full answer that somebody pays for; Helicone's limit.
MAX_BUCKETS = 20

_NO_PROPERTIES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Directives:
    """What the caller asked for. None, or empty, where nothing was said.

    Args:
        properties: Names in lower case, at most 32, names and values at most 256 bytes.
        request_id: 1 to 128 of `[A-Za-z0-9._:-]`; not yet known to be unique.
        provider: Ids or aliases, comma-separated, in the order to be tried.
        target_url: As sent; `core/targets.py` decides whether it may be used.
        model_override: The model whose price counts.
        cache_mode: `exact`, `semantic` or `threshold`.
        cache_threshold: Least cosine similarity of a hit, 0 to 1, for mode `threshold`.
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
    properties: Mapping[str, str] = field(default_factory=lambda: _NO_PROPERTIES)
    request_id: str | None = None
    provider: str | None = None
    target_url: str | None = None
    model_override: str | None = None
    stream_usage: bool | None = None
    omit_request: bool | None = None
    omit_response: bool | None = None
    timeout_ms: int | None = None
    hedge_after_ms: int | None = None
    cache_enabled: bool | None = None
    cache_mode: str | None = None
    cache_threshold: float | None = None
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
    rate_limit_policy: str | None = None
    prompt_id: str | None = None
    prompt_version: str | None = None
    prompt_label: str | None = None
    prompt_inputs: Mapping[str, Any] | None = None
    uses_helicone: bool = False
    warnings: tuple[str, ...] = ()


DEFAULT = Directives()
"""What a request without any such header asks for."""


class _MalformedError(ValueError):
    """A value that does not parse; the message says what would."""


def parse_directives(headers: Mapping[bytes, bytes]) -> Directives:
    """Return what `headers` ask for.

    Args:
        headers: Names in lower case.

    Raises:
        InvalidRequestError: code `invalid_header`, `param` the header: an `LLMGate-*` header is
            unknown or malformed or of a part that is not built, or a `Helicone-*` header promises
            what nobody keeps here.
    """
    for name in headers:
        if name.startswith(_PREFIXES):
            return _Reader().read(headers)
    plain = headers.get(b"cache-control")
    if plain is not None:
        return Directives(cache_control=_plain_cache_control(plain))
    return DEFAULT


_PREFIXES = (b"llmgate-", b"helicone-")


class _Reader:
    """Reads the headers of one request; what is `ours` beats what is `theirs`."""

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
                self.read_ours(name[8:].decode("latin-1"), value)
            elif name.startswith(b"helicone-"):
                uses_helicone = True
                self.read_theirs(name[9:].decode("latin-1"), value)
        values = self.theirs | self.ours
        if "cache_control" not in self.ours and b"cache-control" in headers:
            values["cache_control"] = _plain_cache_control(headers[b"cache-control"])
        if self.our_properties or self.their_properties:
            values["properties"] = self.properties()
        return Directives(**values, uses_helicone=uses_helicone, warnings=tuple(self.warnings))

    def read_ours(self, name: str, value: bytes) -> None:
        shown = f"LLMGate-{_titled(name)}"
        try:
            if name.startswith("property-"):
                if len(self.our_properties) >= MAX_PROPERTIES:
                    raise _MalformedError(f"at most {MAX_PROPERTIES} properties")
                self.our_properties[_property_name(name[9:])] = _property(_text(value))
                return
            spec = _SPECS.get(name)
            if spec is None:
                raise _unknown(shown, name)
            if spec.part not in BUILT:
                raise InvalidRequestError(
                    f"{shown} is not available in this version. Remove the header.",
                    code="invalid_header",
                    param=shown,
                )
            if spec.field is not None:
                text = _text(value)
                if text or not spec.may_be_empty:
                    self.ours[spec.field] = spec.parse(text)
        except _MalformedError as error:
            raise InvalidRequestError(
                f"{shown} is malformed: expected {error}.", code="invalid_header", param=shown
            ) from None

    def read_theirs(self, name: str, value: bytes) -> None:
        shown = f"Helicone-{_titled(name)}"
        if name in _PROTECTION:
            if name == "token-limit-exception-handler" or _is_true(value):
                raise InvalidRequestError(
                    f"{shown} asks to {_PROTECTION[name]}, which this gateway does not do. "
                    "Remove the header to go on without.",
                    code="invalid_header",
                    param=shown,
                )
            return
        if name.startswith("property-"):
            self.read_their_property(name, shown, value)
            return
        spec = _SPECS.get(_HELICONE_NAMES.get(name, name))
        if spec is None:
            self.warnings.append(f"{shown} is not known here and was ignored")
            return
        if spec.part not in BUILT:
            if spec.part in _REFUSED_UNBUILT:
                raise InvalidRequestError(
                    f"{shown} is not available in this version. Remove the header.",
                    code="invalid_header",
                    param=shown,
                )
            self.warnings.append(f"{shown} is not available in this version and was ignored")
            return
        if spec.field is None:
            return
        try:
            text = _text(value)
            if text or not spec.may_be_empty:
                self.theirs[spec.field] = (spec.helicone or spec.parse)(text)
        except _MalformedError as error:
            self.warnings.append(f"{shown} was ignored: expected {error}")

    def read_their_property(self, name: str, shown: str, value: bytes) -> None:
        try:
            if len(self.their_properties) >= MAX_PROPERTIES:
                raise _MalformedError(f"at most {MAX_PROPERTIES} properties")
            self.their_properties[_property_name(name[9:])] = _property(_text(value))
        except _MalformedError as error:
            self.warnings.append(f"{shown} was ignored: expected {error}")

    def properties(self) -> Mapping[str, str]:
        merged = self.our_properties
        for name, value in self.their_properties.items():
            if name not in merged:
                if len(merged) >= MAX_PROPERTIES:
                    self.warnings.append(
                        f"Helicone-Property-{_titled(name)} was ignored: "
                        f"expected at most {MAX_PROPERTIES} properties"
                    )
                    continue
                merged[name] = value
        return MappingProxyType(merged)


# --- values ---

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def _text(value: bytes) -> str:
    text = value.decode("latin-1").strip(" \t")
    if _CONTROL.search(text):
        raise _MalformedError("no control characters")
    return text


def _is_true(value: bytes) -> bool:
    return value.strip().lower() == b"true"


def _identity(text: str) -> str:
    return text


def _identifier(text: str) -> str:
    if len(text) > MAX_ID_CHARS:
        raise _MalformedError(f"at most {MAX_ID_CHARS} characters")
    return text


def _boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered not in {"true", "false"}:
        raise _MalformedError("true or false")
    return lowered == "true"


def _omission(text: str) -> bool:
    """Read Helicone's omit switches as its gateway does: anything but `false` omits."""
    return text.lower() != "false"


def _request_id(text: str) -> str:
    if not _REQUEST_ID.fullmatch(text):
        raise _MalformedError("1 to 128 of A-Z a-z 0-9 . _ : -")
    return text


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # `int()` takes signs, underscores and digits of other scripts, and is quadratic.
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise _MalformedError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,12})?|\.[0-9]{1,12}")


def _decimal(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not (_DECIMAL.fullmatch(text) and low <= float(text) <= high):
            raise _MalformedError(f"a number from {low:g} to {high:g}")
        return float(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise _MalformedError(" or ".join(words))
        return text.lower()

    return parse


def _words(text: str) -> tuple[str, ...]:
    """Read `a, b`, and Helicone's `"a","b"`."""
    words = tuple(word.strip().strip('"') for word in text.split(","))
    if not all(words) or len(words) > MAX_TAGS:
        raise _MalformedError(f"1 to {MAX_TAGS} names, separated by commas")
    return words


def _fallbacks(text: str) -> tuple[Any, ...]:
    value = _json(text)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_FALLBACKS:
        raise _MalformedError(f"a JSON list of 1 to {MAX_FALLBACKS}")
    if not all(isinstance(entry, str | dict) and entry for entry in value):
        raise _MalformedError("a JSON list of strings or objects")
    return tuple(value)


def _json_object(text: str) -> Mapping[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise _MalformedError("a JSON object")
    return MappingProxyType(value)


def _json(text: str) -> Any:
    try:
        # Header bytes are latin-1 to us, but JSON in them is UTF-8.
        return loads(text.encode("latin-1"))
    except JSONError:
        raise _MalformedError("JSON") from None


def _property_name(name: str) -> str:
    if not name or len(name) > MAX_PROPERTY_BYTES:
        raise _MalformedError(f"a name of 1 to {MAX_PROPERTY_BYTES} bytes")
    if _CONTROL.search(name):
        raise _MalformedError("no control characters")
    return name.lower()


def _property(text: str) -> str:
    if len(text) > MAX_PROPERTY_BYTES:
        raise _MalformedError(f"at most {MAX_PROPERTY_BYTES} bytes")
    return text


def _plain_cache_control(value: bytes) -> str | None:
    """Read the standard header, which is nobody's mistake if it is odd."""
    try:
        return _text(value) or None
    except _MalformedError:
        return None


# --- names ---


class _Spec(NamedTuple):
    """A header: where it goes, how it is read, and the part of the gateway that honours it.

    `helicone` reads the Helicone spelling where that differs. `field` is None for names whose
    values are not kept.
    """

    field: str | None
    parse: Callable[[str], Any]
    part: str
    may_be_empty: bool = False
    helicone: Callable[[str], Any] | None = None


_MS = _integer(1, 86_400_000)

_SPECS: dict[str, _Spec] = {
    "auth": _Spec(None, _identity, "auth"),
    "user-id": _Spec("user_id", _identifier, "tags", True),
    "session-id": _Spec("session_id", _identifier, "tags", True),
    "session-path": _Spec("session_path", _identifier, "tags", True),
    "session-name": _Spec("session_name", _identifier, "tags", True),
    "request-id": _Spec("request_id", _request_id, "log"),
    "omit-request": _Spec("omit_request", _boolean, "log", helicone=_omission),
    "omit-response": _Spec("omit_response", _boolean, "log", helicone=_omission),
    "model-override": _Spec("model_override", _identifier, "log", True),
    "provider": _Spec("provider", _identifier, "routing", True),
    "target-url": _Spec("target_url", _identity, "routing", True),
    "stream-usage": _Spec("stream_usage", _boolean, "routing"),
    "timeout-ms": _Spec("timeout_ms", _MS, "timeout"),
    "hedge-after-ms": _Spec("hedge_after_ms", _MS, "hedging"),
    "cache-enabled": _Spec("cache_enabled", _boolean, "cache"),
    "cache-mode": _Spec("cache_mode", _one_of("exact", "semantic", "threshold"), "cache"),
    "cache-threshold": _Spec("cache_threshold", _decimal(0, 1), "cache"),
    "cache-max-error": _Spec("cache_max_error", _decimal(0, 1), "cache"),
    "cache-bucket-max-size": _Spec("cache_bucket_max_size", _integer(1, MAX_BUCKETS), "cache"),
    "cache-seed": _Spec("cache_seed", _identifier, "cache", True),
    "cache-control": _Spec("cache_control", _identity, "cache", True),
    "cache-ignore-keys": _Spec("cache_ignore_keys", _words, "cache"),
    "cache-tags": _Spec("cache_tags", _words, "cache"),
    "cache-read": _Spec("cache_read", _boolean, "cache"),
    "cache-save": _Spec("cache_save", _boolean, "cache"),
    "fallbacks": _Spec("fallbacks", _fallbacks, "fallback"),
    "retry-enabled": _Spec("retry_enabled", _boolean, "retry"),
    "retry-num": _Spec("retry_num", _integer(0, 10), "retry"),
    "retry-factor": _Spec("retry_factor", _decimal(1, 10), "retry"),
    "retry-min-timeout": _Spec("retry_min_timeout_ms", _integer(0, 86_400_000), "retry"),
    "retry-max-timeout": _Spec("retry_max_timeout_ms", _integer(0, 86_400_000), "retry"),
    "ratelimit-policy": _Spec("rate_limit_policy", _identifier, "limits"),
    "prompt-id": _Spec("prompt_id", _identifier, "prompts"),
    "prompt-version": _Spec("prompt_version", _identifier, "prompts"),
    "prompt-label": _Spec("prompt_label", _identifier, "prompts"),
    "prompt-inputs": _Spec("prompt_inputs", _json_object, "prompts"),
}

# Helicone's other words for the same thing: the oai.* hosts, the header directory, the Rust
# gateway. They say where a call goes, so passing over them would send it elsewhere.
_HELICONE_NAMES = {
    "openai-api-base": "target-url",
    "target-provider": "provider",
    "forced-routing": "provider",
}

_ODD = re.compile(r"[^a-z0-9_-]")
_SHOWN = {
    "id": "Id",
    "ms": "Ms",
    "url": "URL",
    "ratelimit": "RateLimit",
    "llm": "LLM",
    "openai": "OpenAI",
}


def _titled(name: str) -> str:
    """Return `name` as documentation writes it, fit for a header and of bounded length."""
    words = _ODD.sub("?", name.lower())[:64].split("-")
    return "-".join(_SHOWN.get(word, word.capitalize()) for word in words)


def _unknown(shown: str, name: str) -> InvalidRequestError:
    near = difflib.get_close_matches(name, [*_SPECS, "property-"], n=1)
    hint = f" Did you mean LLMGate-{_titled(near[0])}?" if near else ""
    return InvalidRequestError(
        f"{shown} is not a header of this gateway.{hint}", code="invalid_header", param=shown
    )
