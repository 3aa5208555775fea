"""Metrics as text for Prometheus.

Source: Prometheus exposition formats, text format 0.0.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["CONTENT_TYPE", "NAME", "Family", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one metric.

    Args:
        name: As samples of counters and gauges are called.
        kind: `counter`, `gauge` or `histogram`.
        help: One sentence.
        samples: Suffix (`_bucket`, `_sum`, `_count` of a histogram, else empty), labels in
            order, value.
    """

    name: str
    kind: str
    help: str
    samples: list[tuple[str, tuple[tuple[str, str], ...], float]]


def exposition(families: Iterable[Family]) -> bytes:
    """Return the text of a scrape, UTF-8."""
    lines: list[str] = []
    for family in families:
        text = family.help.replace("\\", r"\\").replace("\n", r"\n")
        lines.append(f"# HELP {family.name} {text}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            inside = ",".join(f'{name}="{_escape(text)}"' for name, text in labels)
            braces = f"{{{inside}}}" if inside else ""
            lines.append(f"{family.name}{suffix}{braces} {value}")
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
