"""Real traffic: every recorded answer is read, and means the same in every dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llmgate.core.json import loads
from asgi_llmgate.errors import TranslationError
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import Call, TargetInfo
from asgi_llmgate.providers.translate import INBOUND, OUTBOUND, StreamTranslation, Translation
from tests.providers import sdk
from tests.providers.accumulate import accumulate
from tests.providers.recorded import Exchange, exchanges

ALL = exchanges()
TARGETS = {
    "openai-chat": ("gpt-4o", "openai"),
    "openai-responses": ("gpt-5.6", "openai"),
    "anthropic-messages": ("claude-sonnet-4-5", "anthropic"),
    "gemini": ("gemini-3-flash", "google"),
    "bedrock-converse": ("us.anthropic.claude-sonnet-4-5-v1:0", "amazon-bedrock"),
    "cohere-v2": ("command-a-03-2025", "cohere"),
}

pytestmark = pytest.mark.skipif(not ALL, reason="no recorded traffic in ../shared/data")


def named(found: list[Exchange]) -> list[Any]:
    return [pytest.param(exchange, id=exchange.name) for exchange in found]


def pairs(found: list[Exchange]) -> list[Any]:
    """Return each exchange with each dialect but its own, which is relayed, not translated."""
    return [
        pytest.param(exchange, dialect, id=f"{exchange.name} to {dialect}")
        for exchange in found
        for dialect in INBOUND
        if dialect != exchange.format
    ]


def call() -> Call:
    # Gemini callers see reasoning only when they ask.
    return Call("0198-aa", 1700000000, "m", {"messages": [], "include_thoughts": True})


def decoded(exchange: Exchange) -> dict[str, Any]:
    """Return the answer in the inner form."""
    outbound = OUTBOUND[exchange.format]
    if not exchange.is_stream:
        return outbound.decode_response(loads(exchange.body), call())
    decoder = outbound.stream_decoder(call())
    chunks = decoder.feed(exchange.body) + decoder.close()
    return accumulate(chunks)


def is_error(exchange: Exchange) -> bool:
    return b'"error":{"' in exchange.body.replace(b" ", b"") and exchange.is_stream


def meaning(dialect: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return what the last turn of `body`, a request, says."""
    request = INBOUND[dialect].decode_request({"model": "m", **body})
    return essence(request["messages"][-1])


def essence(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    calls = []
    for tool_call in message.get("tool_calls") or ():
        google = (tool_call.get("extra_content") or {}).get("google") or {}
        arguments = json.loads(tool_call["function"]["arguments"] or "{}")
        calls.append(
            (
                tool_call["id"],
                tool_call["function"]["name"],
                arguments,
                google.get("thought_signature"),
            )
        )
    blocks = [
        (b.get("thinking"), b.get("signature") or b.get("data"), b.get("origin"))
        for b in message.get("thinking_blocks") or ()
        if b.get("signature") or b.get("data")
    ]
    return {
        "content": content or message.get("refusal") or None,
        "calls": calls,
        "signed": blocks,
    }


SUCCESSES = [e for e in ALL if e.status == 200 and not is_error(e)]


@pytest.mark.parametrize(("exchange", "dialect"), pairs(SUCCESSES))
def test_an_answer_means_the_same_in_every_dialect(exchange: Exchange, dialect: str) -> None:
    response = decoded(exchange)
    answer = INBOUND[dialect].encode_response(response, call())

    said = response["choices"][0]["message"]
    assert meaning(dialect, sdk.whole(dialect, answer)) == essence(said)


STREAMS = [e for e in SUCCESSES if e.is_stream]


@pytest.mark.parametrize(("exchange", "dialect"), pairs(STREAMS))
def test_a_stream_adds_up_to_the_whole(exchange: Exchange, dialect: str) -> None:
    stream = StreamTranslation(
        OUTBOUND[exchange.format].stream_decoder(call()), INBOUND[dialect].stream_encoder(call())
    )
    raw = stream.feed(exchange.body) + stream.close()

    assert stream.complete
    whole = INBOUND[dialect].encode_response(decoded(exchange), call())
    assert meaning(dialect, sdk.stream(dialect, raw)) == meaning(dialect, sdk.whole(dialect, whole))


@pytest.mark.parametrize(("exchange", "dialect"), pairs(STREAMS))
def test_a_stream_does_not_depend_on_how_it_is_cut(exchange: Exchange, dialect: str) -> None:
    def translated(size: int) -> bytes:
        stream = StreamTranslation(
            OUTBOUND[exchange.format].stream_decoder(call()),
            INBOUND[dialect].stream_encoder(call()),
        )
        cuts = range(0, len(exchange.body), size)
        return b"".join(stream.feed(exchange.body[i : i + size]) for i in cuts) + stream.close()

    assert translated(37) == translated(len(exchange.body))


@pytest.mark.parametrize(("exchange", "dialect"), pairs([e for e in ALL if is_error(e)]))
def test_an_error_inside_a_stream_ends_it(exchange: Exchange, dialect: str) -> None:
    stream = StreamTranslation(
        OUTBOUND[exchange.format].stream_decoder(call()), INBOUND[dialect].stream_encoder(call())
    )
    raw = stream.feed(exchange.body) + stream.close()

    assert stream.failed is not None
    assert not stream.complete
    assert stream.failed.message.encode() in raw


@pytest.mark.parametrize("exchange", named([e for e in ALL if e.status >= 400]))
def test_an_error_is_read(exchange: Exchange) -> None:
    error = OUTBOUND[exchange.format].decode_error(exchange.status, exchange.headers, exchange.body)

    assert error.status == exchange.status
    assert error.message in exchange.body.decode() or "raw" in exchange.body.decode()


@pytest.mark.parametrize("target_format", OUTBOUND)
@pytest.mark.parametrize("exchange", named([e for e in ALL if e.format in INBOUND]))
def test_a_request_is_translated_or_refused_by_name(exchange: Exchange, target_format: str) -> None:
    if exchange.format == target_format:
        return
    model, provider = TARGETS[target_format]
    translation = Translation(exchange.format, target_format, call_id="0198-aa", created=1)
    target = TargetInfo(model, provider, capabilities_of(model))
    refused: TranslationError | None = None
    try:
        encoded = translation.request(exchange.request, target, model="m")
    except TranslationError as error:
        refused = error
    if refused is not None:
        assert refused.code == "translation_unavailable", str(refused)
        assert refused.param
        assert f"`{refused.param}`" in str(refused)
        return

    assert json.dumps(encoded.body)
    assert set(encoded.dropped).isdisjoint({"model", "stream", "max_tokens"})
