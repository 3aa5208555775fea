"""Recorded traffic of providers, where a developer has it beside the repository."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "exchanges"

FORMATS = {
    "openai-chat": "openai-chat",
    "openai-responses": "openai-responses",
    "anthropic-messages": "anthropic-messages",
    "gemini-generateContent": "gemini",
    "gemini-streamGenerateContent": "gemini",
    "bedrock-converse": "bedrock-converse",
    "bedrock-converse-stream": "bedrock-converse",
    "cohere-v2": "cohere-v2",
}


@dataclass(frozen=True)
class Exchange:
    name: str
    format: str
    is_stream: bool
    status: int
    request: dict[str, Any]
    body: bytes

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"application/json")]


def exchanges() -> list[Exchange]:
    """Return all exchanges; none where the folder is absent."""
    found = []
    for name, wire_format in FORMATS.items():
        path = FOLDER / f"{name}.jsonl"
        if not path.exists():
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines()):
            row = json.loads(line)
            answer = row["response"]
            text = answer.get("body")
            body = base64.b64decode(answer["body_base64"]) if text is None else text.encode()
            request = json.loads(row["request"]["body"])
            found.append(
                Exchange(
                    f"{name}-{number}", wire_format, row["stream"], answer["status"], request, body
                )
            )
    return found
