"""The one form every dialect is translated into and out of, and the shapes that go with it.

`n` dialects need `2n` translators, because each knows only its own wire format and this form.
The inner form is OpenAI's chat format (requests, responses, stream chunks), as plain dicts, with
unknown fields kept and these extras, none of which is ever sent to a chat provider that does not
know it:

Request
    `thinking`            Anthropic's object (`enabled` with `budget_tokens`, `adaptive`,
                          `disabled` …); wins over `reasoning_effort`
    `include_thoughts`    False where the caller's dialect shows reasoning on request only
    `top_k`               as Anthropic and Gemini have it
    `cache_control`       on the request, on content parts, tools and tool messages: a prompt-cache
                          breakpoint `{"type": "ephemeral", "ttl": "5m" | "1h"}`
    foreign fields        what only one dialect has, under its own name (`cachedContent`,
                          `generationConfig.speechConfig`); dropped or refused on the way out
Messages
    `thinking_blocks`     assistant: signed reasoning, in order, as below
    `reasoning_content`   assistant: the same reasoning as plain text
    `is_error`            tool: the tool failed
    `file.file_url`       a file the provider is to fetch itself
    `tool_calls[].extra_content.google.thought_signature`   Gemini's signature of that call
Thinking block
    `{"type": "thinking", "thinking": text, "signature": opaque, "origin": family}` or
    `{"type": "redacted_thinking", "data": opaque, "origin": family}`; `id` where the provider
    names its items. `origin` is the family that can read the signature (`anthropic`, `gemini`,
    `openai`, `bedrock`); absent means `anthropic`. A signature never reaches another family.
Response
    `choices[].provider_finish_reason`   the provider's own word, where it differs
    `choices[].stop_sequence`            the stop sequence that was met
    `message.citations`                  citations that are no `url_citation`, as they came
    a top-level `error` in a stream chunk ends the stream, as in OpenAI's own streams

Parameters may be dropped; content never is: an image nobody can read is an error, not a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from asgi_llmgate.errors import TranslationError
from asgi_llmgate.providers.capabilities import Capabilities
from asgi_llmgate.providers.provider_errors import ProviderError

__all__ = [
    "Call",
    "Encoded",
    "Inbound",
    "Inner",
    "Losses",
    "Outbound",
    "StreamDecoder",
    "StreamEncoder",
    "TargetInfo",
]

Inner = dict[str, Any]
"""A request, response or chunk in the inner form; also any other JSON object."""


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """Where a request goes.

    Args:
        model: The name the provider knows it by.
        provider: Id of the registry row.
        capabilities: What that model can do (`capabilities_of`).
        strict: What cannot be translated is an error instead of being dropped.
        stream_usage: A chat provider may be asked for usage at the end of a stream.
        content_must_be_string: A chat provider takes no lists of parts where all is text.
    """

    model: str
    provider: str
    capabilities: Capabilities
    strict: bool = False
    stream_usage: bool = True
    content_must_be_string: bool = False


@dataclass(slots=True)
class Encoded:
    """A request in a provider's format.

    Args:
        path: Appended to the provider's base URL (which includes the version), for example
            `/chat/completions`; always POST. Percent-encoded; may end in a query.
        body: The JSON body.
        headers: Headers the format needs, names in lower case; credentials are not among them.
        dropped: Fields that were left out, as the caller named them.
        json_tool: Name of the tool that stands for a JSON schema the model cannot be held to.
        tool_names: Tool names that had to be changed: as sent → as the caller wrote them.
    """

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    json_tool: str | None = None
    tool_names: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Call:
    """What an answer needs to know of the request it answers.

    Args:
        id: The gateway's id of the call; stands in where the provider gives none.
        created: Seconds since the epoch; stands in likewise.
        model: The name the caller used.
        request: The request in the inner form.
        json_tool, tool_names: from `Encoded`.
        as_array: A Gemini caller streams without `alt=sse`, so it gets one JSON array.
    """

    id: str
    created: int
    model: str
    request: Inner
    json_tool: str | None = None
    tool_names: Mapping[str, str] = field(default_factory=dict)
    as_array: bool = False


class Losses:
    """What a translation leaves out: an error when strict, a list of names otherwise."""

    __slots__ = ("names", "strict")

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.names: list[str] = []

    def drop(self, name: str, why: str = "the provider has nothing like it") -> None:
        """Leave out the parameter `name`.

        Raises:
            TranslationError: translation is strict.
        """
        if self.strict:
            raise TranslationError(
                f"`{name}` cannot be translated for this model: {why}. Leave it out, choose"
                " another model, or let the route drop what cannot be translated.",
                param=name,
            )
        if name not in self.names:
            self.names.append(name)

    def drop_rest(self, rest: Mapping[str, Any]) -> None:
        """Drop every field of `rest` that would have made a difference."""
        for name, value in rest.items():
            if value is not None and (name not in NEUTRAL or NEUTRAL[name] != value):
                self.drop(name)


NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "store": False,
    "background": False,
    "logprobs": False,
    "top_logprobs": 0,
    "parallel_tool_calls": True,
    "service_tier": "auto",
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "metadata": {},
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "truncation": "disabled",
    "include": [],
    "tool_choice": "auto",
    "tools": [],
    "stop": [],
    "cache_control": {"type": "ephemeral"},
    "include_thoughts": True,
}
"""Values that ask for what happens anyway, so that leaving them out loses nothing."""


def refuse(name: str, why: str) -> TranslationError:
    """Return the error for content that cannot be translated: content is never dropped."""
    return TranslationError(f"`{name}` cannot be translated for this model: {why}.", param=name)


class StreamDecoder(Protocol):
    """A provider's stream, read into chunks of the inner form as they come.

    - `feed` takes bytes cut anywhere and returns the chunks they complete. A chunk with `error`
      is the last. Events of another shape than the format's raise what walking through them
      raises; `StreamTranslation` turns that into an error event.
    - `complete`: the provider said that it is finished (and why), so nothing is missing.
    - `ended`: the format's last event was seen; what follows is ignored.
    """

    complete: bool
    ended: bool

    def feed(self, data: bytes) -> list[Inner]: ...

    def close(self) -> list[Inner]: ...


class StreamEncoder(Protocol):
    """Chunks of the inner form in, a stream of the caller's dialect out.

    `close` ends a stream that is complete, `error` one that is not; nothing follows either.
    """

    def feed(self, chunk: Inner) -> bytes: ...

    def close(self) -> bytes: ...

    def error(self, error: ProviderError) -> bytes: ...


class Inbound(Protocol):
    """A caller's dialect."""

    def decode_request(
        self, body: Mapping[str, Any], *, model: str | None = None, stream: bool | None = None
    ) -> Inner:
        """Return `body` in the inner form. `model` and `stream` are given where the path has them.

        Raises:
            TranslationError: a part of it has no meaning outside this dialect's own provider.
        """
        ...

    def encode_response(self, response: Inner, call: Call) -> dict[str, Any]: ...

    def stream_encoder(self, call: Call) -> StreamEncoder: ...

    def encode_error(self, error: ProviderError, call_id: str) -> dict[str, Any]: ...


class Outbound(Protocol):
    """A provider's format."""

    def encode_request(self, request: Inner, target: TargetInfo) -> Encoded:
        """Return `request` as the provider wants it. `request` is not changed.

        Raises:
            TranslationError: content has no counterpart, or a parameter and `target.strict`.
        """
        ...

    def decode_response(self, body: Mapping[str, Any], call: Call) -> Inner: ...

    def stream_decoder(self, call: Call) -> StreamDecoder: ...

    def decode_error(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> ProviderError: ...
