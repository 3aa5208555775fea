"""Fit the constants of `core/estimate.py` on recorded traffic, and print how far they are off.

    .venv/bin/python -m bench.fit_estimate [../shared/data]

Each family's constants are searched one after the other until none gets better (coordinate
descent), for the least mean of the relative errors, each capped at 1 so that a provider's hidden
prompt does not decide. The error is that of the fit itself: there is too little traffic to hold
any back.
"""

from __future__ import annotations

import base64
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asgi_llmgate.core.answer import answer_bytes
from asgi_llmgate.core.estimate import FAMILIES, PromptSize, family_of, prompt_size
from asgi_llmgate.core.meter import StreamMeter

FORMATS = {
    "anthropic-messages": "anthropic-messages",
    "bedrock-converse": "bedrock-converse",
    "bedrock-converse-stream": "bedrock-converse",
    "cohere-v2": "cohere-v2",
    "gemini-generateContent": "gemini",
    "gemini-streamGenerateContent": "gemini",
    "openai-chat": "openai-chat",
    "openai-responses": "openai-responses",
}
# Tools that the provider runs itself: their results are input that is not in the request.
HOSTED = re.compile(
    r'"type": ?"(?:web_search|web_fetch|code_exec|tool_search|mcp|file_search|advisor|computer'
    r"|image_gen|openrouter:)|googleSearch|urlContext|fileSearch|codeExecution|mcp_servers|plugins"
    r"|cachedContent|previous_response_id|fileData"
)


@dataclass(frozen=True)
class Sample:
    family: str
    size: PromptSize
    input_tokens: int
    output_bytes: int
    written_tokens: int
    is_plain: bool


def samples(folder: Path) -> Iterator[Sample]:
    for path in sorted(folder.glob("exchanges/*.jsonl")):
        for line in path.read_text().splitlines():
            exchange = json.loads(line)
            wire_format = FORMATS.get(exchange["format"])
            response = exchange["response"]
            if wire_format is None or response["status"] != 200:
                continue
            sample = _sample(exchange, wire_format, response)
            if sample is not None:
                yield sample


def _sample(exchange: Any, wire_format: str, response: Any) -> Sample | None:
    if "body_base64" in response:
        body = base64.b64decode(response["body_base64"])
    else:
        body = response["body"].encode()
    meter = StreamMeter(wire_format)
    meter.feed(body)
    metered = meter.close()
    usage = metered.usage
    if usage is None:
        return None
    output_bytes = metered.output_bytes or (
        0 if exchange["stream"] else answer_bytes(json.loads(body))
    )
    text = exchange["request"]["body"]
    size = prompt_size(json.loads(text))
    model = metered.model or exchange["model"] or exchange["request"]["path"]
    return Sample(
        family_of(model),
        size,
        usage.input_tokens,
        output_bytes,
        # Where reasoning is counted apart it was mostly not shown.
        usage.output_tokens - usage.reasoning_tokens,
        not (HOSTED.search(text) or size.images or size.pages or size.audio_bytes),
    )


@dataclass(frozen=True)
class Spread:
    """Of relative errors: 0.1 is 10 % off, above or below."""

    calls: int
    median: float
    p90: float

    def __str__(self) -> str:
        return f"{self.calls:5} {self.median:7.0%} {self.p90:5.0%}"


class Row(NamedTuple):
    input: Spread
    output: Spread


def report(folder: Path) -> dict[str, Row]:
    """Return how far the constants of `core/estimate.py` are off, by family."""
    found = list(samples(folder))
    rows = {}
    for name, family in FAMILIES.items():
        constants = (
            family.text_bytes,
            family.schema_bytes,
            family.request_tokens,
            family.tools_tokens,
        )
        rows[name] = Row(
            spread([off(guess(s.size, *constants), s.input_tokens) for s in plain(found, name)]),
            spread(
                [
                    off(s.output_bytes / family.output_bytes, s.written_tokens)
                    for s in written(found, name)
                ]
            ),
        )
    return rows


def plain(found: list[Sample], family: str) -> list[Sample]:
    return [s for s in found if s.family == family and s.is_plain and s.input_tokens]


def written(found: list[Sample], family: str) -> list[Sample]:
    """Return answers of some length: what breaks off is mostly prose, not a short tool call."""
    return [
        s for s in found if s.family == family and s.output_bytes >= 100 and s.written_tokens >= 10
    ]


def descend(
    start: Sequence[float], grids: Sequence[Sequence[float]], loss: Callable[[list[float]], float]
) -> list[float]:
    best, best_loss = list(start), loss(list(start))
    improved = True
    while improved:
        improved = False
        for index, grid in enumerate(grids):
            for value in grid:
                tried = [*best[:index], value, *best[index + 1 :]]
                if (tried_loss := loss(tried)) < best_loss - 1e-9:
                    best, best_loss, improved = tried, tried_loss, True
    return best


def off(estimate: float, counted: int) -> float:
    return abs(estimate - counted) / counted


def guess(size: PromptSize, text: float, schema: float, request: float, tools: float) -> float:
    tokens = size.text_bytes / text + size.schema_bytes / schema + request
    return tokens + (tools if size.has_tools else 0)


def spread(errors: list[float]) -> Spread:
    p90 = statistics.quantiles(errors, n=10, method="inclusive")[-1]
    return Spread(len(errors), statistics.median(errors), p90)


def fit(found: list[Sample], family: str) -> list[float]:
    """Return bytes per token of text and schema, tokens per request and tools, bytes of output."""
    ratios = [n / 10 for n in range(20, 121)]
    prompts, answers = plain(found, family), written(found, family)

    def input_loss(constants: list[float]) -> float:
        return statistics.fmean(
            min(1, off(guess(s.size, *constants), s.input_tokens)) for s in prompts
        )

    def output_loss(ratio: list[float]) -> float:
        return statistics.fmean(
            min(1, off(s.output_bytes / ratio[0], s.written_tokens)) for s in answers
        )

    # No tokenizer makes less than 3 or more than 5 bytes of prose a token.
    grids = (ratios[10:31], ratios, range(41), range(0, 601, 5))
    return descend((4, 4, 8, 50), grids, input_loss) + descend((4,), (ratios,), output_loss)


def main(folder: Path) -> None:
    found = list(samples(folder))
    print("fitted: text, schema, request, tools, output")
    for family in FAMILIES:
        print(f"{family:8} {fit(found, family)}")
    print("\nin use       input: calls, median, p90    output: calls, median, p90")
    for family, row in report(folder).items():
        print(f"{family:8} {row.input!s:>28} {row.output!s:>28}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
