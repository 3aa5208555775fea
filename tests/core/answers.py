"""Answers to meter: those written by hand in `golden/`, and recorded ones where they are at hand.

Frames of AWS event streams are packed and unpacked here independently of the package.
"""

from __future__ import annotations

import base64
import itertools
import json
import struct
import tomllib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asgi_llmgate.core.meter import Metered, StreamMeter, meter_json
from asgi_llmgate.types import Usage
from tests.conftest import DATA

GOLDEN = Path(__file__).parent / "golden"

# How the recordings name what a route calls otherwise.
RECORDED_FORMATS = {
    "anthropic-count": "anthropic-count-tokens",
    "bedrock-converse-stream": "bedrock-converse",
    "gemini-batchEmbedContents": "gemini-embeddings",
    "gemini-countTokens": "gemini-count-tokens",
    "gemini-generateContent": "gemini",
    "gemini-streamGenerateContent": "gemini",
}


@dataclass(frozen=True)
class Case:
    name: str
    format: str
    is_stream: bool
    body: bytes
    provider: str | None = None
    expected: Metered | None = None

    @property
    def id(self) -> str:
        return f"{self.format or 'unknown'}: {self.name}"


def golden() -> list[Case]:
    return [case for path in sorted(GOLDEN.glob("*.toml")) for case in _golden_of(path)]


def _golden_of(path: Path) -> Iterator[Case]:
    document = tomllib.loads(path.read_text())
    for raw in document["case"]:
        usage = raw.get("usage")
        if usage is not None:
            others = tuple((name, count) for name, count in usage.pop("others", ()))
            usage = Usage(**usage, others=others)
        expected = Metered(
            usage,
            raw.get("model"),
            raw["complete"],
            raw.get("failed", False),
            raw.get("output_bytes", 0),
            raw.get("finish_reason"),
            raw.get("error"),
            raw.get("is_provisional", False),
        )
        yield Case(
            raw["name"],
            raw.get("format", document.get("format")),
            raw.get("stream", False),
            _body(raw),
            raw.get("provider"),
            expected,
        )


def _body(raw: dict[str, Any]) -> bytes:
    if "frames" in raw:
        return b"".join(frame(kind, payload.encode()) for kind, payload in raw["frames"])
    if "inner" in raw:
        texts = (base64.b64encode(text.encode()).decode() for text in raw["inner"])
        return b"".join(frame("chunk", json.dumps({"bytes": text}).encode()) for text in texts)
    text: str = raw["body"]
    return text.replace("\n", raw.get("newline", "\n")).encode()


def frame(kind: str, payload: bytes) -> bytes:
    """Pack one message; a `kind` that begins with `!` is an exception."""
    is_exception = kind.startswith("!")
    headers = {
        ":exception-type" if is_exception else ":event-type": kind.removeprefix("!"),
        ":content-type": "application/json",
        ":message-type": "exception" if is_exception else "event",
    }
    packed = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value
        for name, value in ((name, value.encode()) for name, value in headers.items())
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    message = prelude + packed + payload
    return message + struct.pack(">I", zlib.crc32(message))


def payloads_of(body: bytes) -> Iterator[bytes]:
    """Unpack the payloads of an AWS event stream, trusting all lengths."""
    while body:
        total, headers = struct.unpack_from(">II", body)
        yield body[12 + headers : total - 4]
        body = body[total:]


def recorded() -> list[Case]:
    """Return recorded answers with status 200, if there are any on this machine."""
    return [Case(name, wire_format, stream, body) for name, wire_format, stream, body in _all()]


def _all() -> Iterator[tuple[str, str, bool, bytes]]:
    for path in sorted((DATA / "exchanges").glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines()):
            exchange = json.loads(line)
            response = exchange["response"]
            if response["status"] != 200:
                continue
            if "body_base64" in response:
                body = base64.b64decode(response["body_base64"])
            else:
                body = response["body"].encode()
            wire_format = RECORDED_FORMATS.get(exchange["format"], exchange["format"])
            yield f"{path.stem}:{number}", wire_format, exchange["stream"], body


def metered(case: Case, cuts: Iterable[int] | None = None) -> Metered:
    """Meter a case; `cuts` are the places where a stream is cut, none feeds it whole."""
    if not case.is_stream:
        return meter_json(case.format, case.body, case.provider)
    meter = StreamMeter(case.format, provider=case.provider)
    for piece in pieces(case.body, cuts or ()):
        assert meter.feed(piece) is piece
    assert meter.rest() == b""
    return meter.close()


def pieces(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, *(cut for cut in cuts if 0 < cut < len(body)), len(body)})
    return [body[a:b] for a, b in itertools.pairwise(places)]
