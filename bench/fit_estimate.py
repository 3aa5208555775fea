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
from typing import Any

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
        for line in path.open():
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


def descend(
    start: Sequence[float], grids: Sequence[Sequence[float]], loss: Callable[..., float]
) -> list[float]:
    best, best_loss = list(start), loss(*start)
    improved = True
    while improved:
        improved = False
        for index, grid in enumerate(grids):
            for value in grid:
                tried = [*best[:index], value, *best[index + 1 :]]
                if (tried_loss := loss(*tried)) < best_loss - 1e-9:
                    best, best_loss, improved = tried, tried_loss, True
    return best


def off(estimate: float, counted: int) -> float:
    return abs(estimate - counted) / counted


def guess(size: PromptSize, text: float, schema: float, request: float, tools: float) -> float:
    tokens = size.text_bytes / text + size.schema_bytes / schema + request
    return tokens + (tools if size.has_tools else 0)


def spread(errors: list[float]) -> str:
    if len(errors) < 2:
        return f"{len(errors):5}    -      -"
    p90 = statistics.quantiles(errors, n=10, method="inclusive")[-1]
    return f"{len(errors):5}  {statistics.median(errors):5.0%}  {p90:5.0%}"


def main(folder: Path) -> None:
    found = list(samples(folder))
    ratios = [n / 10 for n in range(20, 121)]
    long_errors: list[float] = []
    print("family   constants (text, schema, request, tools, output) | input | output")
    for family in FAMILIES:
        plain = [s for s in found if s.family == family and s.is_plain and s.input_tokens]

        def input_loss(*constants: float, plain: list[Sample] = plain) -> float:
            return statistics.fmean(
                min(1, off(guess(s.size, *constants), s.input_tokens)) for s in plain
            )

        constants = descend(
            (4, 4, 8, 50), (ratios[10:31], ratios, range(41), range(0, 601, 5)), input_loss
        )
        input_errors = [off(guess(s.size, *constants), s.input_tokens) for s in plain]
        long_errors += [
            error for error, s in zip(input_errors, plain, strict=True) if s.input_tokens > 1000
        ]
        # Tool calls cost far more tokens than their text; what breaks off is mostly prose.
        written = [
            s
            for s in found
            if s.family == family and s.output_bytes >= 100 and s.written_tokens >= 10
        ]

        def output_loss(ratio: float, written: list[Sample] = written) -> float:
            return statistics.fmean(
                min(1, off(s.output_bytes / ratio, s.written_tokens)) for s in written
            )

        (output,) = descend((4,), (ratios,), output_loss)
        output_errors = [off(s.output_bytes / output, s.written_tokens) for s in written]
        print(
            f"{family:8} {[*constants, output]} | {spread(input_errors)} | {spread(output_errors)}"
        )
    print(f"inputs over 1,000 tokens: {spread(long_errors)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
