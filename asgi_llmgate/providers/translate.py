"""From a caller's dialect to a provider's format and back: one object per attempt.

Everything is pure: bytes and dicts in, bytes and dicts out. Used where dialect and format
differ; where they are the same the bytes are relayed as they are and nobody comes here.

    translation = Translation("anthropic-messages", "openai-chat", call_id=…, created=…)
    encoded = translation.request(body, target)            # path, body, headers, dropped
    answer = translation.response(parsed)                  # a whole response
    stream = translation.stream(); stream.feed(bytes) …    # or a stream, event by event
    error, body = translation.error(status, headers, raw)  # status >= 400
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asgi_llmgate.errors import TranslationError, UpstreamError
from asgi_llmgate.providers.anthropic_in import AnthropicIn
from asgi_llmgate.providers.anthropic_out import AnthropicOut
from asgi_llmgate.providers.bedrock import ConverseOut
from asgi_llmgate.providers.chat_in import ChatIn
from asgi_llmgate.providers.chat_out import ChatOut
from asgi_llmgate.providers.client_tools import (
    CallRestorer,
    ClientTool,
    as_functions,
    restored,
)
from asgi_llmgate.providers.cohere import CohereOut
from asgi_llmgate.providers.gemini_in import GeminiIn
from asgi_llmgate.providers.gemini_out import GeminiOut
from asgi_llmgate.providers.inner import (
    Call,
    Encoded,
    Inbound,
    Inner,
    Losses,
    Outbound,
    StreamDecoder,
    StreamEncoder,
    TargetInfo,
)
from asgi_llmgate.providers.json_root import RootOpener, opened, with_object_root
from asgi_llmgate.providers.provider_errors import (
    ProviderError,
    incomplete_stream,
    read_error,
    unreadable_stream,
)
from asgi_llmgate.providers.responses_in import ResponsesIn
from asgi_llmgate.providers.responses_out import ResponsesOut

# What walking through JSON of another shape than expected raises.
UNREADABLE = (KeyError, TypeError, AttributeError, IndexError, ValueError)

# Dialects that have tools of the caller's beside functions.
_WITH_CLIENT_TOOLS = frozenset({"openai-chat", "openai-responses"})

__all__ = ["INBOUND", "OUTBOUND", "StreamTranslation", "Translation", "can_translate"]

INBOUND: Mapping[str, Inbound] = {
    "openai-chat": ChatIn(),
    "openai-responses": ResponsesIn(),
    "anthropic-messages": AnthropicIn(),
    "gemini": GeminiIn(),
}
"""Callers' dialects, by the names of `Route.format`."""

OUTBOUND: Mapping[str, Outbound] = {
    "openai-chat": ChatOut(),
    "openai-responses": ResponsesOut(),
    "anthropic-messages": AnthropicOut(),
    "gemini": GeminiOut(),
    "bedrock-converse": ConverseOut(),
    "cohere-v2": CohereOut(),
}
"""Providers' formats, by the same names."""


def can_translate(source: str, target: str) -> bool:
    """Tell whether calls in dialect `source` can go to a provider that speaks `target`."""
    return source in INBOUND and target in OUTBOUND and source != target


class Translation:
    """One call of one provider.

    Args:
        source: The caller's dialect, a key of `INBOUND`.
        target_format: The provider's format, a key of `OUTBOUND`.
        call_id: The gateway's id of the call.
        created: Seconds since the epoch.

    Raises:
        KeyError: either is unknown; ask `can_translate` first.
    """

    def __init__(self, source: str, target_format: str, *, call_id: str, created: int) -> None:
        self._source = source
        self._in = INBOUND[source]
        self._target = target_format
        self._out = OUTBOUND[target_format]
        self._call = Call(id=call_id, created=created, model="", request={})
        self._stands_for: Mapping[str, ClientTool] = {}
        self._has_root = False

    def request(
        self,
        body: Mapping[str, Any],
        target: TargetInfo,
        *,
        model: str | None = None,
        stream: bool | None = None,
    ) -> Encoded:
        """Return the provider's request. Call it once, before anything else.

        Args:
            body: The caller's JSON; not changed.
            model, stream: Given where the caller's path decides them.

        Raises:
            TranslationError: some content has no counterpart, or a parameter and the target is
                strict. Its `param` is the caller's name of the field.
        """
        inner: Inner = {}
        try:
            inner = self._in.decode_request(body, model=model, stream=stream)
            losses = Losses(target.strict)
            plain = inner
            if self._source in _WITH_CLIENT_TOOLS:
                plain, self._stands_for = as_functions(inner, losses)
            if self._target != "gemini":  # Which takes any schema.
                rooted = with_object_root(plain)
                self._has_root, plain = rooted is not plain, rooted
            encoded = self._out.encode_request(plain, target)
        except TranslationError as error:
            if inner and error.param:  # Decoders know the caller's names, encoders ours.
                named = self._callers_name(error.param)
                error.args = (str(error).replace(f"`{error.param}`", f"`{named}`"),)
                error.param = named
            raise
        except UNREADABLE as error:
            # A caller's malformed body; the provider of its own dialect would say 400, too.
            raise TranslationError(
                f"The request body is not a valid {self._source} request: {error!r}.",
                code="invalid_request",
            ) from error
        dropped = [*losses.names, *encoded.dropped]
        encoded.dropped = list(dict.fromkeys(map(self._callers_name, dropped)))
        call = self._call
        call.model, call.request = inner.get("model") or target.model, inner
        call.json_tool, call.tool_names = encoded.json_tool, encoded.tool_names
        return encoded

    def response(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole response in the caller's dialect.

        Raises:
            UpstreamError: it is not in the format that the provider claims to speak.
        """
        try:
            inner = self._out.decode_response(body, self._call)
            if self._stands_for or self._has_root:
                self._restore(inner)
            return self._in.encode_response(inner, self._call)
        except UNREADABLE as error:
            raise UpstreamError(
                "The provider's answer cannot be read; it is not in the provider's own format."
            ) from error

    def stream(self, *, as_array: bool = False) -> StreamTranslation:
        """Return the translator of this call's stream.

        `as_array`: a Gemini caller did not ask for `alt=sse`, and gets JSON, not events.
        """
        self._call.as_array = as_array
        return StreamTranslation(
            self._out.stream_decoder(self._call),
            self._in.stream_encoder(self._call),
            CallRestorer(self._stands_for) if self._stands_for else None,
            RootOpener() if self._has_root else None,
        )

    def _restore(self, response: Inner) -> None:
        for choice in response["choices"]:
            message = choice["message"]
            if self._has_root and message.get("content"):
                message["content"] = opened(message["content"])
            if self._stands_for and message.get("tool_calls"):
                calls = [restored(call, self._stands_for) for call in message["tool_calls"]]
                message["tool_calls"] = calls

    def refusal(self, body: Mapping[str, Any]) -> tuple[ProviderError, dict[str, Any]] | None:
        """Return the error that a provider sent with status 200, as OpenRouter does; else None."""
        if not body.get("error") or body.get("choices") or body.get("output"):
            return None
        error = read_error(body, None)
        return error, self._in.encode_error(error, self._call.id)

    def error(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> tuple[ProviderError, dict[str, Any]]:
        """Return what a provider refused, and the same as the caller's dialect has it."""
        error = self._out.decode_error(status, headers, body)
        return error, self._in.encode_error(error, self._call.id)

    def error_body(self, error: ProviderError) -> dict[str, Any]:
        """Return `error` as the caller's dialect has it."""
        return self._in.encode_error(error, self._call.id)

    def _callers_name(self, name: str) -> str:
        head, bracket, tail = name.partition("[")
        if head == "messages" and self._source != "openai-chat":
            bracket = tail = ""  # Messages were split and merged: the place would mislead.
        return _NAMES.get(self._source, {}).get(head, head) + bracket + tail


class StreamTranslation:
    """A provider's stream in, the caller's out, event by event; nothing is held back.

    `complete` tells, after `close`, whether the provider finished. `failed` is the error that
    the provider sent inside its stream, or that of a stream which broke off. `begun`: part of an
    answer was written, so that an error can only be an event.
    """

    def __init__(
        self,
        decoder: StreamDecoder,
        encoder: StreamEncoder,
        restorer: CallRestorer | None = None,
        opener: RootOpener | None = None,
    ) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._restorer = restorer
        self._opener = opener
        self._closed = False
        self.begun = False
        self.usage: Inner | None = None
        self.failed: ProviderError | None = None

    @property
    def complete(self) -> bool:
        return self._decoder.complete and self.failed is None

    def feed(self, data: bytes) -> bytes:
        """Return what `data`, cut anywhere, means to the caller; b"" if nothing yet."""
        if self._closed:
            return b""
        try:
            out = self._encode(self._decoder.feed(data))
        except UNREADABLE:
            return self.fail(unreadable_stream())
        if self._decoder.ended and not self._closed:
            out += self._end()
        return out

    def close(self) -> bytes:
        """End the stream: properly if it was complete, else with the dialect's error event."""
        if self._closed:
            return b""
        try:
            out = self._encode(self._decoder.close())
        except UNREADABLE:
            return self.fail(unreadable_stream())
        return out if self._closed else out + self._end()

    def _encode(self, chunks: list[Inner]) -> bytes:
        out: list[bytes] = []
        for chunk in chunks:
            if "error" in chunk:
                return b"".join(out) + self.fail(read_error(chunk, None))
            if chunk.get("usage"):
                self.usage = chunk["usage"]
            self.begun = True
            if self._opener is not None:
                chunk = self._opener.feed(chunk)
            if self._restorer is None:
                out.append(self._encoder.feed(chunk))
            else:
                out += map(self._encoder.feed, self._restorer.feed(chunk))
        return out[0] if len(out) == 1 else b"".join(out)

    def _end(self) -> bytes:
        if not self._decoder.complete:
            return self.fail(incomplete_stream())
        try:
            out = self._encoder.close()
        except UNREADABLE:  # A text that is none is noticed where all of it is written again.
            return self.fail(unreadable_stream())
        self._closed = True
        return out

    def fail(self, error: ProviderError) -> bytes:
        """End the stream with the caller's error event; b"" if it has ended already."""
        if self._closed:
            return b""
        self._closed = True
        self.failed = error
        return self._encoder.error(error)


_NAMES: Mapping[str, Mapping[str, str]] = {
    "anthropic-messages": {
        "max_completion_tokens": "max_tokens",
        "stop": "stop_sequences",
        "safety_identifier": "metadata.user_id",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    },
    "openai-responses": {
        "max_completion_tokens": "max_output_tokens",
        "messages": "input",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "verbosity": "text.verbosity",
    },
    "gemini": {
        "messages": "contents",
        "tool_choice": "toolConfig",
        "temperature": "generationConfig.temperature",
        "top_p": "generationConfig.topP",
        "top_k": "generationConfig.topK",
        "n": "generationConfig.candidateCount",
        "max_completion_tokens": "generationConfig.maxOutputTokens",
        "stop": "generationConfig.stopSequences",
        "seed": "generationConfig.seed",
        "presence_penalty": "generationConfig.presencePenalty",
        "frequency_penalty": "generationConfig.frequencyPenalty",
        "logprobs": "generationConfig.responseLogprobs",
        "top_logprobs": "generationConfig.logprobs",
        "thinking": "generationConfig.thinkingConfig",
        "reasoning_effort": "generationConfig.thinkingConfig",
        "response_format": "generationConfig.responseJsonSchema",
        "metadata": "labels",
        "service_tier": "serviceTier",
    },
}
"""What callers call the fields of the inner form, where they differ."""
